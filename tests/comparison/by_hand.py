"""Run folders made by hand, and what a comparison of them wrote."""

import csv
import json
from pathlib import Path

import numpy as np
import yaml

from experiments.comparison.groups import compare
from experiments.comparison.read import read, run_folders

LABELS = np.arange(60) % 3


def make(
    folder: Path,
    *,
    seed: int = 0,
    lr: float = 0.1,
    val: float | None = 0.8,
    status: str = "finished",
    wrong: tuple[int, ...] = (),
    data: str = "d1",
    val_size: float = 0.1,
    words: tuple[str, ...] = (),
    **trainer: object,
) -> Path:
    """Write what a run writes: `wrong` are the rows predicted as the class after the right one."""
    folder.mkdir(parents=True)
    fair = val is not None
    config = {"seed": seed, "optimizer": {"lr": lr}, "trainer": {"epochs": 2, "device": "cpu", **trainer}}
    config["data"] = {"source": "digits", "root": str(folder), "val_size": val_size if fair else 0}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "overrides.yaml").write_text(yaml.safe_dump([f"optimizer.lr={lr}", f"seed={seed}", *words]))
    (folder / "environment.json").write_text(json.dumps({"data": data, "device": "cpu"}))
    split = "val" if fair else "test"
    header = f"epoch,step,train/loss,{split}/acc,seconds,images_per_second\n"
    (folder / "metrics.csv").write_text(header + f"1,10,2.0,0.5,3.0,100\n2,20,1.0,{val or 0.7},2.0,200\n")
    if status == "unfinished":
        return folder
    preds = LABELS.copy()
    preds[list(wrong)] = (preds[list(wrong)] + 1) % 3
    metrics = {"test/acc": float((preds == LABELS).mean())} | ({"val/acc_best": val} if fair else {})
    protocol = "validation" if fair else "test_each_epoch"
    result = {"status": status, "metrics": metrics, "protocol": protocol, "error": "why <b>not</b> | so"}
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "analysis").mkdir()
    (folder / "analysis" / "metrics.json").write_text(json.dumps({"split": "test"}))
    np.savez(
        folder / "analysis" / "predictions.npz",
        labels=LABELS,
        logits=np.eye(3, dtype=np.float32)[preds],
        index=np.arange(100, 160),
        classes=np.array(["cat", "dog", "<i>owl</i>"]),
        names=np.array([f"test/{row}.png" for row in range(60)]),
    )
    return folder


def compared(root: Path):
    return compare(read(folder) for folder in run_folders([root]))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
