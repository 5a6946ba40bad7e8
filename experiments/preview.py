"""Shows what a configuration would do before it runs: `python -m experiments.preview aug=cutout data=digits`.

Writes augmentation.png (the recipe on training pictures, run in batches and by Albumentations, and the same
draws by both with what differs), mixing.png where `aug.batch` mixes, and schedule.png (lr over the training).
With data=folder it prints what was found: pictures by class and split, sizes, modes, files passed over,
copies, pictures under two labels, mean and std to paste.
"""

from pathlib import Path

from experiments import cli
from experiments.cli import exit_codes, user_mistakes
from experiments.config.arguments import check_tool
from experiments.config.compose import compose


def main() -> None:
    """Run the command line."""
    parser = cli.parser("experiments.preview", __doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", help="as for experiments.run: aug=cutout data=digits ...")
    parser.add_argument("--out", type=Path, default=Path("preview"), help="folder for the sheets")
    arguments = parser.parse_intermixed_args()
    from experiments.tools.preview import preview

    with exit_codes():
        with user_mistakes():
            check_tool(arguments.overrides)
            cfg = compose(arguments.overrides)
        for path in preview(cfg, arguments.out, tell=print):
            print(path)


if __name__ == "__main__":
    main()
