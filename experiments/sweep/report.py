"""How is a sweep told? As HTML, Markdown and CSV, written from its folder alone."""

import base64
import html
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from optuna.importance import FanovaImportanceEvaluator, get_param_importances

from experiments.comparison.groups import Comparison, compare
from experiments.comparison.markdown import note
from experiments.comparison.read import BEST, TEST
from experiments.comparison.verdict import verdict
from experiments.comparison.verdict import warnings as warned
from experiments.files import csv_text, write_text
from experiments.sweep import figures
from experiments.sweep.commands import state
from experiments.sweep.home import Home
from experiments.sweep.ledger import saved_study
from experiments.sweep.runs import runs_of, table
from experiments.sweep.trials import Trial

RELOAD_SECONDS = 30
MISSED = 20  # pictures listed that no trial has right
STYLE = """
body { font: 15px/1.5 sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto }
th, td { padding: .2rem .6rem; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap }
img { max-width: 100% } pre { background: #f5f5f5; padding: .6rem; overflow-x: auto; font-size: 12px }
.best { background: #fdf3d0 }
"""


def write(folder: Path, *, live: bool = False, total: int = 0) -> list[Path]:
    """Write report.html, report.md and trials.csv into a sweep's folder; return their paths.

    A page of a sweep that runs (``live``) says how far it is, of ``total`` trials (0: nobody knows), and
    reloads itself. Raises FileNotFoundError where the folder holds no trial.
    """
    home = Home(folder)
    trials = list(home.trials().values())
    if not trials:
        raise FileNotFoundError(f"{folder} is not the folder of a sweep: it has no <trial>/trial.json")
    rows, comparison = table(trials), compare(runs_of(trials))
    paths = [folder / "report.html", folder / "report.md", folder / "trials.csv"]
    page = _page(folder, trials, rows, comparison, state(home, trials, live=live, total=total))
    if live:
        page = page.replace("<title>", f'<meta http-equiv="refresh" content="{RELOAD_SECONDS}"><title>', 1)
    write_text(paths[0], page)
    write_text(paths[1], note(f"Sweep {folder.name}", comparison))
    write_text(paths[2], csv_text(rows, end="\r\n"))
    return paths


def _page(
    folder: Path,
    trials: Sequence[Trial],
    rows: Sequence[dict[str, Any]],
    comparison: Comparison,
    told: str,
) -> str:
    shares = _importances(folder)
    drawn = {
        "Curves": figures.curves(trials, comparison.best),
        "Importance of the parameters": figures.importances(shares) if shares else None,
        "Each parameter by itself": figures.slices(trials),
        "All parameters together": figures.parallel(trials),
    }
    parts = [
        f"<h1>Sweep {html.escape(folder.name)}</h1><p>{html.escape(verdict(comparison))}</p>",
        f"<p>{html.escape(told)}</p>" if told else "",
        "<h2>Points</h2>",
        _table(_point_cells(comparison), marked=0 if comparison.best else None),
        *(f"<p>{html.escape(line)}</p>" for line in warned(comparison)),
        *(f"<h2>{title}</h2>{_image(figure)}" for title, figure in drawn.items() if figure is not None),
        _agreement(comparison),
        "<h2>Cost</h2>",
        _table([{key: f"{value:,g}" for key, value in comparison.cost.items()}]),
        _failures(comparison),
        "<h2>Trials</h2><p>Best validation accuracy first. A trial goes on, or starts over, with "
        "<code>python -m experiments.run resume=&lt;folder&gt;</code>.</p>",
        _table([_trial_cells(row, folder) for row in rows]),
    ]
    head = (
        f"<!doctype html><meta charset=utf-8><title>{html.escape(folder.name)}</title><style>{STYLE}</style>"
    )
    return head + "\n".join(parts) + "\n"


def _point_cells(comparison: Comparison) -> list[dict[str, str]]:
    """Return the leaderboard; the test figure of the winner alone, so that nobody chooses by it."""
    return [
        {
            "point": c.label,
            "val/acc": str(c.spread(BEST)),
            "95 %": c.spread(BEST).interval,
            "test/acc": str(c.spread(TEST)) if c is comparison.best or c in comparison.apart else "",
            "state": c.state,
        }
        for c in comparison.configurations
    ]


def _trial_cells(row: dict[str, Any], folder: Path) -> dict[str, str]:
    cells = {"trial": f"#{row['trial']}", "name": row["name"], "status": row["status"]}
    acc = row["val/acc_best"]
    cells["val/acc best"] = "" if acc is None else f"{acc:.2%}"
    cells |= {"epochs": str(row["epochs"]), "seconds": f"{row['seconds']:,.1f}"}
    cells |= {"GPU": row["gpu"]} if row["gpu"] else {}
    return cells | {"folder": str(Path(row["folder"]).relative_to(folder)), "run id": row["run_id"]}


def _table(rows: Sequence[dict[str, str]], *, marked: int | None = None) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["<tr>" + "".join(f"<th>{html.escape(name)}</th>" for name in names) + "</tr>"]
    for number, row in enumerate(rows):
        cells = "".join(f"<td>{html.escape(row.get(name, ''))}</td>" for name in names)
        lines.append(f"<tr{' class=best' if number == marked else ''}>{cells}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _failures(comparison: Comparison) -> str:
    parts = [
        f"<p><b>{html.escape(run.name)}</b>: {html.escape(run.error)}</p>"
        f"<pre>{html.escape(chr(10).join(run.log))}</pre>"
        for runs in comparison.failures.values()
        for run in runs
    ]
    return "".join(["<h2>Failures</h2>", *parts]) if parts else ""


def _agreement(comparison: Comparison) -> str:
    alike, missed = comparison.agreement, comparison.missed
    if alike is None or missed is None:
        return ""
    one = comparison.paired[0].pictures
    text = (
        f"{len(comparison.paired)} trials on {len(one.labels):,} pictures: all are right on "
        f"{alike.all_right:.1%}, all wrong on {alike.all_wrong:.1%}; "
        f"two trials give the same answer on {alike.same_answer:.1%}."
    )
    rows = [
        {
            "picture": str(one.index[i]),
            "label": one.classes[one.labels[i]],
            "most frequent answer": one.classes[answer],
            "trials that give it": f"{share:.0%}",
        }
        for i, answer, share in zip(missed.rows, missed.answers, missed.shares, strict=True)
    ]
    more = f" Missed by all, {len(rows[:MISSED])} of {len(rows):,}:" if rows else ""
    return f"<h2>Agreement</h2><p>{text}{more}</p>{_table(rows[:MISSED]) if rows else ''}"


def _importances(folder: Path) -> dict[str, float]:
    """Return fANOVA's importance of each parameter, empty where there are too few finished trials."""
    try:
        study = saved_study(folder / "ledger.jsonl")
    except (KeyError, OSError, ValueError):
        return {}
    finished = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
    varied = {key for t in finished for key in t.params if t.params[key] != finished[0].params.get(key)}
    if len(finished) < 4 or len(varied) < 2 or len({trial.value for trial in finished}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parameters with one value
        return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))


def _image(figure: Figure) -> str:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return f'<img src="data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}">'
