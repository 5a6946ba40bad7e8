"""The epochs of a run, a row each."""

from collections.abc import Sequence

Row = dict[str, float]  # one epoch, as in metrics.csv: epoch, step, train/*, val/* or test/*, lr, ...


def best_epoch(history: Sequence[Row]) -> int:
    """Return the epoch (from 1) of the best validation accuracy, the first of equals; else the last one."""
    return int(best_row(history)["epoch"])


def best_row(history: Sequence[Row]) -> Row:
    """Return the row of `best_epoch`."""
    return max(history, key=lambda row: row.get("val/acc", row["epoch"]))
