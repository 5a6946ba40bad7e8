"""What the benchmarks of CPU time share: rounds in turn, medians with their spread, the machine."""

import os
import resource
from collections.abc import Callable, Mapping
from statistics import median, quantiles
from typing import Any

import torch

from experiments.runs.environment import environment


def cpu_seconds() -> float:
    """Return what this process and those it has waited for have taken of the CPU."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def interleaved(ways: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Return CPU seconds of each of the ways in every round; a round before the first warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            began = cpu_seconds()
            way()
            if number > 0:
                seconds[name].append(cpu_seconds() - began)
    return seconds


def spread(values: list[float], digits: int = 3) -> dict[str, float]:
    """Return median, quartiles and number of the values, rounded to significant ``digits``."""
    low, _, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    figures = {"median": median(values), "q1": low, "q3": high}
    return {name: float(f"{value:.{digits}g}") for name, value in figures.items()} | {"n": len(values)}


def machine() -> dict[str, Any]:
    """Return what the figures were measured on; ``load`` above 1 says that it did other work too."""
    here = environment()
    named = ("processor", "cpus", "platform", "python", "packages", "git", "command_line")
    return {name: here[name] for name in named} | {
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
    }
