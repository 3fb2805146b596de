"""Backbones with pretrained weights: of a local file or a package, or those timm downloads."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import equal, isfinite

from ct.errors import InputError, reason_of
from stage1_cnn.backbones.last_layers import PooledEncoder, last_layers
from stage1_cnn.backbones.timm_models import create_backbone
from stage1_cnn.backbones.weight_files import misfit, read_weights, without_prefix
from stage1_cnn.backbones.weight_packages import package_weights
from stage1_cnn.config import PACKAGE, CnnConfig


def pretrained_backbone(config: CnnConfig, seed: int) -> Any:
    """Build the backbone with pretrained weights: of a local file, of a package, or by download.

    The last layers stay random. Raises InputError where the weights cannot be had, do not fit or
    are not finite.
    """
    path = config.weights_file
    if path is not None:
        source = f"the weights {path}"
        advice = f"it should be a .safetensors or .pth file of timm's {config.backbone}"
        if not Path(path).is_file():
            raise InputError(f"pretrained: {path} is not a file; {advice}")
    elif config.pretrained == PACKAGE:
        source, advice = "the weights of its package", "install another version of timm"
    else:
        source = "timm's own weights"
        advice = (
            "give a local file (pretrained: path/to/file.safetensors) "
            "or train from scratch (pretrained: false)"
        )
    fresh = create_backbone(config, seed)
    try:
        with _without_timms_warnings():
            backbone = _loaded(config, seed, None if path is None else Path(path), fresh)
    except InputError:
        raise
    except Exception as error:  # of timm, huggingface_hub, httpx, safetensors and torch
        raise InputError(
            f"backbone {config.backbone!r} could not take {source} ({reason_of(error)}); {advice}"
        ) from error
    if missing := _still_random(backbone, fresh):
        raise InputError(
            f"backbone {config.backbone!r}: {source} lack {len(missing)} of its arrays, "
            f"first {missing[0]}; {advice}"
        )
    if name := _first_not_finite(backbone, fresh):
        raise InputError(
            f"backbone {config.backbone!r}: {source} hold NaN or infinite values, first in its "
            f"array {name}, so that training cannot begin; {advice}"
        )
    return backbone


def _loaded(config: CnnConfig, seed: int, path: Path | None, fresh: Any) -> Any:
    """Return the backbone with the weights of a file, of a package, or timm's own.

    timm adapts them to the number of channels, renames those of older versions, and leaves out the
    last layers. fresh: the backbone with random weights. Raises ValueError for a file that does not
    fit, in one line.
    """
    if path is None:
        overlay = None
        if config.pretrained == PACKAGE:
            overlay = {"state_dict": package_weights(config.backbone), "custom_load": False}
        return create_backbone(config, seed, pretrained=True, pretrained_cfg_overlay=overlay)
    state = (fresh.encoder if isinstance(fresh, PooledEncoder) else fresh).state_dict(
        keep_vars=True
    )
    last = {id(weight) for layer in last_layers(fresh) for weight in layer.parameters()}
    weights = without_prefix(read_weights(path), state)
    # before timm renames arrays in place
    fault = misfit(weights, {name: each for name, each in state.items() if id(each) not in last})
    # custom_load: the own weights of some backbones are .npz, which a local file is not
    overlay = {"state_dict": weights, "custom_load": False}
    try:
        return create_backbone(config, seed, pretrained=True, pretrained_cfg_overlay=overlay)
    except Exception as error:
        raise ValueError(fault or reason_of(error)) from error


@contextlib.contextmanager
def _without_timms_warnings() -> Iterator[None]:
    """Context in which timm does not log the names of all arrays that a file lacks."""
    logger = logging.getLogger("timm")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _still_random(backbone: Any, fresh: Any) -> list[str]:
    """Return the names of weights that loading left as in `fresh`; timm only logs them.

    Biases and norms are not compared: they may be equal by chance.
    """
    last = {id(weight) for layer in last_layers(backbone) for weight in layer.parameters()}
    random_weights, names = dict(fresh.named_parameters()), []
    for name, weight in backbone.named_parameters():
        comparable = weight.ndim > 1 and id(weight) not in last
        if comparable and equal(weight, random_weights[name]):
            names.append(name)
    return names


def _first_not_finite(backbone: Any, fresh: Any) -> str:
    """Return the name of the first array that is finite in `fresh` alone, "" where all are."""
    random_arrays = fresh.state_dict()
    for name, array in backbone.state_dict().items():
        if not isfinite(array).all() and isfinite(random_arrays[name]).all():
            return name
    return ""
