"""A timm backbone with six outputs: built, initialised, or loaded from pretrained weights."""

import contextlib
import difflib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import timm
import torch
from torch import nn

from ct.errors import InputError, printable, reason_of
from ct.labels import LABELS
from stage1_cnn.config import CnnConfig
from stage1_cnn.device import is_out_of_memory, mixed_precision, pick_device, torch_settings

# timm's
UNFIT = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


@contextlib.contextmanager
def timm_faults(config: CnnConfig) -> Iterator[None]:
    """Turn what timm's many modules raise for settings that they cannot make a CNN of into
    InputError.
    """
    try:
        yield
    except UNFIT as error:
        raise InputError(
            f"backbone {printable(config.backbone)!r} cannot be made with its other settings ({reason_of(error)})"
        ) from None


class Cnn(nn.Module):
    """A timm classifier that also gives its embedding. `state_dict()` of `.backbone` is plain
    timm.
    """

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.width = backbone.get_classifier().in_features  # d

    def forward(self, images):
        """Images (b, channels, S, S) -> logits (b, 6) in the order of LABELS and the embedding (b,
        d) behind them, float32.

        The last layer computes in float32 in any case: bf16 has 8 bits of mantissa, too few to tell
        slices apart.
        """
        embedding = self.backbone.forward_head(
            self.backbone.forward_features(images), pre_logits=True
        ).float()
        with torch.autocast(images.device.type, enabled=False):
            return self.backbone.get_classifier()(embedding), embedding


def build_model(config, seed, prevalence=None):
    """Build the CNN of `config` on the CPU; the same seed gives the same weights, whatever torch
    did before.

    prevalence: (6,) share of positives per label among the training slices. The last bias starts at
    its log odds, so that the first steps need not be spent on learning that bleeds are rare. Raises
    InputError for an unknown backbone, for weights that are not to be had, and for a file that does
    not fit.
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


def try_model(config, size):
    """Show the CNN of `config` (without any download) two black pictures of `size` pixels a side,
    forward and backward, on the device, in the precision and with the determinism that training
    would have here.

    Raises InputError where timm cannot make it, or its backbone does not take them: better before
    the slices are read than after.
    """
    with timm_faults(config):
        model = build_model(config.model_copy(update={"pretrained": False}), seed=0)
    device, size = pick_device(), config.image_size or size
    try:
        with torch_settings(config), torch.random.fork_rng(devices=[]):  # dropout draws
            model = model.train().to(device, memory_format=torch.channels_last)
            with mixed_precision(config, device):
                logits, _ = model(torch.zeros(2, config.in_channels, size, size, device=device))
            logits.sum().backward()
    except UNFIT as error:
        reason = reason_of(error)
        remedy = "set image_size to what it was made for, or choose another"
        if is_out_of_memory(error):
            remedy = "lower image_size, or choose a smaller one"
        elif "deterministic" in str(
            error
        ):  # some of torch's functions on CUDA have no deterministic way back
            remedy = "set deterministic: false, or choose another"
        raise InputError(
            f"backbone {config.backbone!r} does not take pictures of {size} x {size} pixels on {device} ({reason}); {remedy}"
        ) from None


def load_model(config, state):
    """Build the CNN of `config` without any download and give it the weights `state` of FoldResult.
    All must fit.
    """
    model = build_model(config.model_copy(update={"pretrained": False}), seed=0)
    model.backbone.load_state_dict(state, strict=True)
    return model.eval()


def check_backbone(name):
    """Raise InputError with the nearest known names where timm has no model `name` (with or without
    a ".tag").
    """
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise InputError(
            f"backbone: timm has no model {name!r}{_near(architecture, timm.list_models())}"
        )
    if tag and name not in (tags := timm.list_models(f"{architecture}.*", pretrained=True)):
        raise InputError(f"backbone: timm has no weights {name!r}{_near(name, tags)}")


def _near(name, known):
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    return (
        f", did you mean {' or '.join(map(repr, close))}?" if close else "; see timm.list_models()"
    )


def _create(config, seed, **weights):
    """Call timm.create_model with the six outputs and the channels of `config`, seeded."""
    sized = {}
    known = timm.get_pretrained_cfg(config.backbone)
    if known is not None and known.fixed_input_size:  # most transformers
        if config.image_size is None:
            raise InputError(
                f"backbone {config.backbone!r} needs one fixed size of image: set image_size in the recipe"
            )
        sized["img_size"] = config.image_size
    torch.manual_seed(seed)
    return timm.create_model(
        config.backbone,
        num_classes=len(LABELS),
        in_chans=config.in_channels,
        drop_rate=config.dropout,
        **sized,
        **weights,
    )


def _pretrained(config, seed):
    """Build the backbone with its pretrained weights, from a local file or by download; the last
    layer stays random.
    """
    if config.pretrained is True:
        source = "timm's own weights"
        advice = "give a local file (pretrained: path/to/file.safetensors) or train from scratch (pretrained: false)"
    else:
        source = f"the weights {config.pretrained}"
        advice = f"it should be a .safetensors or .pth file of timm's {config.backbone}"
        if not Path(config.pretrained).is_file():
            raise InputError(f"pretrained: {config.pretrained} is not a file; {advice}")
    try:
        overlay = None if config.pretrained is True else _local(config.pretrained)
        backbone = _create(config, seed, pretrained=True, pretrained_cfg_overlay=overlay)
    except InputError:
        raise
    except (
        Exception
    ) as error:  # the kinds are timm's, huggingface_hub's, httpx's, safetensors' and torch's
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"backbone {config.backbone!r} could not take {source} ({reason}); {advice}"
        ) from error
    if left := _untouched(backbone, _create(config, seed)):
        raise InputError(
            f"backbone {config.backbone!r}: {source} lack {len(left)} of its arrays, first {left[0]}; {advice}"
        )
    return backbone


def _local(path):
    """What timm needs to take the weights from a file: it fits them to the channels and leaves out
    the last layer.
    """
    # older timm would unpickle anything otherwise
    weights = timm.models.load_state_dict(path, weights_only=True)
    if not weights:
        raise ValueError("it is empty")  # timm would look for a download
    # custom_load: some backbones' own weights are .npz, which a local file is not
    return {"state_dict": weights, "custom_load": False}


def _untouched(backbone, fresh):
    """Names of weights that loading left random: timm only logs them. Biases and norms may be equal
    by chance.
    """
    last = {id(p) for p in backbone.get_classifier().parameters()}
    before = dict(fresh.named_parameters())
    named = [
        (name, p) for name, p in backbone.named_parameters() if p.ndim > 1 and id(p) not in last
    ]
    return [name for name, p in named if torch.equal(p, before[name])]
