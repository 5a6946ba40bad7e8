"""What a configuration's groups become."""

import json
from pathlib import Path

import pytest
import torch

from cifar_core.data.sources import load_data
from cifar_core.train import checkpoint
from experiments.cli import UserError
from experiments.config import build
from experiments.config.compose import compose
from experiments.config.values import settings
from experiments.runs.story import run

SMALL = [
    *(
        "experiment=quickstart",
        "model.width=4",
        "trainer.epochs=1",
        "trainer.batch_size=256",
        "trainer.device=cpu",
    ),
    *("trainer.precision=fp32", "trainer.threads=1", "tracking=none", "analysis=none"),
]


def cfg(*overrides: str):
    return compose([*SMALL, *overrides])


@pytest.mark.parametrize("name", sorted(path.stem for path in Path("conf/optimizer").glob("*.yaml")))
def test_every_optimizer_lowers_the_loss(name):
    chosen = cfg(f"optimizer={name}", "optimizer.lr=0.01")
    torch.manual_seed(0)
    model = build.model(chosen, num_classes=4)
    optimizer = build.optimizer(chosen, model.named_parameters())
    images, labels = torch.randn(16, 3, 16, 16), torch.arange(16) % 4
    losses = []
    for _ in range(12):
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("name", ["sgd", "adamw", "lookahead"])
def test_norms_and_biases_can_be_left_without_weight_decay(name):
    chosen = cfg(f"optimizer={name}", "optimizer.decay_norm_bias=false")
    model = build.model(chosen, num_classes=4)
    layers, others = build.optimizer(chosen, model.named_parameters()).param_groups
    assert layers["weight_decay"] > 0
    assert others["weight_decay"] == 0
    assert layers["lr"] == others["lr"] == chosen.optimizer.lr
    decayed = {id(parameter) for parameter in layers["params"]}
    for key, parameter in model.named_parameters():
        assert (id(parameter) in decayed) == (parameter.ndim > 1), key
    assert len(layers["params"]) + len(others["params"]) == len(list(model.parameters()))


def test_parameters_that_are_not_trained_are_left_to_themselves():
    chosen = cfg("~model.width", "model=airbench", "optimizer=muon")
    model = build.model(chosen, num_classes=10)
    groups = build.optimizer(chosen, model.named_parameters()).param_groups
    given = {id(parameter) for group in groups for parameter in group["params"]}
    assert given == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}


def test_pictures_for_the_start_are_taken_from_all_over_the_training_set():
    chosen = cfg()
    data = load_data(settings(chosen).data)
    data.train.images[:] = torch.arange(len(data.train)).view(-1, 1, 1, 1) % 200
    seen = []
    model = torch.nn.Identity()
    model.init_from_data = seen.append
    build.start_weights(chosen, model, data)
    (images,) = seen
    assert images.dtype == torch.float32
    assert len(images) == len(data.train)  # fewer than INIT_PICTURES
    torch.testing.assert_close(images, data.normalize(data.train.images))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    run(cfg(), folder)
    return folder


def test_a_run_starts_from_the_weights_of_another(trained: Path, tmp_path: Path):
    """With lr 0 the weights stay as they were given, so that the test figure is the other run's."""
    again = cfg(
        f"model.weights={trained}",
        "optimizer.lr=0",
        "optimizer.momentum=0",
        "optimizer.nesterov=false",
        "scheduler=constant",
        "trainer.guards=off",
        "seed=5",
    )
    run(again, tmp_path / "again")
    weights = checkpoint.model_weights(trained)
    ended = checkpoint.model_weights(tmp_path / "again")
    assert torch.equal(weights["fc.weight"], ended["fc.weight"])
    assert torch.equal(weights["layer1.0.conv1.weight"], ended["layer1.0.conv1.weight"])


def test_a_stopped_run_goes_on_without_the_weights_that_it_started_from(trained: Path, tmp_path: Path):
    moved = trained.rename(tmp_path / "moved")
    chosen = cfg(f"model.weights={moved}", "trainer.epochs=2", "trainer.keep=all")
    run(chosen, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    moved.rename(trained)
    run(chosen, tmp_path / "run")
    assert "goes on after epoch 2" in (tmp_path / "run" / "run.log").read_text()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("model.weights=/absent/run", "model.weights: /absent/run is not there"),
        ("model.width=8", "model.weights: the weights are those of another model"),
    ],
)
def test_weights_that_do_not_fit_are_told(trained: Path, tmp_path: Path, change, told):
    with pytest.raises(UserError, match=told):
        run(cfg(f"model.weights={trained}", change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_views_averaged_at_the_end_stand_beside_the_plain_figure(tmp_path: Path):
    run(cfg("trainer.tta=multicrop"), tmp_path / "views")
    run(cfg(), tmp_path / "plain")
    views, plain = (
        json.loads((tmp_path / name / "result.json").read_text())["metrics"] for name in ("views", "plain")
    )
    assert {key: views[key] for key in plain} == plain
    assert views.keys() - plain.keys() == {"test/acc_tta", "val/acc_tta"}
    assert 0 < views["test/acc_tta"] <= 1
