from pathlib import Path

import pytest

from experiments.files import PROJECT
from experiments.tracking.uri import brief, public_uri, refuse_password, tracking_uri, ui_hint


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


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://me:s3cret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:s3%40cret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:/s3@c/ret#@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("postgresql://me@corp:s3cret@host/db", "postgresql://me@corp:***@host/db"),
        ("postgresql://host/db?user=me&password=s3cret&a=b", "postgresql://host/db?user=me&password=***&a=b"),
        ("https://:s3cret@host", "https://:***@host"),
    ],
)
def test_a_password_is_refused_and_shown_by_nothing(uri: str, shown: str) -> None:
    assert public_uri(uri) == shown
    with pytest.raises(ValueError, match="no password.*MLFLOW_TRACKING_URI") as refused:
        refuse_password(uri)
    assert str(refused.value).endswith(f"got {shown}")


@pytest.mark.parametrize(
    "uri",
    [
        None,
        "sqlite:////a@b/c:d.db",
        "http://host:5000/mlflow",
        "postgresql://me@host:5432/db",
        "postgresql://me:***@h/db",
    ],
)
def test_a_uri_without_a_password_is_left_as_it_is(uri: str | None) -> None:
    refuse_password(uri)
    assert uri is None or public_uri(uri) == uri


def test_a_wrong_uri_in_the_environment_is_told_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgres://me:s3cret@host/db")
    with pytest.raises(ValueError, match="MLFLOW_TRACKING_URI must start") as refused:
        tracking_uri(None)
    assert "s3cret" not in str(refused.value)
