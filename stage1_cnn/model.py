"""A timm backbone with six outputs: built, initialised, or loaded from pretrained weights."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ct.errors import InputError, reason_of
from ct.labels import LABELS
from stage1_cnn.backbones.last_layers import (
    embedding_width,
    ends_linear,
    silence_untrained,
    start_at,
)
from stage1_cnn.backbones.pretrained_weights import pretrained_backbone
from stage1_cnn.backbones.timm_models import (
    TIMM_ERRORS,
    check_backbone,
    create_backbone,
    size_made_for,
    timm_errors_as_input_errors,
)
from stage1_cnn.config import CnnConfig
from stage1_cnn.device import mixed_precision, pick_device, torch_settings
from stage1_cnn.gpu_memory import is_out_of_memory
from stage1_cnn.optimizer import weight_groups
from stage1_cnn.training_methods.gradient_checkpointing import set_checkpointing


class Cnn(nn.Module):
    """A timm classifier that also returns its embedding.

    `.backbone` is timm's own module; the names in its `state_dict()` are timm's.
    """

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone
        self.width = embedding_width(backbone)  # d
        self.ends_linear = ends_linear(backbone)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (b, 6), columns LABELS, and the embedding (b, d), both float32.

        images: (b, channels, S, S). The last layers always compute in float32: bf16 has 8 bits of
        mantissa, too few to distinguish slices. In training the embedding of a model that ends in
        more than one linear layer has no columns: nothing needs it there, and its norms would count
        the batch twice.
        """
        features = self.backbone.forward_features(images)
        if self.ends_linear:
            embedding = self.backbone.forward_head(features, pre_logits=True).float()
            with torch.autocast(images.device.type, enabled=False):
                return self.backbone.get_classifier()(embedding), embedding
        with torch.autocast(images.device.type, enabled=False):
            features = _in_float32(features)
            logits: Tensor = self.backbone.forward_head(features)
            if self.training:
                return logits, logits.new_empty((len(logits), 0))
            return logits, self.backbone.forward_head(features, pre_logits=True)


def _in_float32(features: Any) -> Any:
    """Return features in float32: a tensor, or the tensors of several branches."""
    if isinstance(features, list | tuple):
        return type(features)(_in_float32(each) for each in features)
    return features.float()


def build_model(config: CnnConfig, seed: int, prevalence: NDArray[np.float32] | None = None) -> Cnn:
    """Build the CNN of `config` on the CPU.

    The same seed gives the same weights, whatever torch did before. prevalence: (6,) share of
    positives of each label among the training slices. The last biases start at its log odds: the
    first steps need not learn that hemorrhages are rare.

    Raises InputError for an unknown backbone, for weights that cannot be downloaded, and for a file
    of weights that does not fit.
    """
    check_backbone(config.backbone)
    with torch.random.fork_rng(devices=[]):
        create = pretrained_backbone if config.pretrained else create_backbone
        backbone = create(config, seed)
    if prevalence is not None:
        share = torch.as_tensor(np.clip(prevalence, 1e-4, 1 - 1e-4), dtype=torch.float32)
        start_at(backbone, torch.logit(share))
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
    silence_untrained(model.backbone)
    return model.eval()


def check_trainable(config: CnnConfig, size: int) -> None:
    """Run the CNN of `config` forward and backward on two black images of `size` pixels a side.

    The device, the precision and the determinism are those of a training. Local pretrained weights
    are loaded; nothing is downloaded. Raises InputError where timm cannot make the CNN, where it
    lacks what a field needs, where the weights do not fit, or where it does not take the images:
    before the slices are read, not hours later.
    """
    with timm_errors_as_input_errors(config):
        if isinstance(config.pretrained, str):
            model = build_model(config, seed=0)
        else:
            model = untrained_model(config)
    set_checkpointing(model.backbone, config)
    weight_groups(model, config)
    device, size = pick_device(), config.image_size or size
    try:
        with torch_settings(config), torch.random.fork_rng(devices=[]):  # dropout draws
            model = model.train().to(device).to(memory_format=torch.channels_last)
            images = torch.zeros(2, config.in_channels, size, size, device=device)
            with mixed_precision(config, device):
                logits, _ = model(images)
            logits.sum().backward()
            with mixed_precision(config, device), torch.inference_mode():
                logits, embedding = model.eval()(images)
        if logits.shape != (2, len(LABELS)) or embedding.shape != (2, model.width):
            raise ValueError(f"logits {tuple(logits.shape)}, embedding {tuple(embedding.shape)}")
    except TIMM_ERRORS as error:
        raise InputError(
            f"backbone {config.backbone!r} does not take images of {size} x {size} pixels "
            f"on {device} ({reason_of(error)}); {_remedy(error, config, size)}"
        ) from None


def _remedy(error: Exception, config: CnnConfig, size: int) -> str:
    """Return what to do where a CNN does not take images of `size` pixels a side."""
    if is_out_of_memory(error):
        return "lower image_size, or choose a smaller one"
    if "deterministic" in str(error):  # on CUDA some functions have no such backward pass
        return "set deterministic: false, or choose another"
    made_for = size_made_for(config.backbone)
    if made_for in (None, size):
        return "set another image_size, or choose another backbone"
    return f"set image_size: {made_for}, which it was made for, or choose another"
