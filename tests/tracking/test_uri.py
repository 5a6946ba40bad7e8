from pathlib import Path

import pytest

from experiments.files import PROJECT
from experiments.tracking.uri import brief, public_uri, tracking_uri, ui_hint


def test_uris_never_depend_on_the_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(None) == f"sqlite:///{PROJECT}/mlflow.db"
    assert ui_hint(tracking_uri(None)) == "make ui"
    assert tracking_uri("sqlite:///runs/a.db") == f"sqlite:///{PROJECT}/runs/a.db"
    assert tracking_uri("sqlite:////data/a.db") == "sqlite:////data/a.db"
    assert ui_hint("sqlite:////a b/c.db").endswith(
        "mlflow ui --workers 1 --backend-store-uri 'sqlite:////a b/c.db'"
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000/")
    assert tracking_uri(None) == "http://host:5000"
    assert ui_hint("http://host:5000") == "open http://host:5000"
    secret = "postgresql+psycopg2://me:s3cret@@host/db"
    assert tracking_uri(secret) == secret
    assert public_uri(secret) == "postgresql+psycopg2://me:***@host/db"


@pytest.mark.parametrize(
    "wrong", ["mlruns", "file:///tmp/mlruns", "./mlruns", "/tmp/mlruns", "sqlite:///:memory:", "sqlite://"]
)
def test_stores_that_cannot_work_are_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="tracking.uri must .*got"):
        tracking_uri(wrong)


def test_an_error_in_brief_has_one_line_no_password_and_an_end() -> None:
    assert brief(OSError("no\n  way to http://me:s3cret@host")) == "no way to http://me:***@host"
    assert brief(KeyboardInterrupt()) == "KeyboardInterrupt"
    text = brief(ValueError("a" * 200 + "z" * 500))
    assert (len(text), text[:2], text[-2:]) == (300, "aa", "zz")
