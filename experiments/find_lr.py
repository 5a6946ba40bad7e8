"""Finds a learning rate by a range test: `python -m experiments.find_lr model=resnet18 aug=cutout`.

Trains a fresh model for some steps as the run would, under an lr that rises exponentially, and forgets it
again. Writes a plot of loss over lr, the same as CSV beside it, and prints the override to paste.
"""

from pathlib import Path

from experiments import cli
from experiments.cli import exit_codes, signals, user_mistakes
from experiments.config.arguments import check_tool
from experiments.config.compose import compose
from experiments.runs.beginning import check_pictures


def main() -> None:
    """Run the command line."""
    parser = cli.parser("experiments.find_lr", __doc__)
    parser.add_argument("overrides", nargs="*", help="as for experiments.run: model=resnet18 aug=cutout ...")
    parser.add_argument(
        "--start", type=float, default=1e-6, metavar="LR", help="first lr (default %(default)g)"
    )
    parser.add_argument("--end", type=float, default=10.0, metavar="LR", help="last lr (default %(default)g)")
    parser.add_argument("--steps", type=int, default=100, metavar="N", help="optimizer steps (default 100)")
    parser.add_argument(
        "--diverge", type=float, default=4.0, metavar="F", help="end at F times the best loss (default 4)"
    )
    parser.add_argument("--out", type=Path, default=Path("lr.png"), metavar="FILE", help="default lr.png")
    arguments = parser.parse_intermixed_args()
    with exit_codes():
        signals.catch()
        with user_mistakes():
            check_tool(arguments.overrides)
            cfg = compose(arguments.overrides, first=lambda cfg, _: check_pictures(cfg))
        from experiments.tools.lr_search import Search, find_lr

        search = Search(arguments.start, arguments.end, arguments.steps, arguments.diverge)
        print("\n".join(find_lr(cfg, search, arguments.out)))


if __name__ == "__main__":
    main()
