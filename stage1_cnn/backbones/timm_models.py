"""timm's models by name: which there are, and one of them with six outputs."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator
from typing import Any

import timm
import torch

from ct.errors import InputError, printable, reason_of
from ct.labels import LABELS
from stage1_cnn.backbones.last_layers import PooledEncoder, last_layers
from stage1_cnn.backbones.strided_pointwise import replace_strided_pointwise
from stage1_cnn.config import CnnConfig

# what timm's many modules raise for settings that they cannot use
TIMM_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


@contextlib.contextmanager
def timm_errors_as_input_errors(config: CnnConfig) -> Iterator[None]:
    """Context in which the errors of timm for unusable settings become InputError."""
    try:
        yield
    except TIMM_ERRORS as error:
        raise InputError(
            f"backbone {printable(config.backbone)!r} cannot be made with its other settings "
            f"({reason_of(error)})"
        ) from None


def check_backbone(name: str) -> None:
    """Raise InputError, with similar names, where timm has no model `name` (or no such ".tag")."""
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise InputError(
            f"backbone: timm has no model {name!r}{_similar(architecture, timm.list_models())}"
        )
    if tag and name not in (tags := timm.list_models(f"{architecture}.*", pretrained=True)):
        raise InputError(f"backbone: timm has no weights {name!r}{_similar(name, tags)}")


def _similar(name: str, known: Iterable[str]) -> str:
    """Return the part of a message that names the known names nearest to `name`."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if not close:
        return "; see timm.list_models()"
    return f", did you mean {' or '.join(map(repr, close))}?"


def size_made_for(name: str) -> int | None:
    """Return the pixels a side that timm made a model for; None where timm lists none."""
    known = timm.get_pretrained_cfg(name)
    return None if known is None else known.input_size[-1]


def create_backbone(config: CnnConfig, seed: int, **weights: Any) -> Any:
    """Call timm.create_model with six outputs and the channels of `config`, seeded.

    weights: timm's arguments for pretrained weights. timm's encoders, whose names end in "_enc",
    get a last layer. Raises InputError for a backbone of one fixed size without `image_size`, and
    for one without a classifier.
    """
    arguments: dict[str, Any] = {"num_classes": len(LABELS), "in_chans": config.in_channels}
    known = timm.get_pretrained_cfg(config.backbone)
    if known is not None and known.fixed_input_size:  # most transformers
        if config.image_size is None:
            raise InputError(
                f"backbone {config.backbone!r} needs one fixed size of image: set image_size in "
                f"the recipe; it was made for {known.input_size[-1]}"
            )
        arguments["img_size"] = config.image_size
    is_encoder = config.backbone.partition(".")[0].endswith("_enc")
    torch.manual_seed(seed)
    if is_encoder:  # without the layers after it, which serve language models
        encoder = timm.create_model(config.backbone, global_pool="avg", **arguments, **weights)
        return PooledEncoder(encoder, config.dropout)
    backbone = timm.create_model(config.backbone, drop_rate=config.dropout, **arguments, **weights)
    replace_strided_pointwise(backbone)
    if not last_layers(backbone):
        raise InputError(
            f"backbone {config.backbone!r} has no classifier of {len(LABELS)} outputs; "
            "choose another"
        )
    return backbone
