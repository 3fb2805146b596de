"""A timm backbone with six outputs: built, initialised, or loaded from pretrained weights."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ct.errors import InputError, printable, reason_of
from ct.labels import LABELS
from stage1_cnn.config import CnnConfig
from stage1_cnn.device import mixed_precision, pick_device, torch_settings
from stage1_cnn.gpu_memory import is_out_of_memory

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


class Cnn(nn.Module):
    """A timm classifier that also returns its embedding.

    `.backbone` is timm's own module; the names in its `state_dict()` are timm's.
    """

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone
        self.width: int = backbone.get_classifier().in_features  # d

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (b, 6), columns LABELS, and the embedding (b, d), both float32.

        images: (b, channels, S, S). The last layer always computes in float32: bf16 has 8 bits of
        mantissa, too few to distinguish slices.
        """
        features = self.backbone.forward_features(images)
        embedding = self.backbone.forward_head(features, pre_logits=True).float()
        with torch.autocast(images.device.type, enabled=False):
            return self.backbone.get_classifier()(embedding), embedding


def build_model(config: CnnConfig, seed: int, prevalence: NDArray[np.float32] | None = None) -> Cnn:
    """Build the CNN of `config` on the CPU.

    The same seed gives the same weights, whatever torch did before. prevalence: (6,) share of
    positives of each label among the training slices. The last bias starts at its log odds: the
    first steps need not learn that hemorrhages are rare.

    Raises InputError for an unknown backbone, for weights that cannot be downloaded, and for a file
    of weights that does not fit.
    """
    check_backbone(config.backbone)
    with torch.random.fork_rng(devices=[]):
        backbone = _pretrained(config, seed) if config.pretrained else _create(config, seed)
    if not isinstance(backbone.get_classifier(), nn.Linear):
        raise InputError(
            f"backbone {config.backbone!r} does not end in one linear layer; choose another"
        )
    if prevalence is not None:
        share = torch.as_tensor(np.clip(prevalence, 1e-4, 1 - 1e-4), dtype=torch.float32)
        with torch.no_grad():
            backbone.get_classifier().bias.copy_(torch.logit(share))
    return Cnn(backbone)


def untrained_model(config: CnnConfig) -> Cnn:
    """Build the CNN of `config` with random weights, without any download."""
    return build_model(config.model_copy(update={"pretrained": False}), seed=0)


def load_model(config: CnnConfig, state: Mapping[str, Tensor]) -> Cnn:
    """Build the CNN of `config`, without any download, with the weights `TrainedCnn.state()`.

    All weights must fit, otherwise torch raises RuntimeError.
    """
    model = untrained_model(config)
    model.backbone.load_state_dict(state, strict=True)
    return model.eval()


def check_trainable(config: CnnConfig, size: int) -> None:
    """Run the CNN of `config` forward and backward on two black images of `size` pixels a side.

    The device, the precision and the determinism are those of a training. Nothing is downloaded.
    Raises InputError where timm cannot make the CNN, or where the CNN does not take the images:
    before the slices are read, not hours later.
    """
    with timm_errors_as_input_errors(config):
        model = untrained_model(config)
    device, size = pick_device(), config.image_size or size
    try:
        with torch_settings(config), torch.random.fork_rng(devices=[]):  # dropout draws
            model = model.train().to(device).to(memory_format=torch.channels_last)
            with mixed_precision(config, device):
                logits, _ = model(torch.zeros(2, config.in_channels, size, size, device=device))
            logits.sum().backward()
    except TIMM_ERRORS as error:
        remedy = "set image_size to what it was made for, or choose another"
        if is_out_of_memory(error):
            remedy = "lower image_size, or choose a smaller one"
        elif "deterministic" in str(error):  # on CUDA some functions have no such backward pass
            remedy = "set deterministic: false, or choose another"
        raise InputError(
            f"backbone {config.backbone!r} does not take images of {size} x {size} pixels "
            f"on {device} ({reason_of(error)}); {remedy}"
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


def _create(config: CnnConfig, seed: int, **weights: Any) -> Any:
    """Call timm.create_model with six outputs and the channels of `config`, seeded.

    weights: timm's arguments for pretrained weights. Raises InputError for a backbone of one fixed
    size without `image_size`.
    """
    fixed_size: dict[str, Any] = {}
    known = timm.get_pretrained_cfg(config.backbone)
    if known is not None and known.fixed_input_size:  # most transformers
        if config.image_size is None:
            raise InputError(
                f"backbone {config.backbone!r} needs one fixed size of image: "
                "set image_size in the recipe"
            )
        fixed_size["img_size"] = config.image_size
    torch.manual_seed(seed)
    return timm.create_model(
        config.backbone,
        num_classes=len(LABELS),
        in_chans=config.in_channels,
        drop_rate=config.dropout,
        **fixed_size,
        **weights,
    )


def _pretrained(config: CnnConfig, seed: int) -> Any:
    """Build the backbone with pretrained weights, from a local file or by download.

    The last layer stays random. Raises InputError where the weights cannot be had or do not fit.
    """
    path = config.pretrained if isinstance(config.pretrained, str) else None
    if path is not None:
        source = f"the weights {path}"
        advice = f"it should be a .safetensors or .pth file of timm's {config.backbone}"
        if not Path(path).is_file():
            raise InputError(f"pretrained: {path} is not a file; {advice}")
    else:
        source = "timm's own weights"
        advice = (
            "give a local file (pretrained: path/to/file.safetensors) "
            "or train from scratch (pretrained: false)"
        )
    try:
        overlay = None if path is None else _weights_of_file(path)
        backbone = _create(config, seed, pretrained=True, pretrained_cfg_overlay=overlay)
    except InputError:
        raise
    except Exception as error:  # of timm, huggingface_hub, httpx, safetensors and torch
        raise InputError(
            f"backbone {config.backbone!r} could not take {source} ({reason_of(error)}); {advice}"
        ) from error
    if missing := _still_random(backbone, _create(config, seed)):
        raise InputError(
            f"backbone {config.backbone!r}: {source} lack {len(missing)} of its arrays, "
            f"first {missing[0]}; {advice}"
        )
    return backbone


def _weights_of_file(path: str) -> dict[str, Any]:
    """Return timm's pretrained_cfg_overlay with the weights of a file.

    timm adapts them to the number of channels and leaves out the last layer.
    """
    # weights_only: older timm would unpickle anything
    weights = timm.models.load_state_dict(path, weights_only=True)
    if not weights:
        raise ValueError("it is empty")  # timm would try a download
    # custom_load: the own weights of some backbones are .npz, which a local file is not
    return {"state_dict": weights, "custom_load": False}


def _still_random(backbone: Any, fresh: Any) -> list[str]:
    """Return the names of weights that loading left as in `fresh`; timm only logs them.

    Biases and norms are not compared: they may be equal by chance.
    """
    last_layer = {id(weight) for weight in backbone.get_classifier().parameters()}
    random_weights, names = dict(fresh.named_parameters()), []
    for name, weight in backbone.named_parameters():
        comparable = weight.ndim > 1 and id(weight) not in last_layer
        if comparable and torch.equal(weight, random_weights[name]):
            names.append(name)
    return names
