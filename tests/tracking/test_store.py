"""What delivery relies on, asked of every store: of MLflow, and of one in memory that shows what it takes."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlparse

import pytest
from mlflow import MlflowClient
from PIL import Image

from experiments.tracking.delivery import Delivery
from experiments.tracking.mlflow_store import MlflowStore
from experiments.tracking.spool import Record, Spool
from experiments.tracking.store import Entry, Ids, Missed, Param, Point, Refused, Store, Tag

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's, of its database library


@dataclass
class Kept:
    """One run as a store has it."""

    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    points: dict[tuple[str, int, int], float] = field(default_factory=dict)  # key, step, time
    files: dict[str, bytes] = field(default_factory=dict)
    datasets: set[tuple[str, str]] = field(default_factory=set)
    status: tuple[str, int | None] = ("", None)


class MemoryStore:
    """A whole store. Those that share `runs` are one place, opened several times."""

    name: ClassVar[str] = "memory"
    uri = "memory:"

    def __init__(self, runs: dict[str, Kept], full: set[str]) -> None:
        self._runs, self._full = runs, full

    def open(self, start: Record, *, again: bool) -> Ids:
        self._run = self._runs.setdefault(start["spool"], Kept())
        return Ids(start["experiment"], start["spool"])

    def is_stale(self) -> bool:
        return False

    def lacks(self, entries: Sequence[Entry], files: Collection[str], status: str | None) -> bool:
        points = {(e.key, e.step, e.t) for e in entries if isinstance(e, Point)}
        names = {e.key for e in entries if not isinstance(e, Point)}
        there = points <= self._run.points.keys() and names <= self._run.params.keys() | self._run.tags.keys()
        return not (there and set(files) <= self._run.files.keys() and status in (None, self._run.status[0]))

    def page(self, ids: Ids) -> str:
        return f"memory:{ids.experiment}/{ids.run}"

    def overview(self, ids: Ids, tags: Mapping[str, str]) -> str:
        return f"memory:{ids.experiment}"

    def log(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if isinstance(entry, Point):
                self._run.points[entry.key, entry.step, entry.t] = entry.value
            elif isinstance(entry, Tag):
                self._run.tags[entry.key] = entry.value
            elif self._run.params.setdefault(entry.key, entry.value) != entry.value:
                raise Refused(f"{entry.key} is {self._run.params[entry.key]}")

    def log_dataset(self, *, name: str, digest: str, source: str, context: str) -> None:
        self._run.datasets.add((name, context))

    def upload(self, file: Path, folder: str | None) -> None:
        if file.name in self._full:
            raise Missed("no room")
        self._run.files[f"{folder}/{file.name}" if folder else file.name] = file.read_bytes()

    def upload_image(self, file: Path, *, key: str, step: int) -> None:
        self._run.files[f"{key} {step}"] = file.read_bytes()

    def set_status(self, status: str, t: int) -> None:
        self._run.status = (status, None if status == "RUNNING" else t)

    def mark_dead_runs(self) -> None:
        pass


class Memory:
    """A place for the tests, and how to look into it."""

    def __init__(self) -> None:
        self._runs: dict[str, Kept] = {}
        self._full: set[str] = set()

    def store(self) -> Store:
        return MemoryStore(self._runs, self._full)

    def runs(self) -> list[Kept]:
        return list(self._runs.values())

    def fill(self, name: str) -> Callable[[], None]:
        """Have no room for a file until the function returned is called."""
        self._full.add(name)
        return lambda: self._full.discard(name)


class Mlflow:
    """The same with MLflow, on sqlite."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._client = MlflowClient(tracking_uri=uri)

    def store(self) -> Store:
        return MlflowStore(self._uri)

    def runs(self) -> list[Kept]:
        experiment = self._client.get_experiment_by_name("trials").experiment_id
        return [self._kept(run) for run in self._client.search_runs([experiment])]

    def _kept(self, run: Any) -> Kept:
        histories = [self._client.get_metric_history(run.info.run_id, key) for key in run.data.metrics]
        points = {(p.key, p.step, p.timestamp): p.value for points in histories for p in points}
        assert len(points) == sum(map(len, histories))
        folder = Path(unquote(urlparse(run.info.artifact_uri).path))
        files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        images = {name: content for name, content in files.items() if name.startswith("images/")}
        files = {name: content for name, content in files.items() if name not in images}
        for name, content in images.items():  # a picture is two files of one stem: itself and its thumbnail
            if name.endswith("compressed.webp"):
                key, _, step, *_ = name.removeprefix("images/").split("+")
                assert f"{key} {step}" not in files
                files[f"{key} {step}"] = content
        assert len(images) == 2 * sum(" " in name for name in files)
        datasets = {(each.dataset.name, each.tags[0].value) for each in run.inputs.dataset_inputs}
        assert len(datasets) == len(run.inputs.dataset_inputs)
        tags = {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")}
        status = (run.info.status, run.info.end_time)
        return Kept(run.data.params, tags, points, files, datasets, status)

    def fill(self, name: str) -> Callable[[], None]:
        [run] = self._client.search_runs([self._client.get_experiment_by_name("trials").experiment_id])
        path = Path(unquote(urlparse(run.info.artifact_uri).path)) / "analysis" / name
        path.mkdir(parents=True)  # no file can be written there
        return lambda: shutil.rmtree(path)


Place = Memory | Mlflow


@pytest.fixture(params=["memory", "mlflow"])
def place(request: pytest.FixtureRequest) -> Place:
    return Memory() if request.param == "memory" else Mlflow(request.getfixturevalue("uri"))


class Unsteady:
    """A store of which every call fails twice: before it has reached the store, and after."""

    def __init__(self, store: Store, calls: Counter[str]) -> None:
        self._store, self._calls = store, calls

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._store, name)
        return self._unsteady(attribute) if callable(attribute) and name != "page" else attribute

    def _unsteady(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            this = repr((method.__name__, args, options))
            self._calls[this] += 1
            answer = method(*args, **options) if self._calls[this] > 1 else None
            if self._calls[this] < 3:
                raise ConnectionError("the line is cut")
            return answer

        return call


def start(spool: Spool) -> Record:
    fields = {"uri": "", "experiment": "trials", "run_name": "a run", "tags": {"kind": "trial"}}
    spool.append("start", spool="ab12", **fields)
    record = spool.first("start")
    assert record
    return record


def write(folder: Path) -> Kept:
    """Write a run of every kind of record; returns what a store is to keep of it."""
    spool = Spool(folder)
    start(spool)
    spool.append("params", data={"lr": "0.1", "note": "first"})
    spool.append("params", data={"note": "second", "depth": "3"})
    points = {}
    for step in range(1, 251):  # three batches
        data = {"loss": 1 / step, "acc": "nan" if step == 7 else step / 1000}
        spool.append("metrics", step=step, data=data, t=1_700_000_000_000 + step)
        points |= {(key, step, 1_700_000_000_000 + step): float(value) for key, value in data.items()}
    spool.append("tags", data={"state": "early", "diverged": "true"})
    spool.append("tags", data={"state": "late"})
    spool.append("dataset", name="digits", digest="1f2e", source="digits", context="train")
    (folder / "analysis" / "maps").mkdir(parents=True)
    files = {"analysis/maps/a.txt": b"a", "analysis/report.html": b"<p>", "config.yaml": b"seed: 0"}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    Image.new("RGB", (4, 2), "red").save(folder / "sheet.png")
    spool.append("image", path="sheet.png", key="sheet", step=250)
    spool.append("artifacts", path="analysis")
    spool.append("artifacts", path="config.yaml")
    spool.append("status", status="FINISHED", t=1_700_000_001_000)
    params = {"lr": "0.1", "note": "first", "depth": "3"}
    tags = {"kind": "trial", "state": "late", "diverged": "true"}
    status = ("FINISHED", 1_700_000_001_000)
    return Kept(params, tags, points, files | {"sheet 250": b""}, {("digits", "train")}, status)


def same(kept: Kept, wanted: Kept) -> None:
    kept.tags.pop("tracker.spool", None)
    assert (kept.tags, kept.datasets, kept.status) == (wanted.tags, wanted.datasets, wanted.status)
    assert kept.params == wanted.params
    assert {k: v for k, v in kept.files.items() if " " not in k} == {
        k: v for k, v in wanted.files.items() if " " not in k
    }
    assert kept.files.keys() == wanted.files.keys()
    assert kept.points.keys() == wanted.points.keys()
    for key, value in wanted.points.items():
        assert kept.points[key] == pytest.approx(value, nan_ok=True)


def test_everything_arrives_in_order(place: Place, tmp_path: Path) -> None:
    wanted = write(tmp_path)
    with closing(Delivery(tmp_path, place.store())) as delivery:
        delivery.deliver()
    assert delivery.is_complete
    [kept] = place.runs()
    steps = [step for key, step, _ in kept.points if key == "loss"]
    assert steps == list(range(1, 251))
    same(kept, wanted)


def test_what_fails_in_the_middle_is_kept_once(place: Place, tmp_path: Path) -> None:
    wanted = write(tmp_path)
    calls: Counter[str] = Counter()
    delivery = Delivery(tmp_path, Unsteady(place.store(), calls), lambda kind, text: None)
    failures = 0
    while not delivery.attempt():
        failures += 1
        assert delivery.trouble == "the line is cut"
        if failures % 3 == 0:  # as if another process took over, with what the folder says alone
            delivery.close()
            delivery = Delivery(tmp_path, Unsteady(place.store(), calls), lambda kind, text: None)
    delivery.close()
    assert failures > 10
    [kept] = place.runs()
    same(kept, wanted)


def test_a_refused_entry_costs_only_itself(place: Place, tmp_path: Path) -> None:
    spool, warnings = Spool(tmp_path), []
    record = start(spool)
    delivery = Delivery(tmp_path, place.store(), lambda kind, text: warnings.append((kind, text)))
    delivery.deliver()
    other = place.store()
    other.open(record, again=False)
    other.log([Param("lr", "0.1")])  # behind its back
    spool.append("params", data={"before": "1", "lr": "0.2", "after": "2"})
    spool.append("metrics", step=1, data={"loss": 1.0})
    delivery.deliver()
    delivery.close()
    [kept] = place.runs()
    assert kept.params == {"before": "1", "lr": "0.1", "after": "2"}
    assert list(kept.points.values()) == [1.0]
    [(kind, text)] = warnings
    assert kind == "refused"
    assert "lr" in text
    assert delivery.is_complete


def test_a_file_that_is_missed_is_uploaded_the_next_time(place: Place, tmp_path: Path) -> None:
    spool, warnings = Spool(tmp_path), []
    start(spool)
    delivery = Delivery(tmp_path, place.store(), lambda kind, text: warnings.append((kind, text)))
    delivery.deliver()
    make_room = place.fill("b.txt")
    (tmp_path / "analysis").mkdir()
    for name in ("a.txt", "b.txt", "c.txt"):
        (tmp_path / "analysis" / name).write_text(name)
    spool.append("artifacts", path="analysis")
    spool.append("status", status="FINISHED")
    delivery.deliver()
    delivery.close()
    [kept] = place.runs()
    assert kept.files == {"analysis/a.txt": b"a.txt", "analysis/c.txt": b"c.txt"}
    assert kept.status[0] == "FINISHED"
    assert [kind for kind, _ in warnings] == ["file"]
    assert f"{tmp_path / 'analysis' / 'b.txt'} was not uploaded" in warnings[0][1]
    assert not delivery.is_complete

    make_room()
    later = Delivery(tmp_path, place.store())
    assert not later.is_complete
    later.deliver()
    later.close()
    [kept] = place.runs()
    assert kept.files == {f"analysis/{name}.txt": f"{name}.txt".encode() for name in "abc"}
    assert later.is_complete


def test_a_run_is_found_again_by_its_spool(place: Place, tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    start(spool)
    spool.append("metrics", step=1, data={"loss": 1.0})
    with closing(Delivery(tmp_path, place.store())) as first:
        first.deliver()
    (tmp_path / "tracking.offset").unlink()
    spool.append("metrics", step=2, data={"loss": 0.5})
    with closing(Delivery(tmp_path, place.store())) as second:
        assert second.url is None
        second.deliver()
    [kept] = place.runs()
    assert [step for _, step, _ in kept.points] == [1, 2]
    assert (second.state.run_id, second.url) == (first.state.run_id, first.url)
    assert first.url is not None


def test_what_a_store_has_is_not_sent_again(tmp_path: Path) -> None:
    write(tmp_path)
    place = Memory()
    with closing(Delivery(tmp_path, place.store())) as delivery:
        delivery.deliver()
    assert delivery.has_sent
    states = json.loads((tmp_path / "tracking.offset").read_text())
    assert states["memory:"]["offset"] == (tmp_path / "tracking.jsonl").stat().st_size
    [kept] = place.runs()
    kept.tags["state"] = "changed by a person"
    with closing(Delivery(tmp_path, place.store())) as again:
        again.deliver()
    assert not again.has_sent
    assert kept.tags["state"] == "changed by a person"


@pytest.mark.parametrize("part", ["params", "tags", "points", "files", "status"])
def test_what_a_store_has_lost_is_sent_again(part: str, tmp_path: Path) -> None:
    wanted = write(tmp_path)
    place = Memory()
    for _ in range(2):
        with closing(Delivery(tmp_path, place.store())) as delivery:
            delivery.deliver()
        [kept] = place.runs()
        same(kept, wanted)
        if part == "status":
            kept.status = ("RUNNING", None)
        else:
            getattr(kept, part).popitem()
