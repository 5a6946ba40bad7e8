"""How a sweep chooses its points and where it runs them."""

import math
from dataclasses import dataclass, field

from cifar_core.laws import law, one_of


@dataclass
class SlurmSettings:
    """What a trial asks of Slurm; an empty text or 0 leaves it to the cluster's default."""

    partition: str = ""
    account: str = ""
    qos: str = ""
    gpus: int = 1  # per trial
    cpus: int = 4  # per trial
    mem_gb: float = 0.0  # per trial
    minutes: int = 240  # time limit of a job; a trial that needs longer is requeued and goes on
    on_interrupt: str = "cancel"  # Ctrl-C of the controller: cancel the jobs, or leave them

    def __post_init__(self) -> None:
        for key in ("gpus", "cpus", "mem_gb"):
            law(getattr(self, key) >= 0, f"sweep.slurm.{key}", "at least 0", getattr(self, key))
        law(self.minutes >= 1, "sweep.slurm.minutes", "at least 1", self.minutes)
        one_of("sweep.slurm.on_interrupt", ("cancel", "leave"), self.on_interrupt)


@dataclass
class SweepSettings:
    """How a sweep chooses its points and runs its trials; a single run reads none of it but the name."""

    name: str = ""  # folder and tag; empty = made from the space and the fixed overrides
    sampler: str = "auto"  # auto, grid, random, tpe, cmaes, qmc
    sampler_seed: int = 0
    n_trials: int = 40  # points of a search; a grid runs them all
    add_trials: int = 0  # further points for a search that is there already
    zip: list[str] = field(default_factory=list)  # swept keys whose lists go together, first with first
    pruner: str = "none"  # none, median, asha, hyperband
    prune_after: int = 1  # epochs in which no point is pruned
    test: str = "auto"  # who reads the test set: auto, best, all, none
    refit: bool = False  # train the winner again on train + val and test that
    backend: str = "local"  # local, slurm
    slots: str = "auto"  # trials at a time: auto or a number
    slots_per_gpu: int = 1
    threads: int = 1  # CPU threads of a trial for slots=auto without a GPU
    timeout: float = 0.0  # seconds a trial may take; 0 = any
    on_fail: str = "continue"  # continue, stop
    max_failures: int = 0  # stop after so many failed trials; 0 = never
    retries: int = 1  # further attempts after a kill or out-of-memory
    slurm: SlurmSettings = field(default_factory=SlurmSettings)

    def __post_init__(self) -> None:
        one_of("sweep.sampler", ("auto", "grid", "random", "tpe", "cmaes", "qmc"), self.sampler)
        one_of("sweep.pruner", ("none", "median", "asha", "hyperband"), self.pruner)
        one_of("sweep.test", ("auto", "best", "all", "none"), self.test)
        one_of("sweep.backend", ("local", "slurm"), self.backend)
        one_of("sweep.on_fail", ("continue", "stop"), self.on_fail)
        for key in ("n_trials", "prune_after", "slots_per_gpu", "threads"):
            law(getattr(self, key) >= 1, f"sweep.{key}", "at least 1", getattr(self, key))
        for key in ("sampler_seed", "add_trials", "timeout", "max_failures", "retries"):
            law(getattr(self, key) >= 0, f"sweep.{key}", "at least 0", getattr(self, key))
        law(math.isfinite(self.timeout), "sweep.timeout", "a number of seconds, 0 for any", self.timeout)
        number = self.slots.isdigit() and int(self.slots) >= 1
        law(self.slots == "auto" or number, "sweep.slots", "auto or a number from 1", self.slots)
        law(
            len(set(self.zip)) == len(self.zip) != 1, "sweep.zip", "two or more keys, or none", list(self.zip)
        )
        plain_name = all(c.isalnum() or c in "._-" for c in self.name) and not self.name.startswith(".")
        law(plain_name, "sweep.name", "letters, digits, '.', '_' and '-', not starting with '.'", self.name)
