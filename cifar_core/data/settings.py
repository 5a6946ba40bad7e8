"""Which pictures, how they are split and how they are normalised."""

from dataclasses import dataclass

from cifar_core.laws import law, one_of

SOURCES = ("cifar10", "cifar100", "folder", "digits")


def _share_or_count(key: str, got: float) -> None:
    whole = float(got).is_integer()
    law(got >= 0 and (got < 1 or whole), key, "0, a share below 1, or a whole number of pictures", got)


@dataclass
class DataSettings:
    """Which pictures, how they are split and how they are normalised."""

    source: str  # one of SOURCES
    root: str  # folder of the archive (cifar10, cifar100) or of train/ and test/ (folder)
    cache: str  # folder for decoded pictures
    download: bool  # fetch what is missing from the network
    image_size: int  # pixels a side; other sizes are resized once
    mean: list[float]  # per channel, 0-255
    std: list[float]  # per channel, 0-255
    val_size: float  # split off the training set; below 1 a share, else a number of pictures; 0 = none
    test_size: float  # the same, for sources that come without a test set
    split_seed: int  # the splits' own seed, apart from the run's

    def __post_init__(self) -> None:
        one_of("data.source", SOURCES, self.source)
        law(bool(self.root), "data.root", "a folder", self.root)
        law(bool(self.cache), "data.cache", "a folder", self.cache)
        law(self.image_size >= 8, "data.image_size", "at least 8", self.image_size)
        for key, values in (("data.mean", self.mean), ("data.std", self.std)):
            law(len(values) == 3, key, "three numbers, one a channel", list(values))
            law(all(0 <= v <= 255 for v in values), key, "between 0 and 255", list(values))
        law(all(v > 0 for v in self.std), "data.std", "above 0", list(self.std))
        _share_or_count("data.val_size", self.val_size)
        _share_or_count("data.test_size", self.test_size)
        law(self.split_seed >= 0, "data.split_seed", "at least 0", self.split_seed)
