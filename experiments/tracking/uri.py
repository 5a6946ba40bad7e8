"""Where the tracker's store lies."""

import os
import re
import shlex

from experiments.cli import one_line
from experiments.files import INSTALLED, PROJECT

SCHEMES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql", "databricks")
REMEDIES = {  # by the code of MLflow's error
    "UNAUTHENTICATED": "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD must name a user of the server",
    "PERMISSION_DENIED": "forbidden, as to a user without the permission EDIT on the experiment",
}


def tracking_uri(uri: str | None) -> str:
    """Make the store's URI absolute: `uri`, else MLFLOW_TRACKING_URI, else sqlite in the project root.

    A relative sqlite path counts from the project root, never from the working directory.

    Raises:
        ValueError: for a kind of store MLflow cannot open, such as a plain folder.
    """
    key = "tracking.uri" if uri else "MLFLOW_TRACKING_URI"
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if uri.partition(":")[0].partition("+")[0] not in SCHEMES:
        known = ", ".join(SCHEMES)
        raise ValueError(
            f"{key} must start with one of {known}; MLflow's file store is closed: write "
            f"sqlite:///<file>.db instead, got {public_uri(uri)!r}"
        )
    if not uri.startswith("sqlite"):
        return uri.rstrip("/")
    path = uri.partition(":///")[2]
    if not path or path == ":memory:":
        raise ValueError(f"{key} must name a file, as in sqlite:///mlflow.db, got {uri!r}")
    return f"sqlite:///{PROJECT / path}"


def public_uri(uri: str) -> str:
    """Hide the password in a URI, for what is printed or saved; it may itself hold a slash or an @."""
    uri = re.sub(r"(://[^:/\s]*):\S*@", r"\1:***@", uri)
    return re.sub(r"([?&]\w*passw(?:or)?d=)[^&\s]*", r"\1***", uri)


def refuse_password(uri: object) -> None:
    """Raise ValueError for a `tracking.uri` with a password, which the run's folder would keep."""
    if isinstance(uri, str) and (shown := public_uri(uri)) != uri:
        raise ValueError(
            "tracking.uri must hold no password, for run folders keep it: set MLFLOW_TRACKING_URI or, "
            f"for a server, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, got {shown}"
        )


def page_uri(uri: str) -> str:
    """Leave user and password out of a URI, for the address of a page."""
    return re.sub(r"://[^/\s]*@", "://", uri)


def ui_hint(uri: str) -> str:
    """Say how to look at the runs of a store: an address, or the command for the light local server."""
    if uri.startswith("http"):
        return f"open {page_uri(uri)}"
    if not INSTALLED and uri == f"sqlite:///{PROJECT / 'mlflow.db'}":
        return "make ui"
    light = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --workers 1"  # 2 processes instead of 10
    return f"{light} --backend-store-uri {shlex.quote(public_uri(uri))}"


def brief(error: BaseException) -> str:
    """Write an error in one line of at most 300 characters, without passwords, what to do about it first."""
    text = public_uri(one_line(error))
    if remedy := REMEDIES.get(getattr(error, "error_code", "")):
        text = f"{remedy}: {text}"
    return text if len(text) <= 300 else f"{text[:150]} ... {text[-145:]}"
