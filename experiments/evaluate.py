"""Evaluates the saved weights of a run again, on its own pictures or on others with the same classes."""

import logging
from pathlib import Path

from experiments import cli
from experiments.cli import exit_codes, signals, user_mistakes

EXAMPLES = """examples:
  python -m experiments.evaluate runs/2026-01-31/12-00-00_resnet18
  python -m experiments.evaluate <run folder> data=folder data.root=my_pictures split=all
  python -m experiments.evaluate <run folder> checkpoint=last analysis=light trainer.device=cpu

Classes are matched by name, in whatever order the other data lists them; it may have only some of them.
Of a folder the test folder is judged (split=all: everything); class folders alone are all judged, but of the
run's own the share that it kept for its test.
Pictures are resized and normalised as the run's own were (data.image_size, data.mean, data.std).
"""


def main() -> None:
    """Run the command line."""
    parser = cli.parser("experiments.evaluate", __doc__, EXAMPLES)
    parser.add_argument(
        "run", type=Path, metavar="RUN_FOLDER", help="folder of a run, as in runs/<date>/<run>"
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="KEY=VALUE",
        help="data=..., data.*, analysis=..., analysis.*, trainer.device and the like; checkpoint=best|last "
        "(default best); split=test|val|all (default: what the run was judged on; all needs picture files)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="default: <run folder>/evaluations/<what was evaluated>"
    )
    arguments = parser.parse_intermixed_args()
    from experiments.tools.evaluation import evaluate, lines, request

    logging.basicConfig(format="%(message)s")
    logging.getLogger("cifar_core").setLevel(logging.INFO)
    with exit_codes():
        signals.catch()
        with user_mistakes():
            asked = request(arguments.run, arguments.words)
        print("\n".join(lines(asked, *evaluate(asked, arguments.out))))


if __name__ == "__main__":
    main()
