"""What is known of a source's pictures before torch is imported: absent or not, and how many."""

from pathlib import Path

from cifar_core.data import cifar, folder
from cifar_core.data.settings import DataSettings, split_count

COUNTED = 100_000  # pictures of a folder that are counted at most: more take seconds
DIGITS = 1797


def check_present(settings: DataSettings) -> None:
    """Raise what `load_data` would for absent data, where that takes neither the network nor a picture."""
    root = Path(settings.root).expanduser()
    if settings.source == "folder":
        folder.class_folders(root)
    elif settings.source in cifar.ARCHIVES:
        cifar.check_present(cifar.ARCHIVES[settings.source], root, download=settings.download)


def training_pictures(settings: DataSettings) -> int | None:
    """Return how many pictures the splits leave to train on; None where only reading them would tell."""
    counts: dict[str, int] | None = {"train": DIGITS}
    if settings.source == "folder":
        counts = folder.count(Path(settings.root).expanduser(), most=COUNTED)
    elif settings.source in cifar.ARCHIVES:
        counts = {"train": cifar.TRAINING, "test": 0}
    if counts is None:
        return None
    train = counts["train"]
    if "test" not in counts:
        train -= split_count(settings.test_size, train)
    if "val" not in counts:
        train -= split_count(settings.val_size, train)
    elif settings.val_size == 0:
        train += counts["val"]
    return train if train > 0 else None  # sizes that leave nothing are told where the split is made
