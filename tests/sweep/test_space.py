"""Spaces: Hydra's syntax in, points, names and identities out."""

import dataclasses
import itertools

import pytest
import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import create_config_search_path
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from experiments.config.settings import SweepSettings
from experiments.files import CONF
from experiments.sweep import checks
from experiments.sweep.checks import check_space
from experiments.sweep.space import point_id
from tests.config.test_compose import arguments
from tests.sweep.conftest import TINY, space_of

FILES = {"config_name": "config", "config_dir": None}


@pytest.mark.parametrize(
    "arguments",
    [
        ["model=resnet18,resnet20", "optimizer.lr=0.1,0.2", "seed=0,1,2"],
        ["seed=range(3)", "aug=glob(*, exclude=[*crop*, rand*])", "trainer.epochs=5"],
        ["optimizer.lr=choice(0.1,0.2)", "+model.x=[1,2],[3]", "~aug.image.flip", "data.root='a b'"],
        ["model=resnet18,resnet20", "model=resnet34,davidnet"],
    ],
)
def test_a_grid_has_the_points_and_the_order_of_hydras_basic_sweeper(arguments: list[str]):
    loader = ConfigLoaderImpl(create_config_search_path(str(CONF)))
    overrides = OverridesParser.create(loader).parse_overrides(arguments)
    (theirs,) = BasicSweeper.split_arguments([o for o in overrides if not o.is_delete()], None)
    space = space_of(*arguments)
    ours = [space.overrides(space.point(values)) for values in space.grid()]
    assert [sorted(part for part in point if part[0] != "~") for point in ours] == [sorted(p) for p in theirs]


def test_intervals_and_ranges_are_optunas_distributions():
    space = space_of(
        "optimizer.lr=tag(log, interval(0.01, 1))",
        "optimizer.weight_decay=interval(0, 1e-3)",
        "trainer.batch_size=tag(log, int(interval(32, 512)))",
        "trainer.epochs=range(2, 9, 3)",
        "trainer.label_smoothing=range(0.0, 0.3, 0.1)",
        "model=resnet18,resnet20",
        "seed=0,1",
    )
    assert space.distributions == {
        "optimizer.lr": FloatDistribution(0.01, 1.0, log=True),
        "optimizer.weight_decay": FloatDistribution(0.0, 1e-3),
        "trainer.batch_size": IntDistribution(32, 512, log=True),
        "trainer.epochs": IntDistribution(2, 8, step=3),
        "trainer.label_smoothing": FloatDistribution(0.0, 0.2, step=0.1),
        "model": CategoricalDistribution(("resnet18", "resnet20")),
    }
    assert not space.discrete
    assert space.seeds == ({"seed": "0"}, {"seed": "1"})


def test_zipped_lists_go_together():
    keys = ("optimizer.lr", "optimizer.weight_decay")
    space = space_of(
        "optimizer.lr=0.1,0.2", "model=resnet18,resnet20", "optimizer.weight_decay=1,2", zipped=keys
    )
    points = [space.point(values) for values in space.grid()]
    assert points == [
        {"optimizer.lr": lr, "optimizer.weight_decay": decay, "model": model}
        for (lr, decay), model in itertools.product([("0.1", "1"), ("0.2", "2")], ["resnet18", "resnet20"])
    ]


def test_a_shuffled_list_keeps_its_order_for_good():
    values = [space_of("optimizer.lr=shuffle(range(1,20))").dimensions[0].values for _ in range(2)]
    assert values[0] == values[1] != tuple(range(1, 20))


WRONG = {
    "seed=interval(0,1)": "seeds repeat a point",
    "optimizer.lr=interval(1,0.1)": "optimizer.lr: an interval needs low < high, got 1.0 and 0.1",
    "optimizer.lr=tag(log,interval(0,1))": "needs 0 < low < high",
    "optimizer.lr=tag(lin,interval(0,1))": "tag must be log, got lin",
    "optimizer.lr=tag(log,choice(0.1,0.2))": r"tag\(log, ...\) is for an interval",
    "model=glob(x*)": "matches nothing",
    "sweep.n_trials=1,2": "sweep.n_trials cannot be swept",
    "optimizer.lr=range(3,3)": "the range is empty",
}


@pytest.mark.parametrize("argument", WRONG)
def test_what_cannot_be_swept_is_told(argument: str):
    with pytest.raises(ValueError, match=WRONG[argument]):
        space_of(argument)


def test_two_spellings_of_one_value_are_one_point():
    (dimension,) = space_of("+model.x=1,1.0,1e0,'1',true,0.10,1e-1,a,'a',-1,nan,NaN").dimensions
    assert dimension.values == ("1", "'1'", "True", "0.1", "a", "-1", "nan")
    assert dimension.again == ("1.0", "'a'")


def test_zipped_lists_must_fit():
    with pytest.raises(ValueError, match="lists of one length, got optimizer.lr: 2, seed: 3"):
        space_of("optimizer.lr=1,2", "seed=1,2,3", zipped=("optimizer.lr", "seed"))
    with pytest.raises(ValueError, match="sweep.zip: trainer.epochs must be swept"):
        space_of("optimizer.lr=1,2", zipped=("optimizer.lr", "trainer.epochs"))


def test_a_trial_is_named_by_what_varies():
    space = space_of("model=resnet18,resnet20", "optimizer.lr=0.1,0.2", "seed=0,2")
    point = space.point({"model": "resnet20", "optimizer.lr": "0.1", "seed": "2"})
    assert space.label(point) == "resnet20 lr=0.1 s2"
    assert space.folder_name(point) == "resnet20_lr-0.1_s2"


def test_folder_names_are_safe_short_and_unique():
    space = space_of(
        "optimizer.lr=interval(0,1)",
        "+aug.image.x={_target_: a.B, p: 0.1},{_target_: a.B, p: [0.1]},'a/b c','" + "x" * 300 + "'",
        "seed=1,2",
    )
    extra = space.dimensions[1].values
    points = [
        space.point({"optimizer.lr": lr, "+aug.image.x": x, "seed": seed})
        for lr in (0.123456, 0.1234561, 1e-5)
        for x in extra
        for seed in ("1", "2")
    ]
    names = [space.folder_name(point) for point in points]
    assert len(set(names)) == len(points)
    assert all(len(name) <= 120 and not set(name) - set(SAFE) for name in names)
    assert len({point_id(point) for point in points}) == len(points)


SAFE = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.+-"


def test_the_identity_leaves_out_what_changes_no_result():
    one = space_of(
        "optimizer.lr=0.10,0.2", "seed=0,1", "trainer.epochs=3", "tracking=none", "sweep.n_trials=3"
    )
    other = space_of("trainer.epochs=3", "seed=0,1", "optimizer.lr=0.1,0.2", "analysis.level=light")
    assert one.identity() == other.identity()
    assert one.identity() != space_of("optimizer.lr=0.1", "seed=0,1", "trainer.epochs=3").identity()


GRID = SweepSettings(sampler="grid", test="all")
MISTAKES = {
    "trainer.epochs=2,0": r"trainer.epochs must be at least 1, got 0 \(at point trainer.epochs=0",
    "optimizer.lrr=1,2": "optimizer.lrr is not a key",
    "optimizer.lr=interval(-1,1)": r"Invalid learning rate: -1.0 \(at point optimizer.lr=-1.0",
    "optimizer=adam,adamw optimizer.eps=x": r"optimizer.eps must be a number, got 'x' \(at point ",
    "optimizer=adam,sgd optimizer.eps=1e-6": r"optimizer.eps is not a key.*\(at point optimizer=sgd",
    "optimizer=sgd,adam optimizer.eps=1e-6": r"optimizer.eps is not a key.*\(at point optimizer=sgd",
    "model=resnet20,resnet19": "model=resnet19 is not an option of model",
    "optimizer.lr=0.1,abc": r"optimizer.lr must be a number, got 'abc' \(at point optimizer.lr=abc",
    "+aug.image.x={_target_: albumentations.Blur},{_target_: os.system}": "_target_ must name a class under",
}


@pytest.mark.parametrize("argument", MISTAKES)
@pytest.mark.parametrize("more", [[], ["optimizer.weight_decay=range(0,15)", "seed=range(15)"]])
def test_one_wrong_point_among_few_or_many_is_found(argument: str, more: list[str]):
    with pytest.raises(ValueError, match=MISTAKES[argument]):
        check_space(space_of(*TINY, *arguments(argument), *more), GRID, FILES)


def test_a_law_that_ties_two_areas_is_found_in_a_large_space():
    large = ["optimizer.weight_decay=range(0,15)", "seed=range(15)", "trainer.epochs=3,9"]
    with pytest.raises(ValueError, match="scheduler.warmup_epochs must be .* 3.* got 5"):
        check_space(space_of(*TINY, *large, "scheduler=cosine", "scheduler.warmup_epochs=0,5"), GRID, FILES)


def test_a_law_that_ties_augmentation_and_training_is_found_in_a_large_space(monkeypatch):
    monkeypatch.setattr(checks, "EACH", 10)
    large = ["optimizer.weight_decay=range(0,6)", "aug=none,flip", "trainer.alternating_flip=false,true"]
    with pytest.raises(ValueError, match=r"alternating_flip is in place of .* aug=flip trainer"):
        check_space(space_of(*TINY, *large), GRID, FILES)


@pytest.mark.parametrize(
    ("argument", "options", "law"),
    [
        (
            "data.val_size=0.5,0",
            {"pruner": "median"},
            "data.val_size must be above 0 for a search or a pruner",
        ),
        ("data.val_size=0.5,0", {"refit": True}, "data.val_size must be above 0 for sweep.refit"),
        ("scheduler=one_cycle,plateau", {"refit": True}, "sweep.refit has no validation accuracy"),
    ],
)
def test_every_point_must_be_fit_to_be_chosen(argument: str, options: dict, law: str):
    with pytest.raises(ValueError, match=law):
        check_space(space_of(*TINY, argument), dataclasses.replace(GRID, **options), FILES)


@pytest.mark.parametrize("more", [[], ["optimizer.weight_decay=range(0,300)"]])
def test_accuracies_of_test_and_of_validation_pictures_are_not_swept_together(more: list[str]):
    law = "data.val_size must be 0 at all points .* it is 0 at .*val_size=0.* but not at .*val_size=0.5"
    with pytest.raises(ValueError, match=law):
        check_space(space_of(*TINY, "data.val_size=0,0.5", *more), GRID, FILES)
    check_space(space_of(*TINY, "data.val_size=0", "seed=0,1"), GRID, FILES)
    check_space(space_of(*TINY, "data.val_size=0.2,0.5"), GRID, FILES)


@pytest.mark.parametrize("preset", ["sweep_lr_wd", "sweep_augmentation", "sweep_models"])
def test_presets_of_sweeps_are_in_order(preset: str):
    params = yaml.safe_load((CONF / "experiment" / f"{preset}.yaml").read_text())["hydra"]["sweeper"][
        "params"
    ]
    arguments = [f"{key}={value}" for key, value in params.items()]
    space = space_of(f"experiment={preset}", *arguments)
    assert space.size > 2
    check_space(space, GRID, FILES)
