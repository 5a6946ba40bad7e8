"""What older releases of Albumentations called its transforms and arguments, and what to write today.

Facts: Albumentations' release notes 0.5 to 2.0 and the signatures of 2.0.8.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any

import albumentations as A

Node = dict[str, Any]
PREFIX = "albumentations."

CLASSES = {  # of which only the name is another: old -> new
    "Cutout": "CoarseDropout",
    "GridMask": "GridDropout",
    "IAAAdditiveGaussianNoise": "GaussNoise",
    "IAAAffine": "Affine",
    "IAACropAndPad": "CropAndPad",
    "IAAEmboss": "Emboss",
    "IAAFliplr": "HorizontalFlip",
    "IAAFlipud": "VerticalFlip",
    "IAAPerspective": "Perspective",
    "IAAPiecewiseAffine": "PiecewiseAffine",
    "IAASharpen": "Sharpen",
    "IAASuperpixels": "Superpixels",
    "JpegCompression": "ImageCompression",
    "RandomBrightness": "RandomBrightnessContrast",
    "RandomContrast": "RandomBrightnessContrast",
    "ShiftScaleRotate": "Affine",
}
ARGUMENTS = {  # in any class that takes the new one and not the old one: old -> new
    "cval": "fill",
    "fill_value": "fill",
    "pad_cval": "fill",
    "pad_val": "fill",
    "value": "fill",
    "cval_mask": "fill_mask",
    "mask_fill_value": "fill_mask",
    "mask_pad_val": "fill_mask",
    "mask_value": "fill_mask",
    "pad_cval_mask": "fill_mask",
    "pad_val_mask": "fill_mask",
    "mode": "border_mode",
    "pad_mode": "border_mode",
}
PAIRS: dict[
    str, dict[str, tuple[str, Any, str, Any]]
] = {  # two arguments that have become one list: new -> the old two and their defaults
    "Downscale": {"scale_range": ("scale_min", 0.25, "scale_max", 0.25)},
    "GridDropout": {
        "unit_size_range": ("unit_size_min", None, "unit_size_max", None),
        "holes_number_xy": ("holes_number_x", None, "holes_number_y", None),
        "shift_xy": ("shift_x", 0, "shift_y", 0),
    },
    "ImageCompression": {"quality_range": ("quality_lower", 99, "quality_upper", 100)},
    "RandomFog": {"fog_coef_range": ("fog_coef_lower", 0.3, "fog_coef_upper", 1)},
    "RandomRain": {"slant_range": ("slant_lower", -10, "slant_upper", 10)},
    "RandomResizedCrop": {"size": ("height", None, "width", None)},
    "RandomShadow": {"num_shadows_limit": ("num_shadows_lower", 1, "num_shadows_upper", 2)},
    "RandomSizedCrop": {"size": ("height", None, "width", None)},
    "RandomSnow": {"snow_point_range": ("snow_point_lower", 0.1, "snow_point_upper", 0.3)},
    "RandomSunFlare": {
        "angle_range": ("angle_lower", 0, "angle_upper", 1),
        "num_flare_circles_range": ("num_flare_circles_lower", 6, "num_flare_circles_upper", 10),
    },
}
HOLES = {  # the smallest and the largest, the smallest being the largest where it is left out
    "num_holes_range": ("min_holes", "max_holes", "num_holes"),
    "hole_height_range": ("min_height", "max_height", "max_h_size"),
    "hole_width_range": ("min_width", "max_width", "max_w_size"),
}
MODES = {
    "constant": 0,
    "edge": 1,
    "symmetric": 2,
    "reflect": 4,
    "wrap": 3,
}  # imgaug's names -> OpenCV's numbers
GONE = ("alpha_affine", "always_apply", "eps", "lambda_transforms", "order", "shift_limit")  # no successor
MATCHES = {  # torchvision -> Albumentations
    "CenterCrop": "CenterCrop",
    "ColorJitter": "ColorJitter",
    "ElasticTransform": "ElasticTransform",
    "GaussianBlur": "GaussianBlur",
    "Grayscale": "ToGray",
    "Pad": "Pad",
    "RandomAdjustSharpness": "Sharpen",
    "RandomAffine": "Affine",
    "RandomApply": "Sequential",
    "RandomAutocontrast": "AutoContrast",
    "RandomChoice": "OneOf",
    "RandomCrop": "RandomCrop",
    "RandomEqualize": "Equalize",
    "RandomErasing": "Erasing",
    "RandomGrayscale": "ToGray",
    "RandomHorizontalFlip": "HorizontalFlip",
    "RandomInvert": "InvertImg",
    "RandomOrder": "RandomOrder",
    "RandomPerspective": "Perspective",
    "RandomPosterize": "Posterize",
    "RandomResizedCrop": "RandomResizedCrop",
    "RandomRotation": "Rotate",
    "RandomSolarize": "Solarize",
    "RandomVerticalFlip": "VerticalFlip",
    "Resize": "Resize",
}


def renewed(node: Node) -> Node | None:
    """Return the step ``node`` in the words of the installed Albumentations; None where it is so already."""
    old = node["_target_"].rpartition(".")[2]
    if old == "Flip" and not hasattr(A, "Flip"):
        return _flip(node)
    name = CLASSES.get(old, old)
    kind = getattr(A, name, None)
    if not (inspect.isclass(kind) and issubclass(kind, A.BasicTransform)):
        return None
    takes = inspect.signature(kind).parameters
    new: Node = {"_target_": PREFIX + name}
    rest = {key: value for key, value in node.items() if key != "_target_"}
    if old in SPECIAL:
        SPECIAL[old](rest, new)
    for key in (name for name in HOLES if name in takes):
        _holes(key, rest, new)
    for key, (low, low_default, high, high_default) in PAIRS.get(name, {}).items():
        if (low in rest and low not in takes) or (high in rest and high not in takes):
            new[key] = [rest.pop(low, low_default), rest.pop(high, high_default)]
    for key, change in SCALED.items():
        if key in rest and key not in takes and change[0] in takes:
            new[change[0]] = change[1](rest.pop(key))
    if rest.get("always_apply") is True and "always_apply" not in takes:
        rest["p"] = 1.0
    for key, value in rest.items():
        if key in takes or (key not in ARGUMENTS and key not in GONE):
            new[key] = value  # what is wrong otherwise is told otherwise
        elif ARGUMENTS.get(key) in takes:
            new[ARGUMENTS[key]] = MODES.get(value, value) if isinstance(value, str) else value
    return None if new == node or (old == name and new.keys() >= node.keys()) else new


def _flip(node: Node) -> Node:
    across, down = ({"_target_": f"{PREFIX}{way}Flip", "p": 1.0} for way in ("Horizontal", "Vertical"))
    both = {"_target_": f"{PREFIX}Sequential", "transforms": [across, down], "p": 1.0}
    p = 1.0 if node.get("always_apply") is True else node.get("p", 0.5)
    return {"_target_": f"{PREFIX}OneOf", "transforms": [across, down, both], "p": p}


def _holes(key: str, rest: Node, new: Node) -> None:
    low, high, both = HOLES[key]
    if {low, high, both} & rest.keys():
        largest = rest.pop(high, rest.pop(both, 8))
        smallest = rest.pop(low, None)
        new[key] = [largest if smallest is None else smallest, largest]


def _cutout(rest: Node, new: Node) -> None:
    for old in ("num_holes", "max_h_size", "max_w_size"):
        rest.setdefault(old, 8)


def _one_of_two(mine: str, other: str) -> Callable[[Node, Node], None]:
    def change(rest: Node, new: Node) -> None:
        new[mine], new[other] = rest.pop("limit", 0.2), 0.0

    return change


def _noise(rest: Node, new: Node) -> None:
    new["std_range"] = [_share(value) for value in rest.pop("scale", (2.55, 12.75))]
    rest.pop("loc", None)


def _shift_scale_rotate(rest: Node, new: Node) -> None:
    shift = rest.pop("shift_limit", 0.0625)
    ways = {way: _both_ways(rest.pop(f"shift_limit_{way}", None) or shift) for way in "xy"}
    scale = _both_ways(rest.pop("scale_limit", 0.1))
    new |= {"translate_percent": ways, "scale": [round(1 + value, 6) for value in scale]}
    new |= {"rotate": _both_ways(rest.pop("rotate_limit", 45)), "keep_ratio": True}


def _both_ways(limit: Any) -> list[float]:
    return list(limit) if isinstance(limit, list | tuple) else [-limit, limit]


def _share(value: float) -> float:
    """Return grey levels as the share of 255 that is given today."""
    return round(value / 255, 4)


def _std_range(variances: Any) -> list[float]:
    low, high = variances if isinstance(variances, list) else (0, variances)
    return [_share(math.sqrt(low)), _share(math.sqrt(high))]


def _level_range(levels: Any) -> list[float]:
    low, high = levels if isinstance(levels, list) else (levels, levels)
    return [_share(low), _share(high)]


SPECIAL: dict[str, Callable[[Node, Node], None]] = {
    "Cutout": _cutout,
    "IAAAdditiveGaussianNoise": _noise,
    "RandomBrightness": _one_of_two("brightness_limit", "contrast_limit"),
    "RandomContrast": _one_of_two("contrast_limit", "brightness_limit"),
    "ShiftScaleRotate": _shift_scale_rotate,
}
SCALED: dict[str, tuple[str, Callable[[Any], list[float]]]] = {  # old -> new and its values
    "var_limit": ("std_range", _std_range),
    "mean": ("mean_range", _level_range),
    "threshold": ("threshold_range", _level_range),
}
