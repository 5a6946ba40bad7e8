"""Any network of the timm library (Wightman 2019, github.com/huggingface/pytorch-image-models)."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from torch import nn

# Arguments of timm.create_model that name a file or an address to read, some of them as a pickle.
READING = ("pretrained_cfg", "pretrained_cfg_overlay", "pretrained_filter_fn", "checkpoint_path", "cache_dir")


def timm_model(
    num_classes: int = 10,
    *,
    name: str,
    in_chans: int = 3,
    pretrained: bool = False,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Return the model that timm calls `name`; `pretrained` downloads its weights, with a new last layer.

    `options` are further arguments of `timm.create_model`, but for those that name a file or an address; nor
    may `name`. Raises ImportError where timm is absent, ValueError with the nearest names for an unknown one
    and for what timm does not build.
    """
    try:
        import timm
    except ImportError as error:
        raise ImportError("this model needs the timm library: pip install timm") from error
    reading = [key for key in READING if key in (options or {})]
    if reading:
        raise ValueError(
            f"model.options.{reading[0]} is not taken, for it can read any file or address: use model.weights"
        )
    known = name.partition(".")[0]  # a name may end in a tag of its weights, resnet18.a1_in1k
    if set(name) & set(":/\\") or not timm.is_model(known):
        near = ", ".join(get_close_matches(known, timm.list_models())) or "none; timm.list_models() has all"
        raise ValueError(f"model.name must be a model of timm, got {name!r}; near it: {near}")
    return timm.create_model(
        name, pretrained=pretrained, num_classes=num_classes, in_chans=in_chans, **(options or {})
    )
