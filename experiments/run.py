"""Starts a run or, with -m, a sweep; takes up a run with `resume=<run folder>`.

The run itself is imported last: `--help`, `--cfg job` and a mistyped key must not wait for torch.
"""

import os
import sys
from argparse import Namespace
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.cli import (
    FULL_ERROR,
    USER,
    UserError,
    command,
    exit_codes,
    one_line,
    signals,
    user_mistakes,
)
from experiments.config import arguments, words
from experiments.config.compose import check_options, check_run, compose, compose_saved, options
from experiments.config.effects import refuse_single
from experiments.config.explain import explain
from experiments.config.renamed import renew_config
from experiments.files import CONF
from experiments.runs.beginning import begin
from experiments.runs.names import run_name
from experiments.sweep.first import first_point, told_to_sweeper


def _task(cfg: DictConfig) -> float:
    from experiments.runs.story import run

    renew_config(cfg)
    runtime = HydraConfig.get()
    overrides = list(runtime.overrides.task)
    many = runtime.mode == RunMode.MULTIRUN  # Hydra's own sweeper
    choices = options(runtime)
    name, folder = run_name(overrides, choices, cfg.seed), Path(runtime.runtime.output_dir)
    with exit_codes():
        began = command("run", *overrides) if many else ""
        return run(
            cfg, folder, overrides=overrides, name=name, command=began, choices=choices, begun=not many
        )


def main() -> None:
    """Run the command line: Hydra's own, with every mistake found and told before anything starts."""
    with exit_codes():
        signals.catch()
        with user_mistakes():
            _refuse_several_processes()
            args = arguments.read(sys.argv[1:])
        if args.resume is not None:
            _resume(args)
            return
        with user_mistakes():
            check_options(
                args.overrides, config_name=args.config_name or "config", config_dir=args.config_dir
            )
        shows = args.help or args.hydra_help or args.cfg or args.info or args.shell_completion
        folder = [] if shows or args.multirun else [_begun(args)]
        _have_hydra_raise()
        sys.argv[1:] = [*folder, *(word for word in args.words if not (folder and words.is_place(word)))]
        first = _first_point(args) if args.multirun and not shows else {}
        try:
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(_task)()
        except (HydraException, OmegaConfBaseException) as error:
            at = f" (at point {' '.join(first.values())})" if first else ""
            raise UserError(f"{explain(error)}{at}") from error
        except OSError as error:
            if args.multirun:
                raise
            place = "give another place by hydra.run.dir=<folder>"  # Hydra makes it before the run does
            raise OSError(f"the run folder cannot be made: {one_line(error)}; {place}") from error
        except SystemExit as end:  # `--cfg job --package nothing`, which Hydra has told
            raise SystemExit(USER if end.code == 1 and args.cfg else end.code) from None


def script() -> None:
    """Be `cifar-sweeps`, which finds your own modules in the current folder, as `python -m` does."""
    if not sys.flags.safe_path:
        sys.path[0] = os.getcwd()
    main()


def _begun(args: Namespace) -> str:
    """Check a single run and say its first line; return the word that has Hydra make that folder."""
    places = []

    def first(cfg: DictConfig, folder: Path) -> None:
        begin(cfg, folder)
        places.append(folder)

    with user_mistakes():
        refuse_single(args.overrides)
        compose(
            args.overrides,
            config_name=args.config_name or "config",
            config_dir=args.config_dir,
            single=True,
            first=first,
        )
    return f"hydra.run.dir={words.quoted(str(places[0]))}"


def _have_hydra_raise() -> None:
    """Have Hydra raise instead of printing and exiting with 1: here alone, not in what a sweep starts."""
    if not FULL_ERROR:
        os.environ["HYDRA_FULL_ERROR"] = "1"  # as Hydra asks
        os.unsetenv("HYDRA_FULL_ERROR")  # as a process inherits it


def _refuse_several_processes() -> None:
    """Raise ValueError under torchrun with several processes, each of which would do all of the work.

    It gives each of them these three; a batch system sets others, or one of them alone.
    """
    count = os.environ.get("WORLD_SIZE", "")
    if count.isdigit() and int(count) > 1 and {"RANK", "MASTER_ADDR"} <= os.environ.keys():
        raise ValueError(
            f"torchrun must start one process, got WORLD_SIZE={count}: a run uses one GPU; "
            "without torchrun, a sweep (-m) uses all of them, one a trial"
        )


def _resume(args: Namespace) -> None:
    """Take up the run that ``resume=`` names or, with --cfg, show what would be taken up."""
    with user_mistakes():
        folder = words.folder(args.resume)
        check_run(folder)  # before torch is imported
        if args.cfg:
            print(OmegaConf.to_yaml(compose_saved(folder, args.overrides), resolve=args.resolve), end="")
            return
        compose_saved(folder, [word for word in args.overrides if not words.is_place(word)], first=begin)
    from experiments.runs.story import resume

    resume(folder, args.overrides)


def _first_point(args: Namespace) -> dict[str, str]:
    """Put the first option of every swept group into the command line, for Hydra to compose what is fixed."""
    if any(word.startswith("hydra/sweeper=") for word in args.overrides):
        return {}
    first = first_point(args.overrides, args.config_dir)
    if first:
        sys.argv[1:] = [told_to_sweeper(first), *(first.get(word, word) for word in sys.argv[1:])]
    return first


if __name__ == "__main__":
    main()
