"""Writes the report of a sweep anew, as HTML, CSV and Markdown, or the analysis of a run."""

from pathlib import Path

from experiments import cli
from experiments.cli import exit_codes, user_mistakes


def main() -> None:
    """Write the report of the sweep or run in the folder given and print where it lies."""
    parser = cli.parser("experiments.report", __doc__)
    parser.add_argument(
        "folder", type=Path, help="of a sweep, as in sweeps/<name>, or of a run, as in runs/<date>/<run>"
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="KEY=VALUE",
        help="security.allowed_targets=[my_package.] for a run with a network of your own",
    )
    arguments = parser.parse_intermixed_args()
    folder = arguments.folder.resolve()
    with exit_codes():
        with user_mistakes():
            if (folder / "config.yaml").exists():  # only a run has it
                from experiments.tools.evaluation import redraw

                paths = redraw(folder, arguments.words)
            else:
                from experiments.sweep.report import write

                paths = write(folder)
        print("\n".join(map(str, paths)))


if __name__ == "__main__":
    main()
