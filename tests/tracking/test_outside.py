"""A run folder's files go to its store, and nothing that lies outside, whatever a stranger's spool names."""

from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

import pytest

from experiments.tracking.delivery import Delivery
from experiments.tracking.spool import Spool
from experiments.tracking.store import Ids, Store


def test_no_file_outside_the_run_folder_is_uploaded(tmp_path: Path):
    secret, folder = tmp_path / "secret", tmp_path / "run"
    secret.write_text("secret")
    (folder / "analysis").mkdir(parents=True)
    (folder / "analysis" / "own.txt").write_text("own")
    (folder / "analysis" / "linked.txt").symlink_to(secret)
    spool = Spool(folder)
    spool.append("start", spool="1", uri="http://theirs", experiment="e", run_name="r", tags={})
    for path in ("analysis", str(secret), "../secret", "analysis/linked.txt"):
        spool.append("artifacts", path=path)
        spool.append("artifacts", path=path, to="x")
        spool.append("image", path=path, key="k", step=1)
    store = Mock(spec=Store, uri="http://theirs")
    store.open.return_value, store.is_stale.return_value = Ids("1", "2"), False
    warn = Mock()
    with closing(Delivery(folder, store, warn)) as delivery:
        delivery.deliver()
    sent = [call.args[0].resolve() for call in (*store.upload.mock_calls, *store.upload_image.mock_calls)]
    assert set(sent) == {folder / "analysis" / "own.txt", folder / "analysis"}
    assert any(
        "lies outside the run folder, so it is not uploaded" in call.args[1] for call in warn.mock_calls
    )
    assert not any(path == secret for path in sent)


@pytest.mark.parametrize("name", ["analysis", "config.yaml"])
def test_files_keep_their_places(tmp_path: Path, name: str):
    (tmp_path / "analysis" / "deep").mkdir(parents=True)
    (tmp_path / "analysis" / "deep" / "a.txt").write_text("a")
    (tmp_path / "config.yaml").write_text("a")
    Spool(tmp_path).append("start", spool="1", uri="u", experiment="e", run_name="r", tags={})
    Spool(tmp_path).append("artifacts", path=name)
    store = Mock(spec=Store, uri="u")
    store.open.return_value, store.is_stale.return_value = Ids("1", "2"), False
    with closing(Delivery(tmp_path, store)) as delivery:
        delivery.deliver()
    ((file, to),) = (call.args for call in store.upload.mock_calls)
    assert to == ("analysis/deep" if name == "analysis" else None)
    assert file.read_text() == "a"
