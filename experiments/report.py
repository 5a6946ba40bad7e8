"""The report of a sweep: `python -m experiments.report <sweep folder>` writes HTML, CSV and Markdown."""

from pathlib import Path

from experiments import cli
from experiments.cli import exit_codes, user_mistakes


def main() -> None:
    """Write the report of the sweep in the folder given and print where it lies."""
    parser = cli.parser("experiments.report", __doc__)
    parser.add_argument("folder", type=Path, help="the folder of a sweep, as in sweeps/<name>")
    folder = parser.parse_args().folder.resolve()
    with exit_codes():
        from experiments.sweep.report import write

        with user_mistakes():
            paths = write(folder)
        print("\n".join(map(str, paths)))


if __name__ == "__main__":
    main()
