"""Composition: everything shipped builds, everything wrong is told in one line before anything starts."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from experiments.config import build
from experiments.config.compose import compose, compose_saved
from experiments.config.values import plain, with_constants
from experiments.files import CONF
from tests.conftest import Cli

OPTIONS = sorted(
    (path.parent.name, path.stem) for path in CONF.glob("*/*.yaml") if path.parent.name not in ("experiment",)
)
PRESETS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
NEEDED = {("data", "folder"): ["data.root=pictures"]}  # what an option does not work without


def test_the_defaults_are_all_there():
    assert {group for group, _ in OPTIONS} == {
        *("data", "model", "aug", "optimizer", "scheduler"),
        *("trainer", "tracking", "analysis", "sweep"),
    }


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_builds(group: str, option: str):
    narrow = [] if group == "model" else ["model.width=8"]
    cfg = compose([f"{group}={option}", *narrow, *NEEDED.get((group, option), [])])
    cfg = with_constants(cfg, [127.5] * 3, [64.0] * 3)  # as a run has measured them
    model = build.model(cfg, num_classes=7)
    assert sum(p.numel() for p in model.parameters()) > 0
    optimizer = build.optimizer(cfg, model.named_parameters())
    scheduler = build.scheduler(cfg, optimizer, steps_per_epoch=5)
    assert optimizer.param_groups[0]["lr"] == scheduler.get_last_lr()[0] > 0
    images = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    augmented = build.augment(cfg)(images, torch.arange(len(images)))
    assert (augmented.shape, augmented.dtype) == (images.shape, torch.uint8)
    if mix := build.mix(cfg, num_classes=7):
        mixed, targets = mix(images / 255, torch.tensor([0, 1, 2, 6]))
        assert mixed.shape == images.shape
        torch.testing.assert_close(targets.sum(1), torch.ones(4))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_composes(preset: str):
    compose([f"experiment={preset}"])
    text = (CONF / "experiment" / f"{preset}.yaml").read_text()
    assert f"# python -m experiments.run experiment={preset}" in text


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_says_what_it_is(group: str, option: str):
    assert (CONF / group / f"{option}.yaml").read_text().startswith("# ")


def test_a_step_can_be_changed_taken_out_and_added():
    cfg = compose(
        [
            "aug=cutout",
            "aug.image.cutout.p=0.5",
            "~aug.image.flip",
            "+aug.image.blur={_target_: albumentations.Blur, p: 0.1}",
        ]
    )
    assert list(cfg.aug.image) == ["pad", "crop", "cutout", "blur"]
    assert cfg.aug.image.cutout.p == 0.5


def test_a_folder_of_own_options(tmp_path: Path):
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "mine.yaml").write_text("_target_: torch.optim.SGD\nlr: 0.3\n")
    assert compose(["optimizer=mine"], config_dir=str(tmp_path)).optimizer.lr == 0.3


def test_own_code_is_allowed_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "my_package.py").write_text("from torch.optim import SGD\nclass Mine(SGD): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"optimizer\._target_ must name a class under"):
        compose(["optimizer._target_=my_package.Mine"])
    compose(["optimizer._target_=my_package.Mine", "security.allowed_targets=[my_package.]"])


WRONG = {
    "trainer.epochs=abc": "trainer.epochs must be a whole number, got 'abc'",
    "trainer.epochs=1.5": "trainer.epochs must be a whole number",
    "trainer.epochs=0": "trainer.epochs must be at least 1, got 0",
    "trainer.epochz=3": r"trainer.epochz is not a key \(did you mean epochs\?\)",
    "+trainer.epochz=3": r"trainer.epochz is not a key \(did you mean epochs\?\)",
    "+epochs=3": "epochs is not a key",
    "+sweep.slurm.gpu=1": r"sweep.slurm.gpu is not a key \(did you mean gpus\?\)",
    "+security.allowed=[x.]": r"security.allowed is not a key \(did you mean allowed_targets\?\)",
    "model=resnet19": r"model=resnet19 is not an option of model \(did you mean resnet18\?\).*davidnet",
    "modle=resnet18": r"modle is not a key \(did you mean model\?\)",
    "experiment=quick": "experiment=quick is not an option",
    "optimizer.lrr=1": r"optimizer.lrr is not a key \(did you mean lr\?\)",
    "+optimizer.lrr=1": "optimizer.lrr is not an argument of torch.optim.SGD",
    "optimizer.lr=-1": "optimizer.lr: Invalid learning rate: -1",
    "~optimizer._target_": "optimizer._target_ must be given",
    "scheduler.warmup_epochs=101": "scheduler.warmup_epochs must be at least 0 and at most trainer.epochs",
    "data=folder": "data.root must be given",
    "data.source=mnist": "data.source must be one of cifar10, cifar100, folder, digits, got 'mnist'",
    "data.mean=[1,2]": "data.mean must be three numbers",
    "data.std=[0,1,1]": "data.std must be above 0",
    "data.val_size=1.5": "data.val_size must be 0, a share below 1, or a whole number of pictures, got 1.5",
    "data.val_size=-1": "data.val_size must be",
    "seed=-1": "seed must be at least 0 and below 2\\*\\*64, got -1",
    "seed=18446744073709551616": "seed must be at least 0 and below 2",
    "trainer.test=maybe": "trainer.test must be true or false, got 'maybe'",
    "trainer.precision=int8": "trainer.precision must be one of auto, fp32, bf16, fp16, got 'int8'",
    "trainer.device=tpu": "trainer.device must be auto, cpu, mps, cuda or cuda:N, got 'tpu'",
    "trainer.label_smoothing=1": r"trainer.label_smoothing must be in \[0, 1\), got 1",
    "analysis.level=some": "analysis.level must be one of full, light, none",
    "aug.backend=gpu": "aug.backend must be one of auto, batched, albumentations, got 'gpu'",
    "aug.image.flip.p=1.5": r"aug\.image\.flip\.p: input should be less than or equal to 1, got 1\.5",
    "+aug.image.flip.prob=1": "aug.image.flip.prob is not an argument of albumentations.HorizontalFlip",
    "aug.image.crop.height=64": r"aug\.image",
    "+aug.image.x={_target_: albumentations.Blurr}": r"Blurr is not there \(did you mean Blur\?\)",
    "+aug.image.x={_target_: os.system}": "aug.image.x._target_ must name a class under",
    "aug.batch={_target_: torchvision.transforms.v2.MixUp, alphaa: 1}": "aug.batch.alphaa is not an argument",
    "tracking.uri=postgresql://me:s3cret@host/db": r"tracking.uri must hold no password.*me:\*\*\*@host",
    "tracking.uri=mlruns": "tracking.uri must start with one of sqlite",
    "trainer": "trainer must be a key and its value, as in trainer=",
    "seed=0,1": "seed=0,1 has several values: add -m",
    "data.root=${nowhere}": "'nowhere'",
    "data.root=${oc.env:AWS_SECRET_ACCESS_KEY,x}": r"data.root may use only .*AWS_SECRET_ACCESS_KEY",
    "optimizer.lr=${optimizer.lr}": "optimizer.lr reads itself",
    "model.width=-4": "model.width: every layer must have at least one channel, got -4",
    "model.drop_rate=2": "model.drop_rate: dropout probability has to be between 0 and 1, but got 2",
    "+model.drop2d.tail=0.1": "model.drop2d.tail: .* unexpected keyword argument 'tail'",
    "+optimizer.params=3": "optimizer.params comes from the run itself",
    "optimizer=adam optimizer.betas=[2,3]": "optimizer.betas: Invalid beta parameter at index 0: 2",
    "trainer.test=off": "trainer.test must be true or false, got 'off': write false",
    "trainer={test: 1}": "trainer.test must be true or false, got 1",
    "trainer.epochs=null": "trainer.epochs must have a value, got null",
    "trainer.epochs='3'": "trainer.epochs must be a whole number, got '3': write it without quotes",
    "+aug.imge=3": r"aug.imge is not a key \(did you mean image\?\)",
    "aug.workers=true": "aug.workers must be auto or a number of processes, got True",
    "tracking.experiment=${python_version:micro}": "tracking.experiment may use only the resolvers",
}


def arguments(words: str) -> list[str]:
    """Return the arguments in a line of them: a space starts another where a key follows it."""
    return re.split(r" (?=[a-z_.]+=)", words)


@pytest.mark.parametrize("override", WRONG)
def test_a_mistake_is_one_line_that_names_it(override: str):
    with pytest.raises(ValueError, match=WRONG[override]) as caught:
        compose(arguments(override))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "target",
    [
        "albumentations.core.serialization.Path.write_text",  # allowed prefix, foreign object
        "torch.nn.modules.module.torch.load",
        "torch.optim.sgd.cast",
        "torchvision.transforms.functional.np.load",
        "cifar_core.train.checkpoint.save",  # ours, but not for a configuration to call
        "builtins.eval",
        "subprocess.Popen",
        "torch.nn.modules",
        "",
    ],
)
def test_a_target_must_be_allowed_and_be_what_its_name_says(target: str):
    for override in (f"optimizer._target_='{target}'", f"+model.norm={{_target_: '{target}'}}"):
        with pytest.raises(ValueError, match="_target_ must name a class under|cannot be imported"):
            compose([override])


@pytest.mark.parametrize("word", ["aug=cutout", "trainer=quick", "tracking=none", "experiment=quickstart"])
def test_a_saved_configuration_has_keys_to_change_and_no_options(tmp_path: Path, word: str):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain(compose(["data=digits"]))))
    assert compose_saved(tmp_path, ["trainer={epochs: 3}"]).trainer.epochs == 3
    with pytest.raises(ValueError, match=f"^{word} names an option, and a saved configuration has none"):
        compose_saved(tmp_path, [word])


def test_early_stop_needs_a_validation_split():
    with pytest.raises(ValueError, match="trainer.early_stop needs a validation split"):
        compose(["data.val_size=0", "trainer.early_stop=3"])


def test_the_saved_configuration_is_plain(tmp_path: Path):
    cfg = compose(["aug=cutout"])
    text = yaml.safe_dump(plain(cfg))
    assert yaml.safe_load(text)["aug"]["image"]["cutout"]["fill"] == OmegaConf.to_container(cfg.data.mean)


def test_help_is_written_for_people(cli: Cli):
    done = cli("--help")
    assert done.returncode == 0
    for word in ("experiment=quickstart", "davidnet", "trainer.epochs=", "hydra.run.dir="):
        assert word in done.stdout


def test_cfg_job_shows_the_configuration(cli: Cli):
    done = cli("--cfg", "job", "optimizer=adam")
    assert done.returncode == 0
    assert yaml.safe_load(done.stdout)["optimizer"]["_target_"] == "torch.optim.Adam"


def test_the_full_error_on_request(cli: Cli):
    done = cli("trainer.epochs=0", HYDRA_FULL_ERROR="1")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_a_password_that_an_old_run_has_saved_is_understood_and_a_new_one_refused(tmp_path: Path):
    saved = plain(compose([]))
    saved["tracking"]["uri"] = "postgresql://me:s3cret@host/db"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(saved))
    assert compose_saved(tmp_path, ["trainer.epochs=3"]).tracking.uri == "postgresql://me:s3cret@host/db"
    assert compose_saved(tmp_path, ["tracking.uri=null"]).tracking.uri is None
    for word in ["tracking.uri=http://me:other@host", "tracking={uri: 'http://me:other@host'}"]:
        with pytest.raises(ValueError, match=r"no password.*got http://me:\*\*\*@host$"):
            compose_saved(tmp_path, [word])
