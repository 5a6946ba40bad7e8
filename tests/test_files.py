import ast
import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cifar_core.files import lock, whole
from experiments import files
from tests.conftest import PROJECT
from tests.imports import sources


def test_a_file_is_there_when_the_block_ends_and_not_before(tmp_path: Path):
    path = tmp_path / "file"
    with whole(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fails() -> None:
        with whole(path, previous=tmp_path / "previous") as file:
            file.write(b"half")
            raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        fails()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_the_file_before_is_kept_on_request(tmp_path: Path):
    path, previous = tmp_path / "file", tmp_path / "previous"
    for content in (b"1", b"2", b"3"):
        with whole(path, previous=previous) as file:
            file.write(content)
    assert (path.read_bytes(), previous.read_bytes()) == (b"3", b"2")


def test_one_holder_at_a_time(tmp_path: Path):
    with (tmp_path / "lock").open("a") as mine, (tmp_path / "lock").open("a") as other:
        assert lock(mine)
        assert not lock(other)
        mine.close()
        assert lock(other)


def test_who_waits_gets_the_lock_when_the_holder_is_gone(tmp_path: Path):
    with (tmp_path / "lock").open("a") as mine, (tmp_path / "lock").open("a") as other:
        assert lock(mine)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(lock, other, wait=True)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.1)
            mine.close()
            assert waiting.result(timeout=60)


def test_whoever_asks_whether_a_folder_is_free_keeps_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asking = (tmp_path / "lock").open("a")
    assert lock(asking)
    monkeypatch.setattr(files.time, "sleep", lambda seconds: asking.close())
    with files.own(tmp_path), pytest.raises(BlockingIOError, match="process"):
        files.own(tmp_path)


def test_every_text_file_is_opened_as_utf_8_whatever_the_locale():
    files = [*sources().values(), *(PROJECT / "docs").glob("*.py"), *(PROJECT / "benchmarks").glob("*.py")]
    calls = [
        (file, node)
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]
    assert len(calls) > 5000
    assert not [f"{file}:{node.lineno}" for file, node in calls if asks_the_locale(node)]


@pytest.mark.parametrize(
    ("call", "asks"),
    [
        ("path.read_text()", True),
        ("path.open()", True),
        ("open(path)", True),
        ("open(path, 'a+', newline='')", True),
        ("path.open('w')", True),
        ("subprocess.run(command, text=True)", True),
        ("path.write_text(text, encoding='utf-8')", False),
        ("open(path, 'rb')", False),
        ("path.open('ab')", False),
        ("write_text(path, text)", False),
        ("store.open(start, again=True)", False),
    ],
)
def test_the_law_knows_the_calls_that_ask_the_locale(call: str, asks: bool):
    assert asks_the_locale(ast.parse(call, mode="eval").body) == asks


def asks_the_locale(call: ast.Call) -> bool:
    """Tell whether a call opens text in the encoding of the locale, as far as its words show."""
    keywords = {keyword.arg for keyword in call.keywords}
    if "encoding" in keywords:
        return False
    if keywords & {"text", "universal_newlines"}:
        return True
    if isinstance(call.func, ast.Attribute) and call.func.attr in ("read_text", "write_text"):
        return True
    of_path = isinstance(call.func, ast.Attribute) and call.func.attr == "open"
    if not of_path and not (isinstance(call.func, ast.Name) and call.func.id == "open"):
        return False
    if of_path and ast.unparse(call.func.value) in NO_FILES:
        return False
    modes = [arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    modes = [mode for mode in modes if set(mode) <= set("rwxabt+")]
    return not any("b" in mode for mode in modes) and (bool(modes) or len(call.args) == (0 if of_path else 1))


NO_FILES = ("os", "Image", "tarfile", "folder", "self.store", "home", "record", "Record")  # have another open


def test_json_is_strict_and_what_is_not_finite_comes_back_as_unknown(tmp_path: Path):
    from experiments.runs.result import Result

    Result(metrics={"val/loss": math.nan, "val/acc_best": 0.1}, seconds={"total": math.inf}).write(tmp_path)
    content = json.loads((tmp_path / "result.json").read_text(), parse_constant=pytest.fail)
    assert content["metrics"] == {"val/loss": None, "val/acc_best": 0.1}
    again = Result.read(tmp_path)
    assert math.isnan(again.metrics["val/loss"])
    assert again.value == 0.1
