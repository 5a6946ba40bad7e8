"""Starts a run or, with -m, a sweep; takes up a run with `resume=<run folder>`.

The run itself is imported last: `--help`, `--cfg job` and a mistyped key must not wait for torch.
"""

import os
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from experiments.cli import UserError, exit_codes, one_line, signals, user_mistakes
from experiments.config.compose import compose
from experiments.config.effects import refuse_single
from experiments.config.explain import explain
from experiments.config.renamed import renew_config
from experiments.files import CONF


def _task(cfg: DictConfig) -> float:
    from experiments.runs.story import run

    renew_config(cfg)
    runtime = HydraConfig.get()
    name = runtime.job.override_dirname.replace(",", " ") if runtime.mode == RunMode.MULTIRUN else ""
    with exit_codes():
        return run(cfg, Path(runtime.runtime.output_dir), overrides=list(runtime.overrides.task), name=name)


def main() -> None:
    """Run the command line: Hydra's own, with every mistake found and told before anything starts."""
    with exit_codes():
        signals.catch()
        args = get_args_parser().parse_args()
        asks = args.help or args.hydra_help or args.cfg or args.info or args.shell_completion or args.multirun
        folder = next((word for word in args.overrides if word.startswith("resume=")), None)
        if folder is not None and not asks:
            from experiments.runs.story import resume

            resume(Path(folder.removeprefix("resume=")), [word for word in args.overrides if word != folder])
            return
        if not asks and not any(override.startswith("hydra.mode=") for override in args.overrides):
            with user_mistakes():
                refuse_single(args.overrides)
                compose(args.overrides, config_name=args.config_name or "config", config_dir=args.config_dir)
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing and exiting with 1
        try:
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(_task)()
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(explain(error)) from error
        except OSError as error:
            if args.multirun:
                raise
            place = "give another place by hydra.run.dir=<folder>"  # Hydra makes it before the run does
            raise OSError(f"the run folder cannot be made: {one_line(error)}; {place}") from error


if __name__ == "__main__":
    main()
