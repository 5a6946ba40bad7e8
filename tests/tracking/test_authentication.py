"""A server that wants to know who writes, and does not let everybody."""

import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient

from experiments.sync import main
from experiments.tracking.mlflow_store import MlflowStore
from experiments.tracking.store import Ids
from experiments.tracking.uri import ui_hint
from tests.tracking.conftest import tracker

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's, of its database library

ANSWERS = {
    401: (b"You are not authenticated.", "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD must name"),
    403: (b"Permission denied", "forbidden, as to a user without the permission EDIT on the experiment"),
}


@pytest.fixture(params=ANSWERS)
def refusing(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """A server that answers everything with a refusal, and what a user is told."""
    body, told = ANSWERS[request.param]

    class Refuse(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(request.param)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST  # noqa: N815 - the names of http.server

        def log_message(self, *arguments: object) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refuse)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", told
    server.shutdown()
    server.server_close()


def test_a_run_that_is_refused_goes_on_says_why_in_one_line_and_is_delivered_later(
    refusing: tuple[str, str],
    uri: str,
    client: MlflowClient,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server, told = refusing
    with caplog.at_level(logging.WARNING), tracker(tmp_path / "run", server) as run:
        run.log_metrics({"val/acc": 0.5}, step=1)
    why, later = map(logging.LogRecord.getMessage, caplog.records)
    assert told in why
    assert "\n" not in why
    assert later == f"not everything reached MLflow; later: python -m experiments.sync {tmp_path / 'run'}"

    assert main([str(tmp_path / "run")]) == 1
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'run'}: failed: {told}")
    assert main([str(tmp_path / "run"), "--uri", uri]) == 0
    (made,) = client.search_runs([client.get_experiment_by_name("trials").experiment_id])
    assert (made.data.metrics, made.info.status) == ({"val/acc": 0.5}, "FINISHED")


def test_an_address_to_open_holds_neither_user_nor_password() -> None:
    uri = "http://me:s3cret@host:5000"
    assert ui_hint(uri) == "open http://host:5000"
    store, ids = MlflowStore(uri), Ids("1", "r", "runs")
    for address in (store.page(ids), store.overview(ids, {})):
        assert address.startswith("http://host:5000/#/experiments/1/runs")
