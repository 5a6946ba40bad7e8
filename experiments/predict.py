"""Tells what a trained network sees in your own pictures, of any size and format."""

import argparse
import csv
import io
import sys
from pathlib import Path

from experiments import cli
from experiments.cli import exit_codes, signals, user_mistakes
from experiments.config.compose import trusting
from experiments.runs.folder import CHECKPOINTS
from experiments.runs.names import name_of

COLUMNS = ("file", "class", "confidence", "runner_up", "runner_up_confidence")
UNREADABLE = 1  # exit code where some pictures could not be read
EXAMPLES = """examples:
  python -m experiments.predict runs/2026-01-31/12-00-00_resnet18 cat.jpg holiday/
  python -m experiments.predict <run folder> pictures/ > predictions.csv

A line for each picture goes to standard output as CSV: file, class, confidence, runner_up,
runner_up_confidence. Pictures are squeezed to the run's data.image_size, as in its training.
The network knows its own classes only: a picture of anything else still gets one of them.
"""


def main() -> None:
    """Run the command line."""
    arguments = _arguments()
    from experiments.tools.prediction import load, picture_files, predict_files, write_sheet

    with exit_codes():
        signals.catch()
        with user_mistakes():
            overrides = trusting(arguments.pictures)
            files = picture_files([Path(word) for word in arguments.pictures if word not in overrides])
            predictor = load(
                arguments.run,
                checkpoint=arguments.checkpoint,
                device=arguments.device,
                overrides=overrides,
            )
        for stream in (sys.stdout, sys.stderr):
            if isinstance(
                stream, io.TextIOWrapper
            ):  # a file name that is no text is shown as Python writes it
                stream.reconfigure(errors="backslashreplace")
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(COLUMNS)
        unreadable = 0
        for file, outcome in predict_files(predictor, files, sheet_size=arguments.sheet):
            if isinstance(outcome, str):
                print(f"unreadable: {file}: {outcome}", file=sys.stderr)
                unreadable += 1
            else:
                writer.writerow([file, *outcome])
        if predictor.cards:
            path = arguments.out / "cam_sheet.png"
            write_sheet(predictor, path, total=len(files) - unreadable, run=name_of(arguments.run))
            print(f"CAM sheet: {path}", file=sys.stderr)
        if unreadable:
            print(f"{unreadable} of {len(files)} pictures could not be read", file=sys.stderr)
            raise SystemExit(UNREADABLE)


def _arguments() -> argparse.Namespace:
    parser = cli.parser("experiments.predict", __doc__, EXAMPLES)
    parser.add_argument(
        "run", type=Path, metavar="RUN_FOLDER", help="folder of a run, as in runs/<date>/<run>"
    )
    parser.add_argument(
        "pictures",
        nargs="+",
        metavar="PICTURE",
        help="files, or folders searched with all below; security.allowed_targets=[my_package.] among them "
        "allows a network of your own",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("predictions"),
        metavar="FOLDER",
        help="for the CAM sheet (%(default)s)",
    )
    parser.add_argument(
        "--sheet",
        type=int,
        default=100,
        metavar="N",
        help="show the first N pictures on the CAM sheet; 0 for no sheet (%(default)s)",
    )
    parser.add_argument(
        "--checkpoint", choices=CHECKPOINTS, default="best", help="which weights (%(default)s)"
    )
    parser.add_argument("--device", help="auto, cpu, mps, cuda or cuda:N instead of the run's own")
    arguments = parser.parse_intermixed_args()
    if arguments.sheet < 0:
        parser.error(f"--sheet must be at least 0, got {arguments.sheet}")
    return arguments


if __name__ == "__main__":
    main()
