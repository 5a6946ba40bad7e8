"""The controller's bookkeeping, with a backend whose trials end at once."""

import dataclasses
import gc
import json
import resource
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from experiments.comparison.groups import compare
from experiments.config.settings import SweepSettings
from experiments.runs.result import Result
from experiments.sweep.backends.backend import Cause, End
from experiments.sweep.controller import Controller
from experiments.sweep.home import Home
from experiments.sweep.ledger import Ledger, mend, saved_study
from experiments.sweep.runs import runs_of
from experiments.sweep.space import Space
from experiments.sweep.trials import Trial
from experiments.sweep.winner import winner
from tests.sweep.conftest import space_of

Outcome = Callable[[Trial], dict]


def points(trials: Iterable[Trial]) -> list[tuple[str, int, int]]:
    """Return label, finished runs and seeds of each point, the ranked first."""
    return [(c.label, len(c.runs), c.seeds) for c in compare(runs_of(trials)).configurations]


def finished(trial: Trial, acc: float = 0.5) -> dict:
    return {"status": "finished", "metrics": {"val/acc_best": acc}}


class Instant:
    """A backend whose trials write the result that ``outcome`` names and are gone."""

    slots = 2
    end = Cause(End.KILLED, "killed by SIGKILL")

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.started: list[Trial] = []
        self.running: list[Trial] = []

    @property
    def has_room(self) -> bool:
        return len(self.running) < self.slots

    def start(self, trial: Trial, overrides: list[str]) -> None:
        assert self.has_room
        self.running.append(trial)
        self.started.append(dataclasses.replace(trial))
        if result := self.outcome(trial):
            (trial.folder / "result.json").write_text(json.dumps(result))

    def adopt(self, trial: Trial) -> bool:
        return False

    def ended(self, trial: Trial) -> bool:
        self.running.remove(trial)
        return True

    def cause(self, trial: Trial) -> Cause:
        return self.end

    def interrupt(self, trial: Trial) -> None: ...

    def kill(self, trial: Trial) -> None: ...

    def wait(self) -> None: ...


def control(
    folder: Path,
    space: Space,
    outcome: Outcome = finished,
    kind: type[Instant] = Instant,
    **changes: object,
) -> tuple[int, Instant]:
    options = SweepSettings(**{"sampler": "grid"} | changes)
    home = Home(folder)
    home.open(space.identity(), space.lists)
    with home:
        backend = kind(outcome)
        ledger = Ledger(home.ledger, options, epochs=5)
        controller = Controller(space, options, home, ledger, backend, extra=[], tags={})
        return controller.run(), backend


def labels(backend: Instant) -> list[str]:
    return [trial.label for trial in backend.started]


def test_a_grid_starts_in_order_and_once(tmp_path: Path):
    space = space_of("optimizer.lr=0.1,0.2,0.1", "seed=0,1")
    code, backend = control(tmp_path, space)
    assert (code, labels(backend)) == (0, ["lr=0.1 s0", "lr=0.1 s1", "lr=0.2 s0", "lr=0.2 s1"])
    code, backend = control(tmp_path, space)
    assert (code, labels(backend)) == (0, [])


def test_points_that_an_earlier_version_named_alike_end_in_two_folders(tmp_path: Path):
    Trial(0, {"optimizer.lr": "-1"}, {"optimizer.lr": "-1"}, "lr=-1", tmp_path / "lr-1").write()
    _, backend = control(tmp_path, space_of("optimizer.lr=1,-1"))
    assert labels(backend) == ["lr=-1", "lr=1"]  # the one that has begun goes on in its folder
    assert backend.started[0].folder == tmp_path / "lr-1"
    assert {look.folder for look in map(Trial.look, Home(tmp_path).trials().values())} == {
        trial.folder for trial in backend.started
    }
    assert len({trial.folder for trial in backend.started}) == 2


@pytest.mark.parametrize("sampler", ["grid", "tpe"])
def test_further_seeds_are_added_to_what_is_there(tmp_path: Path, sampler: str):
    changes = {"sampler": sampler, "n_trials": 2}
    _, first = control(tmp_path, space_of("optimizer.lr=1,2", "seed=0,1"), **changes)
    _, more = control(tmp_path, space_of("optimizer.lr=1,2", "seed=0,1,2"), **changes)
    assert sorted(labels(first)) == ["lr=1 s0", "lr=1 s1", "lr=2 s0", "lr=2 s1"]
    assert sorted(labels(more)) == ["lr=1 s2", "lr=2 s2"]
    trials = Home(tmp_path).trials().values()
    assert {trial.seeds for trial in trials} == {3}
    assert sorted(points(trials)) == [("lr=1", 3, 3), ("lr=2", 3, 3)]
    assert len(winner(trials)) == 3
    assert [t.state.name for t in saved_study(tmp_path / "ledger.jsonl").trials] == ["COMPLETE"] * 6
    with pytest.raises(ValueError, match="seed: 0,1,2, got 0,1: give the same with all values"):
        refused(tmp_path, "optimizer.lr=1,2", "seed=0,1")


def refused(folder: Path, *arguments: str) -> None:
    space = space_of(*arguments)
    Home(folder).check(space.identity(), space.lists)


def test_a_point_lacks_its_further_seeds_until_they_are_done(tmp_path: Path):
    control(tmp_path, space_of("seed=0,1"))
    failed = {"status": "failed", "error": "no"}
    control(tmp_path, space_of("seed=0,1,2,3"), lambda trial: failed, on_fail="stop")
    shutil.rmtree(tmp_path / "s2")
    shutil.rmtree(tmp_path / "s3")
    trials = Home(tmp_path).trials().values()
    assert [row[1:] for row in points(trials)] == [(2, 4)]
    assert winner(trials) == []


@pytest.mark.parametrize(
    ("few", "more"),
    [
        (["optimizer.lr=1,2"], ["optimizer.lr=1,3,2"]),
        (["trainer.epochs=range(1,3)"], ["trainer.epochs=range(1,4)"]),
        (["+model.x=[1,2],[3,4]"], ["+model.x=[1,2],[3,4],[5,6]"]),
    ],
)
def test_a_grid_may_get_further_values(tmp_path: Path, few: list[str], more: list[str]):
    _, first = control(tmp_path, space_of(*few))
    _, added = control(tmp_path, space_of(*more))
    assert (len(first.started), len(added.started)) == (2, 1)
    assert [t.state.name for t in saved_study(tmp_path / "ledger.jsonl").trials] == ["COMPLETE"] * 3
    assert control(tmp_path, space_of(*more))[1].started == []
    with pytest.raises(ValueError, match="give the same with all values"):
        refused(tmp_path, *few)


@pytest.mark.parametrize("sampler", ["random", "tpe", "cmaes", "qmc"])
def test_a_search_repeats_each_point_with_every_seed_and_can_be_extended(tmp_path: Path, sampler: str):
    space = space_of(
        "optimizer.lr=tag(log, interval(0.001, 1))", "optimizer.weight_decay=interval(0,1)", "seed=0,1,2"
    )

    def outcome(trial: Trial) -> dict:
        return finished(trial, 1 / (1 + abs(float(trial.point["optimizer.lr"]) - 0.1)))

    _, backend = control(tmp_path, space, outcome, sampler=sampler, n_trials=6)
    points = {json.dumps({k: v for k, v in t.point.items() if k != "seed"}) for t in backend.started}
    assert len(points) == 6
    assert len(backend.started) == 18
    assert all(0.001 <= float(trial.point["optimizer.lr"]) <= 1 for trial in backend.started)
    assert "seed" not in saved_study(tmp_path / "ledger.jsonl").trials[0].params
    assert control(tmp_path, space, outcome, sampler=sampler, n_trials=6)[1].started == []
    _, more = control(tmp_path, space, outcome, sampler=sampler, n_trials=6, add_trials=2)
    assert len(more.started) == 6
    assert not points & {json.dumps({k: v for k, v in t.point.items() if k != "seed"}) for t in more.started}
    _, further = control(tmp_path, space, outcome, sampler=sampler, n_trials=6, add_trials=2)
    assert len(further.started) == 6
    proposed = saved_study(tmp_path / "ledger.jsonl").trials  # a known point would be there as failed
    assert [trial.state.name for trial in proposed] == ["COMPLETE"] * 30


def test_an_extended_qmc_search_has_the_points_of_a_whole_one(tmp_path: Path):
    space = space_of("optimizer.lr=interval(0.001, 1)")
    _, whole = control(tmp_path / "whole", space, sampler="qmc", n_trials=5)
    _, begun = control(tmp_path / "extended", space, sampler="qmc", n_trials=2)
    _, more = control(tmp_path / "extended", space, sampler="qmc", n_trials=2, add_trials=3)
    assert labels(begun) + labels(more) == labels(whole)


def test_a_search_of_few_points_runs_each_once_and_ends(tmp_path: Path):
    space = space_of("optimizer.lr=0.1,0.2,0.3", "model=resnet18,resnet20")
    code, backend = control(tmp_path, space, sampler="tpe", n_trials=40)
    assert code == 0
    assert sorted(labels(backend)) == sorted(
        f"lr={lr} {model}" for lr in (0.1, 0.2, 0.3) for model in ("resnet18", "resnet20")
    )
    proposed = saved_study(tmp_path / "ledger.jsonl").trials  # known points among them
    assert {trial.state.name for trial in proposed} == {"COMPLETE", "FAIL"}


def test_a_proposal_that_never_got_its_folder_is_given_up(tmp_path: Path):
    space, search = space_of("optimizer.lr=interval(0.001, 1)"), {"sampler": "random", "n_trials": 2}
    ledger = Ledger(tmp_path / "ledger.jsonl", SweepSettings(**search), epochs=5)
    ledger.ask(space.distributions)  # and the controller is killed
    _, backend = control(tmp_path, space, **search)
    assert len(backend.started) == 2
    assert [trial.state.name for trial in ledger.trials()] == ["FAIL", "COMPLETE", "COMPLETE"]


def test_an_interrupted_extension_is_not_added_twice(tmp_path: Path):
    home = Home(tmp_path)
    home.open({})
    with home:
        assert home.target(10, 0) == 10
        assert home.target(10, 5) == home.target(10, 5) == 15
        home.reached()
        assert home.target(10, 0) == 15
        assert home.target(10, 5) == 20


def test_an_extension_that_a_failure_stopped_is_not_added_twice(tmp_path: Path):
    space, search = space_of("optimizer.lr=interval(0.001, 1)"), {"sampler": "random", "n_trials": 2}
    control(tmp_path, space, **search)
    failed = {"status": "failed", "error": "no"}
    code, _ = control(tmp_path, space, lambda trial: failed, on_fail="stop", add_trials=2, **search)
    assert code == 1
    assert control(tmp_path, space, add_trials=2, **search)[0] == 0
    assert len(Home(tmp_path).trials()) == 4


SIX = ["optimizer.lr=1,2,3,4,5,6"]


def bad(trial: Trial) -> dict:
    return {"status": "failed", "error": "no"} if trial.point["optimizer.lr"] in "24" else finished(trial)


@pytest.mark.parametrize(
    ("changes", "begun"),
    [({}, 6), ({"on_fail": "stop"}, 2), ({"max_failures": 1}, 2), ({"max_failures": 2}, 4)],
)
def test_failures_stop_the_sweep_only_where_asked(tmp_path: Path, changes: dict, begun: int):
    code, backend = control(tmp_path, space_of(*SIX), bad, **changes)
    assert code == 1
    assert len(backend.started) == begun
    code, again = control(tmp_path, space_of(*SIX), **changes)  # the cause is mended
    assert code == 0
    assert sorted(labels(again)) == [f"lr={n}" for n in range(2, 7) if n in (2, 4) or n > begun]


@pytest.mark.parametrize(
    ("result", "attempts"),
    [
        ({}, 3),  # killed
        ({"status": "failed", "error": "CUDA out of memory. Tried to allocate 2 GiB"}, 3),
        ({"status": "failed", "error": "use a smaller one", "cause": "memory"}, 3),
        ({"status": "failed", "error": "a defect"}, 1),
        ({"status": "failed", "error": "no: out of memory cells", "cause": "failed"}, 1),
    ],
)
def test_only_kills_and_lack_of_memory_are_tried_again(tmp_path: Path, result: dict, attempts: int):
    code, backend = control(tmp_path, space_of("optimizer.lr=1"), lambda trial: result, retries=2)
    assert code == 1
    assert len(backend.started) == attempts
    assert {trial.number for trial in backend.started} == {0}
    _, again = control(tmp_path, space_of("optimizer.lr=1"), lambda trial: result, retries=2)
    assert len(again.started) == attempts  # the next call has as many


@pytest.mark.parametrize(
    ("cause", "attempts", "error"),
    [
        (Cause(End.KILLED, "killed by SIGKILL"), 2, "killed by SIGKILL"),
        (Cause(End.VANISHED, "ended unseen"), 2, "ended unseen: it was killed by a joke"),
        (Cause(End.MEMORY, "out of memory"), 2, "out of memory: it was killed by a joke"),
        (Cause(End.TIMEOUT, "sweep.timeout: longer than 3 s"), 1, "sweep.timeout: longer than 3 s"),
        (Cause(End.FAILED, "exit code 1"), 1, "exit code 1: it was killed by a joke"),
    ],
)
def test_the_kind_of_an_end_and_not_its_words_decides(
    tmp_path: Path, cause: Cause, attempts: int, error: str
):
    def outcome(trial: Trial) -> dict:
        (trial.folder / "trial.log").write_text("begun\nit was killed by a joke\n")
        (trial.folder / "metrics.csv").write_text("epoch,val/acc\n1,0.5\n2,0.6\n")
        return {}

    class Ending(Instant):
        end = cause

    _, backend = control(tmp_path, space_of("optimizer.lr=1"), outcome, Ending)
    assert len(backend.started) == attempts
    (trial,) = Home(tmp_path).trials().values()
    assert json.loads((trial.folder / "result.json").read_text()) == {
        **{"format": 1, "status": "failed", "metrics": {}, "seconds": {}, "epochs": 2, "run_id": None},
        **{"error": error, "cause": cause.end.value, "log": ["begun", "it was killed by a joke"]},
    }


def test_the_winner_has_the_best_mean_of_the_points_with_all_seeds(tmp_path: Path):
    accs = {"1": (0.5, 0.9), "2": (0.8, 0.8), "3": (0.99, None), "4": (0.98, 0.98)}

    def outcome(trial: Trial) -> dict:
        acc = accs[trial.point["optimizer.lr"]][int(trial.point["seed"])]
        return {"status": "failed", "error": "no"} if acc is None else finished(trial, acc)

    control(tmp_path, space_of("optimizer.lr=1,2,3,4", "seed=0,1"), outcome)
    shutil.rmtree(tmp_path / "lr-4_s1")  # as if it had not begun
    trials = Home(tmp_path).trials().values()
    assert [trial.label for trial in winner(trials)] == ["lr=2 s0", "lr=2 s1"]
    assert points(trials) == [
        *(("lr=2", 2, 2), ("lr=1", 2, 2)),
        *(("lr=3", 1, 2), ("lr=4", 1, 2)),  # a mean over some seeds ranks nothing
    ]


def test_a_point_whose_other_seeds_have_not_begun_is_not_the_winner(tmp_path: Path):
    control(tmp_path, space_of("seed=0,1", "optimizer.lr=1"), lambda trial: finished(trial, 0.9))
    shutil.rmtree(tmp_path / "s1")
    trials = list(Home(tmp_path).trials().values())
    assert (len(trials), winner(trials)) == (1, [])
    assert points(trials) == [("defaults", 1, 2)]


class Obedient(Instant):
    """Trials without a result go on until they are told to end, as pruned."""

    def ended(self, trial: Trial) -> bool:
        if (trial.folder / "stop").exists():
            (trial.folder / "result.json").write_text('{"status": "pruned", "metrics": {}}')
        return trial.look().result is not None and super().ended(trial)


def test_a_point_is_pruned_as_a_whole_by_its_first_seed(tmp_path: Path):
    def outcome(trial: Trial) -> dict:
        good, first = trial.point["optimizer.lr"] == "1", trial.point["seed"] == "3"
        acc = 0.5 if good else 0.1 if first else 0.9  # the other seeds of the bad point are lucky
        rows = "".join(f"{epoch},{acc}\n" for epoch in (1, 2, 3))
        (trial.folder / "metrics.csv").write_text(f"epoch,val/acc\n{rows}")
        return finished(trial, acc) if good else {}

    space = space_of("optimizer.lr=1,2", "seed=3,1,2")
    code, backend = control(tmp_path, space, outcome, Obedient, pruner="asha")
    assert code == 0
    assert labels(backend) == ["lr=1 s3", "lr=1 s1", "lr=1 s2", "lr=2 s3", "lr=2 s1"]  # two at a time
    statuses = [trial.look().status for trial in Home(tmp_path).trials().values()]
    assert statuses == ["finished"] * 3 + ["pruned"] * 2
    code, again = control(tmp_path, space, outcome, Obedient, pruner="asha")
    assert (code, again.started) == (0, [])
    assert points(Home(tmp_path).trials().values()) == [("lr=1", 3, 3), ("lr=2", 0, 3)]


class Epochwise(Instant):
    """Trials that train one epoch between two looks, eight in all; those of lr=5 get nowhere."""

    slots = 1
    stride = 1  # epochs between two looks

    def ended(self, trial: Trial) -> bool:
        done = len(trial.look().history)
        if (trial.folder / "stop").exists():
            (trial.folder / "result.json").write_text('{"status": "pruned", "metrics": {}}')
        elif done == 8:
            (trial.folder / "result.json").write_text(json.dumps(finished(trial)))
        else:
            acc = 0.1 if trial.point["optimizer.lr"] == "5" else 0.5
            rows = "".join(f"{epoch},{acc}\n" for epoch in range(1, done + self.stride + 1))
            (trial.folder / "metrics.csv").write_text(f"epoch,val/acc\n{rows}")
        return trial.look().result is not None and super().ended(trial)


class FourEpochsApart(Epochwise):
    """Trials that train four epochs between two looks."""

    stride = 4


@pytest.mark.parametrize(
    ("pruner", "prune_after", "kind", "epochs"),
    [
        *(("median", 1, Epochwise, 2), ("median", 2, Epochwise, 3)),
        # Successive halving decides after prune_after epochs, which is too early to end, and at three times.
        *(("asha", 1, Epochwise, 3), ("asha", 2, Epochwise, 6), ("hyperband", 1, Epochwise, 3)),
        ("asha", 1, FourEpochsApart, 4),  # the third one's figure is not the last that is seen
    ],
)
def test_a_hopeless_trial_ends_after_the_epochs_in_which_none_is_pruned(
    tmp_path: Path, pruner: str, prune_after: int, kind: type[Instant], epochs: int
):
    space = space_of("optimizer.lr=1,2,3,4,5")
    code, _ = control(tmp_path, space, lambda trial: {}, kind, pruner=pruner, prune_after=prune_after)
    looks = [trial.look() for trial in Home(tmp_path).trials().values()]
    assert code == 0
    assert [look.status for look in looks] == ["finished"] * 4 + ["pruned"]
    assert [len(look.history) for look in looks] == [8] * 4 + [epochs]


def test_the_other_seeds_of_a_pruned_point_are_not_tried_again(tmp_path: Path):
    def outcome(trial: Trial) -> dict:
        return {"status": "pruned", "metrics": {}} if trial.point["seed"] == "0" else {}  # killed

    _, backend = control(tmp_path, space_of("seed=0,1"), outcome, retries=2)
    assert labels(backend) == ["s0", "s1"]
    _, again = control(tmp_path, space_of("seed=0,1"), outcome, retries=2)
    assert again.started == []


def test_memory_stays_flat(tmp_path: Path):
    """Between the 300th and the 900th trial only the ledger and a small record of each trial are added."""
    sizes: list[int] = []

    def outcome(trial: Trial) -> dict:
        if trial.number in (300, 900):
            gc.collect()
            sizes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return finished(trial)

    control(tmp_path, space_of("seed=range(901)"), outcome)
    assert sizes[1] - sizes[0] < 600 * 16  # KiB


@pytest.mark.parametrize("damage", ["", '{"number": 0, "poi', "[]", '{"number": 0}'])
@pytest.mark.parametrize("sampler", ["grid", "tpe"])
def test_a_damaged_record_of_a_trial_is_mended(tmp_path: Path, damage: str, sampler: str):
    space, changes = space_of("optimizer.lr=1,2", "seed=0,1"), {"sampler": sampler, "n_trials": 2}
    control(tmp_path, space, **changes)
    record = tmp_path / "lr-1_s1" / "trial.json"
    before = json.loads(record.read_text())
    record.write_text(damage)
    assert len(Home(tmp_path).trials()) == 3
    assert control(tmp_path, space, **changes)[1].started == []
    after = json.loads(record.read_text())
    kept = ("number", "point", "values", "label", "seeds")
    assert [after[key] for key in kept] == [before[key] for key in kept]


def test_a_record_with_a_key_of_a_later_version_is_read(tmp_path: Path):
    Trial(3, {"seed": "1"}, {}, "s1", tmp_path / "s1").write()
    record = json.loads((tmp_path / "s1" / "trial.json").read_text())
    (tmp_path / "s1" / "trial.json").write_text(json.dumps(record | {"node": "a"}))
    assert Trial.read(tmp_path / "s1" / "trial.json").number == 3


def test_a_trial_that_ends_between_two_looks_of_a_new_controller_is_entered(tmp_path: Path):
    space = space_of("seed=0,1,2")

    def outcome(trial: Trial) -> dict:
        if trial.point["seed"] == "0":  # one of an earlier controller comes to its end
            Result(metrics={"val/acc_best": 0.7}).write(tmp_path / "s1")
        return finished(trial)

    for seed in "012":
        Trial(int(seed), {"seed": seed}, {}, f"s{seed}", tmp_path / f"s{seed}").write()
    code, backend = control(tmp_path, space, outcome)
    assert (code, labels(backend)) == (0, ["s0", "s2"])
    values = {t.user_attrs["point"]: t.value for t in saved_study(tmp_path / "ledger.jsonl").trials}
    assert sorted(values.values()) == [0.5, 0.5, 0.7]


def test_a_damaged_record_of_a_sweep_is_told(tmp_path: Path):
    (tmp_path / "sweep.yaml").write_text("identity: {")
    with pytest.raises(OSError, match=r"sweep.yaml is damaged .* remove it, and the same command"):
        Home(tmp_path).check({})


def test_a_torn_ledger_is_cut_and_goes_on(tmp_path: Path):
    control(tmp_path, space_of("seed=0,1"))
    ledger = tmp_path / "ledger.jsonl"
    whole = ledger.read_bytes()
    ledger.write_bytes(whole + b'{"op_code": 4, "wor')
    assert len(saved_study(ledger).trials) == 2
    mend(ledger)
    assert ledger.read_bytes() == whole
    ledger.write_bytes(whole[:-20])
    _, backend = control(tmp_path, space_of("seed=0,1"))
    assert backend.started == []
    assert [t.state.name for t in saved_study(ledger).trials] == ["COMPLETE", "COMPLETE"]
