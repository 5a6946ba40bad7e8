"""MLflow's pages in a browser: what the printed addresses show of a sweep among other runs."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient
from selenium.webdriver.support.wait import WebDriverWait

from experiments.files import PROJECT
from tests.report.conftest import browser as browser  # a fixture
from tests.sweep.conftest import TINY, Sweep

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # MLflow's use of SQLAlchemy
]

QUICK = [part for part in TINY if not part.startswith(("tracking", "analysis"))]
SHEETS = ["analysis=light", "analysis.sheet_size=4", "analysis.watch=4"]
FIGURES = ("val/acc_best", "test/acc")
# Whether MLflow has opened its assistant's panel once, as it does in a new browser, and whether it is open
ASSISTANT = {
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    "mlflow.assistant.panelOpen_v1": "false",
}


@dataclass
class Pages:
    """A finished sweep of three points and two seeds, an ordinary run and a stranger's, with MLflow's UI."""

    sweep: Path
    said: str  # by the sweep and by the ordinary run, on stderr
    port: int

    def printed(self, title: str) -> str:
        """The last address that was printed under this title, on the port of the UI."""
        address = re.findall(rf"^{title} +http://[^/]+(.+)$", self.said, re.MULTILINE)[-1]
        return f"http://127.0.0.1:{self.port}{address}"

    def results(self) -> list[dict]:
        """What the trials' folders say, best first."""
        results = [json.loads(path.read_text()) for path in self.sweep.glob("*/result.json")]
        return sorted(results, key=lambda result: -result["metrics"]["val/acc_best"])


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    folder = tmp_path_factory.mktemp("pages")
    store = f"tracking.uri=sqlite:///{folder / 'mlflow.db'}"
    sweep = Sweep(folder)
    swept = ["optimizer.lr=0.01,0.05,0.2", "seed=0,1", "sweep.name=test", f"hydra.sweep.dir={sweep.home}"]
    assert sweep(*QUICK, *SHEETS, *swept, store).returncode == 0, sweep.said
    command = [sys.executable, "-m", "experiments.run", *QUICK, "analysis=none", "trainer.epochs=1", store]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    own = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert own.returncode == 0, own.stderr
    _log_foreign(folder / "mlflow.db")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = _start_ui(folder, port)
    yield Pages(sweep.home, sweep.said + own.stderr, port)
    os.killpg(server.pid, signal.SIGTERM)
    server.wait(timeout=30)


def _log_foreign(database: Path) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{database}")
    experiment = client.get_experiment_by_name("cifar-sweeps")
    run = client.create_run(experiment.experiment_id, run_name="a stranger's").info.run_id
    client.log_param(run, "depth", "3")
    client.log_metric(run, "accuracy", 0.99)
    client.set_terminated(run)


def _start_ui(folder: Path, port: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "mlflow", "ui", "--workers", "1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with open(folder / "ui.log", "w") as log:
        server = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )

    def answers(_: object) -> bool:
        assert server.poll() is None, (folder / "ui.log").read_text()
        with suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
            return True
        return False

    WebDriverWait(None, 90).until(answers)
    return server


@pytest.fixture
def visit(browser, pages: Pages):
    """Open an address in a window of 1400 x 900 in which MLflow's assistant was closed, as is done once."""
    window = {"width": 1400, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", window)
    browser.get(f"http://127.0.0.1:{pages.port}/health")
    browser.execute_script("Object.assign(localStorage, arguments[0])", ASSISTANT)

    def open_page(address: str) -> None:
        browser.get("about:blank")  # or only the fragment would change
        browser.get(address)

    return open_page


def wait_for(browser, condition: str, *values: object):
    """What a script returns, once it returns something."""
    return WebDriverWait(browser, 60).until(lambda window: window.execute_script(condition, *values))


# The cells of the table's rows from top to bottom: {column: text}. The left columns are rows of their own.
TABLE = """
const rows = {}
for (const row of document.querySelectorAll('.ag-row:not(.ag-row-loading)'))
    for (const cell of row.querySelectorAll('[col-id]'))
        (rows[row.getAttribute('row-index')] ??= {})[cell.getAttribute('col-id')] = cell.innerText.trim()
const filled = Object.keys(rows).sort((a, b) => a - b).map(i => rows[i]).filter(row => row[arguments[0]])
return filled.length >= arguments[1] && filled
"""
# Whether the headers begin with name and time and go on with these, from left to right
HEADERS = """
const heads = [...document.querySelectorAll('.ag-header-cell[col-id]')].filter(head => head.innerText.trim())
const left = head => head.getBoundingClientRect().left
const names = heads.sort((a, b) => left(a) - left(b)).map(head => head.innerText.trim())
return names.join() === ['Run Name', 'Created', ...arguments[0]].join()
"""


def table(browser, rows: int) -> list[dict[str, str]]:
    return wait_for(browser, TABLE, "metrics.`val/acc_best`", rows)


def test_the_printed_address_shows_the_trials_of_the_sweep_alone_with_figures_best_first(
    browser, visit, pages: Pages
):
    visit(pages.printed("MLflow"))
    rows = table(browser, 6)
    assert len(rows) == 6
    for figure in FIGURES:
        shown = [float(row[f"metrics.`{figure}`"]) for row in rows]
        assert shown == pytest.approx([result["metrics"][figure] for result in pages.results()])
    swept = {(row["params.`optimizer.lr`"], row["params.`seed`"]) for row in rows}
    assert swept == {(lr, seed) for lr in ("0.01", "0.05", "0.2") for seed in ("0", "1")}
    wait_for(browser, HEADERS, [*FIGURES, "optimizer.lr", "seed", "trainer.epochs", "Duration"])


def test_the_address_of_a_run_shows_all_runs_of_this_project_with_their_figures(browser, visit, pages: Pages):
    visit(pages.printed("all runs"))
    rows = table(browser, 7)
    assert len(rows) == 7  # six trials and the ordinary run; not the sweep's own, not the stranger's
    shown = [float(row["metrics.`val/acc_best`"]) for row in rows]
    for result in pages.results():
        assert result["metrics"]["val/acc_best"] in shown


# The names of the curves of more than one point in the chart of a metric
CURVES = """
for (const plot of document.querySelectorAll('.js-plotly-plot')) {
    const card = plot.closest('[data-testid=experiment-view-compare-runs-card]')
    if (!card.innerText.trim().startsWith(arguments[0] + '\\n')) continue
    return [...new Set(plot.data.filter(curve => curve.y?.length > 1).map(curve => curve.name))]
}
"""
# Left and top of each loaded picture of a sheet that is wholly within its card and the window
PICTURES = """
const headers = document.querySelectorAll('[data-testid=experiment-view-compare-runs-section-header]')
const section = [...headers].find(header => header.innerText.startsWith('Pictures'))
const cards = [...document.querySelectorAll('[data-testid=experiment-view-compare-runs-card]')]
const card = cards.find(card => card.innerText.trim().startsWith(arguments[0]))
const above = cards.findLast(card => card.innerText.trim().includes('_sheet'))
const next = card ?? above ?? section
next?.scrollIntoView()  // MLflow draws a card when it comes into sight
const frame = card?.getBoundingClientRect()
const seen = [...card?.querySelectorAll('img') ?? []].filter(img => img.naturalWidth > 300)
    .map(img => img.getBoundingClientRect())
    .filter(img => img.width > 300 && img.left >= frame.left && img.right <= frame.right)
    .filter(img => img.top >= frame.top && img.bottom <= Math.min(frame.bottom, innerHeight))
return seen.length > 1 && seen.map(img => [img.left, img.top])
"""


def test_the_charts_show_all_curves_and_readable_pictures_of_runs_side_by_side_without_a_click(
    browser, visit, pages: Pages
):
    visit(pages.printed("charts"))
    assert len(wait_for(browser, CURVES, "val/acc")) == len(wait_for(browser, CURVES, "train/loss")) == 6
    for sheet in ("contact_sheet", "watch"):
        places = wait_for(browser, PICTURES, sheet)
        assert len({left for left, _ in places}) > 1  # beside each other


# The first screen's figures of a run, and where its metrics and its parameters begin
RUN = """
const [metrics, params] = ['Metrics (', 'Parameters ('].map(title =>
    [...document.querySelectorAll('h4')].find(head => head.innerText.startsWith(title)))
return metrics && params && {
    metrics: metrics.getBoundingClientRect().top,
    params: params.getBoundingClientRect().top,
    figures: Object.fromEntries(
        [...document.querySelectorAll('[role=row]')]
            .filter(row => row.getBoundingClientRect().bottom < innerHeight)
            .map(row => row.innerText.trim().split('\\n'))),
}
"""


def test_the_page_of_a_run_shows_its_figures_in_the_first_screen_before_the_parameters(
    browser, visit, pages: Pages
):
    best = pages.results()[0]
    runs = pages.printed("all runs").partition("?")[0]
    visit(f"{runs}/{best['run_id']}?workflowType=machine_learning")
    shown = wait_for(browser, RUN)
    assert shown["metrics"] < shown["params"]
    for figure in FIGURES:
        assert float(shown["figures"][figure]) == pytest.approx(best["metrics"][figure])
