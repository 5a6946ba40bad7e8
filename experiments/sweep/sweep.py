"""A sweep from its arguments to its report: what `python -m experiments.run -m` does."""

import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.utils import get_object
from omegaconf import DictConfig

from cifar_core.data.present import check_present
from cifar_core.processes import cores
from experiments.cli import this_command, user_mistakes
from experiments.config.renamed import renew_config
from experiments.config.settings import SweepSettings
from experiments.config.values import plain, settings
from experiments.runs.names import SEED
from experiments.sweep.backends.backend import Backend
from experiments.sweep.backends.local import Local, Slots, share_out
from experiments.sweep.backends.slurm import Slurm
from experiments.sweep.closing import closing
from experiments.sweep.controller import Controller
from experiments.sweep.ending import Record, refit, say, test
from experiments.sweep.gpus import meant
from experiments.sweep.home import SWEEPS, Home, begun_with_fewer_seeds, sweep_name
from experiments.sweep.ledger import Ledger
from experiments.sweep.origin import keep, kept, move, moved
from experiments.sweep.server import Server
from experiments.sweep.space import Files, Space, parse, watches
from experiments.sweep.winner import winner
from experiments.tracking.views import TEST, VALIDATION, SweepView


def sweep(arguments: Sequence[str], cfg: DictConfig, loader: ConfigLoader, *, config_dir: str | None) -> None:
    """Run the sweep that ``arguments`` describe, or what is left of it; ``cfg`` holds what is fixed.

    Ends the process with code 1 unless every point is finished or pruned. Raises UserError for a mistake,
    before the first trial.
    """
    renew_config(cfg)
    now: Files = {
        "config_name": cfg.hydra.job.config_name,
        "config_dir": config_dir,
        "allowed": list(cfg.security.allowed_targets),
    }
    with tempfile.TemporaryDirectory() as scratch:
        code = _sweep(arguments, cfg, loader, now, Path(scratch))
    if code:
        raise SystemExit(code)


def _sweep(arguments: Sequence[str], cfg: DictConfig, loader: ConfigLoader, now: Files, scratch: Path) -> int:
    with user_mistakes():
        space, options, name, home = _asked(arguments, cfg, loader)
        if options.backend == "local" and not home.is_begun:
            check_present(settings(cfg).data)  # before the server takes seconds to import torch
        tracked = records(cfg)
        server = Server(tracked=tracked)
        extra = [f"sweep.name={name}", *(["trainer.test=false"] if options.test in ("best", "none") else [])]
        files = kept(now, home.path) or keep(now, scratch)
        against = _checked(server, space, options, files, now, home, extra)
        backend = _backend(server, options, space, cfg, moved(files, home.path), home)
        home.open(_identity(space, options))
        home.begin(this_command(), options.sampler)

    def ready() -> None:
        if against is not None:
            raise against
        move(scratch, home.path)

    with home:
        print(f"sweep folder  {home.path}", file=sys.stderr)
        record = Record(
            server, home.path, plain(cfg)["tracking"] if tracked else None, _view(space, options, cfg)
        )
        tags = record.open()
        ledger = Ledger(home.ledger, options, epochs=cfg.trainer.epochs)
        parts = (space, options, home, ledger, backend)
        controller = Controller(*parts, extra=extra, tags=tags, ready=ready, live=record.live)
        try:
            code = controller.run()
            won = winner(controller.trials) if controller.is_over else []
            if options.refit:
                refit(won, space, backend, home.path, ready=ready, meanwhile=controller.keep_page)
            elif options.test == "best":
                test(won, server, cfg)
        finally:
            record.close(controller.trials, controller.total)
            error = sys.exception()  # after a signal the command line tells how to go on
            stopped = isinstance(error, KeyboardInterrupt) or (against is not None and error is against)
            again = not controller.is_complete and not stopped
            for line in closing(controller.trials, again=again):
                say(line)
    return code


def _asked(
    arguments: Sequence[str], cfg: DictConfig, loader: ConfigLoader
) -> tuple[Space, SweepSettings, str, Home]:
    """Return what to sweep and how, the sweep's name and its folder, which is opened where it has begun."""
    space = parse(arguments, loader, cfg.sweep.zip)
    for dimension in space.dimensions:
        if dimension.again:
            say(f"{dimension.name}: {', '.join(dimension.again)} is there twice and runs once")
    options = _chosen(settings(cfg).sweep, space, cfg)
    identity = _identity(space, options)
    name = options.name or sweep_name(space, identity)
    if not options.name and _folder(cfg, name) == SWEEPS / name and not Home(SWEEPS / name).is_begun:
        name = begun_with_fewer_seeds(SWEEPS, name, identity, space.lists)
    home = Home(_folder(cfg, name))
    if home.is_begun:  # now, for the checks take seconds
        for key in home.open(identity, _growing(space, options, home)):
            say(f"{key} has more values now, and the sweep goes on with them")
    return space, options, name, home


def _checked(
    server: Server,
    space: Space,
    options: SweepSettings,
    files: Files,
    now: Files,
    home: Home,
    extra: Sequence[str],
) -> Exception | None:
    """Check all points; return why no trial may start, where a sweep that has begun does not allow it."""
    if not home.is_begun:
        server.call("check_points", space, options, files)
        return None
    begun = next((t for t in home.trials().values() if (t.folder / "config.yaml").exists()), None)
    trial = begun and ([*space.overrides(begun.point), *extra], begun.folder)
    told, against = server.call("check_again", space, options, files, now, trial)
    if told:
        say(told)
    return against


def _chosen(options: SweepSettings, space: Space, cfg: DictConfig) -> SweepSettings:
    """Return the settings with every `auto` decided; raise ValueError where they do not fit the space."""
    sampler = options.sampler
    if sampler == "auto":
        sampler = "grid" if space.discrete else "tpe"
    test = options.test
    if not cfg.trainer.test:
        test = "none"
    elif test == "auto":
        test = "all" if sampler == "grid" else "best"
    chosen = dataclasses.replace(options, sampler=sampler, test=test)
    _laws(chosen, space, cfg)
    return chosen


def _laws(options: SweepSettings, space: Space, cfg: DictConfig) -> None:
    if options.sampler == "grid" and not space.discrete:
        raise ValueError(
            "sweep.sampler=grid needs lists or ranges, and here is an interval: use tpe or random"
        )
    if options.sampler == "grid" and options.add_trials:
        raise ValueError("sweep.add_trials is for a search: a grid runs all of its points")
    for key in ("sweep.n_trials", "sweep.sampler_seed"):
        if options.sampler == "grid" and key in space.fixed:
            raise ValueError(
                f"{key} is for a search, and a grid runs all of its points: sweep.sampler=random takes some"
            )
    if options.sampler != "grid" and not space.searched:
        raise ValueError(f"sweep.sampler={options.sampler} needs something to search besides the seed")
    if options.sampler == "cmaes":
        choices = [d.name for d in space.searched if d.texts is not None]
        if choices:
            raise ValueError(
                f"sweep.sampler=cmaes searches intervals and ranges, and {choices[0]} is a list: use tpe"
            )
    if cfg.trainer.keep == "none" and options.test == "best":
        raise ValueError(
            "trainer.keep must be best or all for sweep.test=best, which needs the winner's weights"
        )


def _identity(space: Space, options: SweepSettings) -> dict[str, Any]:
    """Return what a sweep's folder must agree on, by key."""
    return space.identity() | {"sweep.zip": ",".join(options.zip), "sweep.test": options.test}


def _growing(space: Space, options: SweepSettings, home: Home) -> dict[str, tuple[str, ...]]:
    """Return the lists that may have more values when a sweep is taken up again: in a search the seeds alone.

    The first seed, by which a pruner judges a point, must stay.
    """
    lists = space.lists
    if options.pruner != "none" and SEED in lists and home.seeds[:1] != [lists[SEED][0]]:
        del lists[SEED]
    return lists if options.sampler == "grid" else {key: lists[key] for key in (SEED,) if key in lists}


def _folder(cfg: DictConfig, name: str) -> Path:
    given = any(override.startswith("hydra.sweep.dir=") for override in cfg.hydra.overrides.hydra)
    return Path(cfg.hydra.sweep.dir) if given else SWEEPS / name


def _view(space: Space, options: SweepSettings, cfg: DictConfig) -> SweepView:
    """Return what the tracker's page of the trials shows."""
    keys = [key.lstrip("+~") for dimension in space.searched for key in dimension.keys]
    judged = VALIDATION if cfg.data.val_size else TEST
    return SweepView(keys, judged, options.test != "none", cfg.analysis.watch > 0 and watches(space.fixed))


def records(cfg: DictConfig) -> bool:
    """Ask the tracker's class whether it records anything; one that does not say so does."""
    name = str(cfg.tracking.get("_target_"))
    if not name.startswith(("experiments.tracking.", *cfg.security.allowed_targets)):
        return False  # the check of the points refuses it, and until then it is not imported
    try:
        return bool(getattr(get_object(name), "records", True))
    except Exception:  # an import can fail in any way; the check tells of it
        return False


def _backend(
    server: Server, options: SweepSettings, space: Space, cfg: DictConfig, files: Files, home: Home
) -> Backend:
    """Return the backend that `sweep.backend` names."""
    if options.backend == "slurm":
        return Slurm(options, files, home.path / "slurm")
    return Local(server, _slots(server, options, space, cfg), files, options.timeout)


def _slots(server: Server, options: SweepSettings, space: Space, cfg: DictConfig) -> Slots:
    device = str(cfg.trainer.device)
    gpus = meant(device, server.call("gpu_names") if device != "cpu" else [])
    points = space.size if options.sampler == "grid" else max(options.n_trials, options.add_trials)
    most = points if options.sampler == "grid" else points * len(space.seeds)
    return share_out(options, gpus=gpus, cores=cores(), most=most)
