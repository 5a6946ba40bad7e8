"""Which files a comparison leaves: a page, Markdown and CSV."""

from collections.abc import Sequence
from pathlib import Path

from experiments.comparison.groups import Comparison, compare
from experiments.comparison.markdown import markdown
from experiments.comparison.page import page
from experiments.comparison.pictures import gallery, lacking
from experiments.comparison.read import read
from experiments.comparison.tables import TableRow, configuration_row, run_row, tables, unfinished
from experiments.files import csv_text, write_text

FILES = tuple(
    f"{name}.csv" for name in ("configurations", "runs", "differences", "pairs", "classes", "missed")
)


def write(
    folders: Sequence[Path], out_dir: Path, *, cams: bool = False, words: Sequence[str] = ()
) -> Comparison:
    """Compare the runs in ``folders`` and write all files to ``out_dir``.

    With ``cams`` the maps that their analyses lack are computed; ``words`` may allow code of one's own.
    """
    comparison = compare(read(folder) for folder in folders)
    out_dir.mkdir(parents=True, exist_ok=True)
    pictures = gallery(comparison, cams=lacking(comparison, words) if cams else None)
    write_text(out_dir / "comparison.html", page(comparison, out_dir.resolve(), gallery=pictures))
    write_text(out_dir / "comparison.md", markdown(comparison))
    rows: dict[str, list[TableRow]] = {name: [] for name in FILES}
    rows |= {one.file: list(one.rows) for one in tables(comparison)}
    rows["configurations.csv"] = [configuration_row(c) for c in comparison.configurations]
    rows["runs.csv"] = [run_row(run, c.letter) for c in comparison.configurations for run in c.runs]
    rows["runs.csv"] += [run_row(run, letter) for letter, run in unfinished(comparison)]
    for name, lines in rows.items():
        (out_dir / name).unlink(missing_ok=True)  # of an earlier comparison
        if lines:
            write_text(out_dir / name, csv_text(lines))
    return comparison
