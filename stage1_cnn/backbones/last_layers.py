"""The last layers of timm's models: one linear layer, a convolution, several heads, a norm."""

from collections.abc import Iterable
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from ct.labels import LABELS

Layer = nn.Linear | nn.Conv2d


def last_layers(backbone: Any) -> list[Layer]:
    """Return the layers of a timm model that have one output for each label.

    Most models have one; those trained by distillation have two, whose logits are averaged, and
    VOLO has an auxiliary one.
    """
    layers = main_layers(backbone)
    named = [backbone.get_submodule(name) for name in _names(backbone)]
    return layers + [
        layer
        for layer in named
        if _has_six_outputs(layer) and all(layer is not known for known in layers)
    ]


def main_layers(backbone: Any) -> list[Layer]:
    """Return the last layers whose logits, or their mean, are the model's; no auxiliary ones."""
    return [layer for layer in _modules(backbone.get_classifier()) if _has_six_outputs(layer)]


def ends_linear(backbone: Any) -> bool:
    """Return whether the logits are one nn.Linear of the embedding, and nothing else."""
    return isinstance(backbone.get_classifier(), nn.Linear) and len(_names(backbone)) < 2


def embedding_width(backbone: Any) -> int:
    """Return d, the columns of the embedding (b, d) before the last layers."""
    if ends_linear(backbone):
        return int(backbone.get_classifier().in_features)
    return int(getattr(backbone, "head_hidden_size", None) or backbone.num_features)


def start_at(backbone: Any, logits: Tensor) -> None:
    """Set the biases of the last layers so that the first logits are near `logits`, (6,)."""
    with torch.no_grad():
        for layer in main_layers(backbone):
            if layer.bias is not None:
                layer.bias.copy_(logits)


def silence_untrained(backbone: Any) -> None:
    """Set auxiliary last layers that were never trained to 0: their logits then add nothing.

    Before 2026-11-26 VOLO's auxiliary layer was left out. It kept its first random weights, and its
    bias of 0.
    """
    main = main_layers(backbone)
    for layer in last_layers(backbone):
        auxiliary = all(layer is not other for other in main)
        if auxiliary and layer.bias is not None and not torch.any(layer.bias):
            nn.init.zeros_(layer.weight)


def _names(backbone: Any) -> tuple[str, ...]:
    """Return timm's names of the last layers of a model; () for a model that has none listed."""
    names = (getattr(backbone, "pretrained_cfg", None) or {}).get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _modules(classifier: Any) -> Iterable[nn.Module]:
    """Yield all modules of what get_classifier() returns: a module, or several."""
    for part in classifier if isinstance(classifier, tuple | list) else (classifier,):
        yield from part.modules()


def _has_six_outputs(layer: nn.Module) -> TypeGuard[Layer]:
    if isinstance(layer, nn.Linear):
        return layer.out_features == len(LABELS)
    return isinstance(layer, nn.Conv2d) and layer.out_channels == len(LABELS)


class PooledEncoder(nn.Module):
    """An encoder of timm, which has no classifier, with a linear layer on its mean features."""

    def __init__(self, encoder: Any, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.num_features: int = encoder.num_features  # d
        self.norm = nn.LayerNorm(self.num_features)
        self.head_drop = nn.Dropout(dropout)
        self.head = nn.Linear(self.num_features, len(LABELS))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (b, 6)."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the features of all places: (b, d, h, w), (b, h, w, d) or (b, n, d)."""
        features: Tensor = self.encoder.forward_features(images)
        return features

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits (b, 6), or with `pre_logits` the embedding (b, d)."""
        if getattr(self.encoder, "output_fmt", "NCHW") == "NCHW":
            features = features.flatten(2).transpose(1, 2)
        mean = features.flatten(1, -2).mean(dim=1)
        embedding: Tensor = self.head_drop(self.norm(mean))
        if pre_logits:
            return embedding
        logits: Tensor = self.head(embedding)
        return logits

    def get_classifier(self) -> nn.Module:
        """Return the last layer."""
        return self.head
