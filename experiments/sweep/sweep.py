"""A sweep from its arguments to its report: what `python -m experiments.run -m` does."""

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.utils import get_object
from omegaconf import DictConfig

from experiments.cli import user_mistakes
from experiments.config.renamed import renew_config
from experiments.config.settings import SweepSettings
from experiments.config.values import plain, settings
from experiments.sweep.backends.backend import Backend
from experiments.sweep.backends.local import Local, Slots, share_out
from experiments.sweep.backends.slurm import Slurm
from experiments.sweep.controller import Controller
from experiments.sweep.ending import Record, refit, say, test
from experiments.sweep.home import Home, sweep_name
from experiments.sweep.ledger import Ledger
from experiments.sweep.server import Server
from experiments.sweep.space import Files, Space, parse
from experiments.sweep.winner import winner


def sweep(arguments: Sequence[str], cfg: DictConfig, loader: ConfigLoader, *, config_dir: str | None) -> None:
    """Run the sweep that ``arguments`` describe, or what is left of it; ``cfg`` holds what is fixed.

    Ends the process with code 1 unless every point is finished or pruned. Raises UserError for a mistake,
    before the first trial.
    """
    files: Files = {"config_name": cfg.hydra.job.config_name, "config_dir": config_dir}
    renew_config(cfg)
    with user_mistakes():
        space = parse(arguments, loader, cfg.sweep.zip)
        for dimension in space.dimensions:
            if dimension.again:
                say(f"{dimension.name}: {', '.join(dimension.again)} is there twice and runs once")
        options = _chosen(settings(cfg).sweep, space, cfg)
        identity = _identity(space, options)
        name = options.name or sweep_name(space, identity)
        home = Home(_folder(cfg, name))
        if home.is_begun:
            home.open(identity)  # now, for the checks take seconds
        tracked = records(cfg)
        server = Server(tracked=tracked)
        server.call("check_points", space, options, files)
        backend = _backend(server, options, space, cfg, files, home)
        home.open(identity)
    with home:
        print(f"sweep folder  {home.path}", file=sys.stderr)
        record = Record(server, home.path, plain(cfg)["tracking"] if tracked else None)
        tags = record.open()
        extra = [f"sweep.name={name}", *(["trainer.test=false"] if options.test in ("best", "none") else [])]
        ledger = Ledger(home.ledger, options, epochs=cfg.trainer.epochs)
        controller = Controller(space, options, home, ledger, backend, extra=extra, tags=tags)
        try:
            code = controller.run()
            won = winner(controller.trials) if controller.is_over else []
            if options.refit:
                refit(won, space, backend, home.path)
            elif options.test == "best":
                test(won, server, allowed=cfg.security.allowed_targets)
        finally:
            record.close(controller.trials)
    if code:
        raise SystemExit(code)


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


def _folder(cfg: DictConfig, name: str) -> Path:
    given = any(override.startswith("hydra.sweep.dir=") for override in cfg.hydra.overrides.hydra)
    return Path(cfg.hydra.sweep.dir) if given else Path("sweeps") / name


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
    gpus = server.call("gpu_count") if cfg.trainer.device in ("auto", "cuda") else 0
    points = space.size if options.sampler == "grid" else max(options.n_trials, options.add_trials)
    most = points if options.sampler == "grid" else points * len(space.seeds)
    return share_out(options, gpus=gpus, cores=len(os.sched_getaffinity(0)), most=most)
