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

from experiments.files import csv_text, write_text
from experiments.sweep import figures
from experiments.sweep.commands import state
from experiments.sweep.home import Home
from experiments.sweep.ledger import saved_study
from experiments.sweep.summary import PointRow, answers, best, commits, cost, points, shown, table
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
    rows, leaders, won = table(trials), points(trials), best(trials)
    paths = [folder / "report.html", folder / "report.md", folder / "trials.csv"]
    page = _page(folder, trials, rows, leaders, won, state(home, trials, live=live, total=total))
    if live:
        page = page.replace("<title>", f'<meta http-equiv="refresh" content="{RELOAD_SECONDS}"><title>', 1)
    write_text(paths[0], page)
    write_text(paths[1], note(folder, trials, leaders, won))
    write_text(paths[2], csv_text(rows, end="\r\n"))
    return paths


def note(folder: Path, trials: Sequence[Trial], leaders: Sequence[PointRow], won: PointRow | None) -> str:
    """Return the sweep in Markdown: the best point and the ten first of the leaderboard."""
    rows = _point_cells(leaders, won)[:10]
    lines = [f"# Sweep {folder.name}", "", _verdict(won), ""]
    lines += [f"| {' | '.join(rows[0])} |", "|---" * len(rows[0]) + "|"]
    lines += [f"| {' | '.join(row.values())} |" for row in rows]
    lines += ["", _caution(leaders), ", ".join(f"{value:g} {key}" for key, value in cost(trials).items()), ""]
    return "\n".join(lines)


def _verdict(won: PointRow | None) -> str:
    if won is None:
        return "No point is best by validation: none has all its seeds finished with a validation split."
    text = f"Best by validation: {won.label}, val/acc {shown(won.figures['val/acc_best'])}"
    if won.figures["test/acc"]:
        text += f"; its test accuracy: {shown(won.figures['test/acc'])}"
    return f"{text} ({len(won.trials)} seed{'s' if len(won.trials) > 1 else ''})."


def _caution(leaders: Sequence[PointRow]) -> str:
    """Return what must be known of means that lack a seed; empty where there is none."""
    if all(row.is_whole or not row.finished for row in leaders):
        return ""
    return (
        "Points of which not all seeds finished come last and are not ranked: their mean is over the seeds "
        "that finished, and those need not be like the others."
    )


def _states(row: PointRow) -> str:
    return ", ".join(f"{row.statuses.count(s)} {s}" for s in dict.fromkeys(row.statuses))


def _page(
    folder: Path,
    trials: Sequence[Trial],
    rows: Sequence[dict[str, Any]],
    leaders: Sequence[PointRow],
    won: PointRow | None,
    told: str,
) -> str:
    shares = _importances(folder)
    drawn = {
        "Curves": figures.curves(trials, won.trials if won else []),
        "Importance of the parameters": figures.importances(shares) if shares else None,
        "Each parameter by itself": figures.slices(trials),
        "All parameters together": figures.parallel(trials),
    }
    parts = [
        f"<h1>Sweep {html.escape(folder.name)}</h1><p>{html.escape(_verdict(won))}</p>",
        f"<p>{html.escape(told)}</p>" if told else "",
        "<h2>Points</h2>",
        _points_table(leaders, won),
        *(f"<h2>{title}</h2>{_image(figure)}" for title, figure in drawn.items() if figure is not None),
        _agreement(trials),
        "<h2>Cost</h2>",
        _table([{key: f"{value:,g}" for key, value in cost(trials).items()}]),
        _failures(trials),
        "<h2>Trials</h2><p>Best validation accuracy first. A trial goes on, or starts over, with "
        "<code>python -m experiments.run resume=&lt;folder&gt;</code>.</p>",
        _table([_trial_cells(row, folder) for row in rows]),
    ]
    if len(versions := commits(trials)) > 1:
        words = ", ".join(f"{commit} ({count})" for commit, count in versions.items())
        parts.insert(1, f"<p>The trials ran with the code of different commits: {words}.</p>")
    head = (
        f"<!doctype html><meta charset=utf-8><title>{html.escape(folder.name)}</title><style>{STYLE}</style>"
    )
    return head + "\n".join(parts) + "\n"


def _points_table(leaders: Sequence[PointRow], won: PointRow | None) -> str:
    board = _table(_point_cells(leaders, won), marked=0 if won is not None else None)
    caution = _caution(leaders)
    return board + (f"<p>{caution}</p>" if caution else "")


def _point_cells(leaders: Sequence[PointRow], won: PointRow | None) -> list[dict[str, str]]:
    """Return the leaderboard; the test figure of the winner alone, so that nobody chooses by it."""
    validated = any(row.figures["val/acc_best"] for row in leaders)
    cells = []
    for row in leaders:
        cell = {"point": row.label, "seeds finished": f"{row.finished} of {row.seeds}"}
        test = shown(row.figures["test/acc"])
        if validated:
            is_best = won is not None and row.trials[0].folder == won.trials[0].folder
            cell["val/acc, mean ± std"] = shown(row.figures["val/acc_best"])
            cell["test/acc of the best"] = test if is_best else ""
        else:
            cell["test/acc, mean ± std (no validation split)"] = test
        cells.append(cell | {"state": _states(row)})
    return cells


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


def _failures(trials: Sequence[Trial]) -> str:
    failed = [(t, r) for t in trials if (r := t.look().result) is not None and r.status == "failed"]
    if not failed:
        return ""
    parts = ["<h2>Failures</h2>"]
    for trial, result in failed:
        log = html.escape("\n".join(result.log))
        parts.append(f"<p><b>{html.escape(trial.label)}</b>: {html.escape(result.error)}</p><pre>{log}</pre>")
    return "".join(parts)


def _agreement(trials: Sequence[Trial]) -> str:
    common = answers(trials)
    if common is None:
        return ""
    alike = common.agreement
    text = (
        f"{common.trials} trials on {common.pictures:,} pictures: all are right on {alike.all_right:.1%}, "
        f"all wrong on {alike.all_wrong:.1%}; two trials give the same answer on {alike.same_answer:.1%}."
    )
    rows = [
        {
            "picture": str(index),
            "label": label,
            "most frequent answer": answer,
            "trials that give it": f"{share:.0%}",
        }
        for index, label, answer, share in common.missed[:MISSED]
    ]
    missed = f" Missed by all, {len(rows)} of {len(common.missed):,}:" if rows else ""
    return f"<h2>Agreement</h2><p>{text}{missed}</p>{_table(rows) if rows else ''}"


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
