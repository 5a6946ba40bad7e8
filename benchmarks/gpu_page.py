"""The tables of `benchmarks.gpu`, as Markdown."""

from collections.abc import Iterable, Sequence
from statistics import mean, median
from typing import Any

from benchmarks.gpu import Plan

# Dense bfloat16 TFLOP/s with float32 sums, as NVIDIA's data sheets have them (half of those "with sparsity"),
# by what the card calls itself; the first that fits counts.
PEAKS = {
    "H200 NVL": 835.5,  # H200 data sheet
    "H200": 989.5,
    "H100 NVL": 835.5,  # H100 data sheet
    "H100 PCIe": 756.5,
    "H100 80GB HBM3": 989.5,
    "A100": 312,  # A100 data sheet
    "L40S": 362,  # L40S data sheet
}

OF_STEPS = """\
Augmentation: the time that the recipe takes alone, as a share of the step's. Of the peak: three times the
forward pass's operations, as a share of the card's dense bfloat16 rate (data sheet). Memory: the most that
tensors took, those of the pictures included."""

Row = dict[str, Any]


def page(plan: Plan, content: Row) -> str:
    """Return the page of what a JSON file of `benchmarks.gpu` holds; a cell that it lacks says so."""
    parts = [_head(content), "## A step of training", *_steps(plan, content)]
    parts += ["## The augmentation alone", *_augmentation(plan, content)]
    parts += ["## speedrun94", *_speedrun(plan, content)]
    parts += ["## The analysis of a run", *_analysis(plan, content), *_failures(content)]
    return "\n\n".join(parts) + "\n"


def peak(card: str) -> float | None:
    """Return a card's TFLOP/s, None where it is not in the table or a part of one (MIG)."""
    return None if "MIG" in card else next((peak for name, peak in PEAKS.items() if name in card), None)


def _card(content: Row) -> str:
    return (content.get("gpu") or {}).get("name", "CPU")


def _head(content: Row) -> str:
    machine = content.get("machine", {})
    packages = machine.get("packages", {})
    commit = (machine.get("git") or {}).get("commit", "")[:7]
    card = content.get("gpu") or {}
    versions = f"driver {card.get('driver')}, CUDA {card.get('cuda')}, cuDNN {card.get('cudnn')}, "
    versions += f"torch {packages.get('torch')}"
    return (
        f"# {_card(content)}\n\nWritten by `python -m benchmarks.gpu` ({versions}; last at {commit}). "
        "Medians, with quartiles over n epochs or runs."
    )


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _figures(values: Row, digits: int = 0) -> str:
    """Return a spread in a few words."""
    low, high = (f"{values[name]:,.{digits}f}" for name in ("q1", "q3"))
    return f"{values['median']:,.{digits}f} ({low} to {high}, n={values['n']})"


def _missing(row: Row | None) -> str:
    """Say why a cell has no figures; "" where it has."""
    if row is None or row["status"] == "running":
        return "not measured"
    return "" if row["status"] == "measured" else row["status"]


def _steps(plan: Plan, content: Row) -> list[str]:
    cells = content.get("cells", {})
    lines = []
    for name in plan.cells():
        kind, *rest = name.split("/")
        if kind == "step":
            lines.append(_step(rest, cells.get(name), cells, peak(_card(content))))
    lines.sort(key=lambda line: [plan.models.index(line[0]), int(line[1]), plan.recipes.index(line[2])])
    head = [
        "network",
        "batch",
        "recipe",
        "mode",
        "pictures/s",
        "augmentation, %",
        "of the peak, %",
        "peak, GiB",
    ]
    return [
        _table(head, lines),
        OF_STEPS,
    ]


def _step(place: list[str], row: Row | None, cells: Row, tflops: float | None) -> list[str]:
    model, size, recipe, mode = place
    if why := _missing(row):
        return [model, size, recipe, mode, why, "", "", ""]
    rate = row["pictures_per_second"]["median"]
    alone = cells.get(f"augmentation/{recipe}/{size}", {}).get("pictures_per_second")
    share = f"{100 * rate / alone['median']:.1f}" if alone else ""
    done = rate * row["gflop_per_picture"] / 1000
    of_peak = f"{100 * done / tflops:.1f}" if tflops and row["precision"] == "bfloat16" else ""
    memory = f"{row['peak_memory_gib']:.2f}" if "peak_memory_gib" in row else ""
    return [model, size, recipe, mode, _figures(row["pictures_per_second"]), share, of_peak, memory]


def _augmentation(plan: Plan, content: Row) -> list[str]:
    lines = []
    for name in plan.cells():
        kind, *place = name.split("/")
        if kind == "augmentation":
            row = content.get("cells", {}).get(name)
            lines.append([*place, _missing(row) or _figures(row["pictures_per_second"])])
    return [_table(["recipe", "batch", "pictures/s"], lines)]


def _speedrun(plan: Plan, content: Row) -> list[str]:
    """Return a line a mode: its runs together."""
    cells = content.get("cells", {})
    lines = []
    for mode in plan.modes:
        names = [name for name in plan.cells() if name.startswith(f"speedrun94/{mode}/")]
        runs = [row for name in names if not _missing(row := cells.get(name))]
        if runs:
            seconds = [_smallest_to_largest([run[key] for run in runs]) for key in ("train_s", "process_s")]
            lines.append(
                [mode, *seconds, _mean_percent(runs, "test/acc"), _mean_percent(runs, "test/acc_tta")]
            )
        elif names:
            lines.append([mode, _missing(cells.get(names[0])), "", "", ""])
    head = ["mode", "training, s", "process, s", "test accuracy, %", "with TTA, %"]
    return [_table(head, lines), "Median, smallest and largest over the seeds; mean accuracy."]


def _smallest_to_largest(values: list[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f}, n={len(values)})"


def _mean_percent(runs: list[Row], key: str) -> str:
    """Return the mean of a figure of all runs in percent; "" where they have none."""
    return f"{100 * mean(run[key] for run in runs):.2f}" if key in runs[0] else ""


def _analysis(plan: Plan, content: Row) -> list[str]:
    lines = []
    for level in plan.levels:
        row = content.get("cells", {}).get(f"analysis/{level}")
        if why := _missing(row):
            lines.append([level, why, ""])
        else:
            parts = ", ".join(f"{name} {part['median']:.2f}" for name, part in row["parts"].items())
            lines.append([level, _figures(row["seconds"], 2), parts])
    return [_table(["level", "seconds", "of which"], lines)]


def _failures(content: Row) -> list[str]:
    """Return what went wrong, in the words of each error."""
    cells = content.get("cells", {})
    lines = [f"* `{name}`: {row['error']}" for name, row in cells.items() if row["status"] == "failed"]
    return ["## What failed", "\n".join(lines)] if lines else []
