"""Before the UI is started on a database: has it follow where it was moved, and says where to look."""

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

from experiments.tracking.moved import follow
from experiments.tracking.views import TAG, query


def addresses(database: Path) -> Iterator[tuple[str, str]]:
    """Yield name and address of each experiment that has a prepared view of its runs."""
    pages = "http://127.0.0.1:5000/#/experiments"
    wanted = (
        "SELECT experiment_id, name FROM experiments JOIN experiment_tags USING (experiment_id) "
        "WHERE key = ? AND lifecycle_stage = 'active' ORDER BY experiment_id"
    )
    with closing(sqlite3.connect(database)) as connection:
        for number, name in connection.execute(wanted, (f"{TAG}runs",)):
            yield name, f"{pages}/{number}/runs?{query({}, 'runs')}"


if __name__ == "__main__":
    if (path := Path(sys.argv[1])).exists():
        with suppress(sqlite3.Error):  # MLflow, which comes next, tells what is wrong with the file
            follow(path)
            for name, address in addresses(path):
                print(f"{name}: {address}")
