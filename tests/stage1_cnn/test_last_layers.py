"""Models of timm that end in something else than one linear layer: logits, embeddings, starts."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

from ct.labels import LABELS
from stage1_cnn.backbones.last_layers import PooledEncoder, last_layers, main_layers
from stage1_cnn.config import CnnConfig
from stage1_cnn.model import build_model, check_trainable, load_model

# backbone, pixels a side, what it ends in, last layers
ODD = [
    ("dla46x_c", 64, "a 1 x 1 convolution", 1),
    ("levit_128s", 64, "two norms and linear layers, averaged", 2),
    ("swiftformer_xs", 64, "two linear layers, averaged", 2),
    ("deit_tiny_distilled_patch16_224", 32, "two linear layers on two tokens, averaged", 2),
    ("crossvit_tiny_240", 240, "two linear layers on two branches, averaged", 2),
    ("efficientvim_m1_dist", 64, "eight linear layers, weighed", 8),
    ("iformer_t", 64, "a norm and a linear layer", 1),
    ("cpubone_nano", 64, "a convolution, a norm, a wrapped linear layer", 1),
    ("volo_d1_224", 32, "a linear layer and an auxiliary one", 2),
]


def config(backbone, size, **values):
    return CnnConfig(name="a", backbone=backbone, image_size=size, windows=["brain"], **values)


@pytest.mark.parametrize(("backbone", "size", "end", "count"), ODD)
def test_logits_are_timms_own(backbone, size, end, count):
    """From the same arrays; all weights have a gradient, and the embedding has its columns."""
    settings, images = config(backbone, size), torch.randn(2, 1, size, size)
    model = build_model(settings, seed=1)
    assert len(last_layers(model.backbone)) == count, end
    logits, _ = model.train()(images)
    logits.square().sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())
    fixed = {"img_size": size} if timm.get_pretrained_cfg(backbone).fixed_input_size else {}
    timms = timm.create_model(backbone, num_classes=len(LABELS), in_chans=1, **fixed).eval()
    timms.load_state_dict(model.backbone.state_dict())
    with torch.inference_mode():
        logits, embedding = model.eval()(images)
        torch.testing.assert_close(logits, timms(images), rtol=0, atol=1e-5)
        before = timms.forward_head(timms.forward_features(images), pre_logits=True)
    assert embedding.shape == (2, model.width)
    torch.testing.assert_close(embedding, before)


@pytest.mark.parametrize("backbone", ["levit_128s", "efficientvim_m1_dist", "dla46x_c"])
def test_the_last_biases_start_at_the_prevalence(backbone):
    """With all other weights of the last layers 0, the logits are the log odds."""
    prevalence = np.array([0.144, 0.004, 0.05, 0.03, 0.05, 0.02], np.float32)
    model = build_model(config(backbone, 64), 1, prevalence).eval()
    for layer in last_layers(model.backbone):
        nn.init.zeros_(layer.weight)
    with torch.inference_mode():
        probabilities = torch.sigmoid(model(torch.randn(2, 1, 64, 64))[0])
    np.testing.assert_allclose(probabilities, np.stack([prevalence] * 2), rtol=1e-4)


def test_last_layers_compute_in_float32():
    """Under autocast the last layers, and the norm before them, compute in float32."""
    model, images = build_model(config("levit_128s", 64), seed=1).eval(), torch.randn(2, 1, 64, 64)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        logits, embedding = model(images)
    assert logits.dtype == embedding.dtype == torch.float32
    with torch.inference_mode():
        torch.testing.assert_close(
            model.backbone.forward_head(embedding[:, None].expand(-1, 16, -1)), logits
        )


def test_an_auxiliary_layer_that_was_never_trained_adds_nothing():
    """Older versions left VOLO's out: their weights have its first random values and a bias of 0.

    The logits are those of the main layer alone, as before. Once trained, it counts.
    """
    settings, images = config("volo_d1_224", 32), torch.randn(2, 1, 32, 32)
    state = build_model(settings, seed=1).backbone.state_dict()
    older = load_model(settings, state)
    assert main_layers(older.backbone) == [older.backbone.head]
    assert state["aux_head.weight"].any() and not state["aux_head.bias"].any()
    with torch.inference_mode():
        logits, embedding = older(images)
        torch.testing.assert_close(logits, older.backbone.head(embedding))
        state["aux_head.bias"] += 0.25
        torch.testing.assert_close(
            load_model(settings, state)(images)[0], build_whole(settings, state)(images)
        )


def build_whole(settings, state):
    """Return timm's model with some weights."""
    model = build_model(settings, seed=2).backbone.eval()
    model.load_state_dict(state)
    return model


class Encoder(nn.Module):
    """An encoder of timm in small: features of all places, no classifier."""

    num_features = 4

    def __init__(self, output_fmt):
        super().__init__()
        self.output_fmt = output_fmt

    def forward_features(self, images):
        return images if self.output_fmt == "NCHW" else images.permute(0, 2, 3, 1)


@pytest.mark.parametrize("output_fmt", ["NCHW", "NHWC"])
def test_an_encoder_gets_a_linear_layer_on_its_mean_features(output_fmt):
    torch.manual_seed(0)
    model, images = PooledEncoder(Encoder(output_fmt), dropout=0.0), torch.randn(2, 4, 3, 5)
    expected = model.head(torch.layer_norm(images.mean(dim=(2, 3)), (4,)))
    torch.testing.assert_close(model(images), expected)


def test_a_model_without_a_usable_end_is_refused(monkeypatch):
    """At `new`, in one line: outputs or embeddings of another shape than the model tells."""
    from ct.errors import InputError

    settings = config("test_resnet", 32)
    check_trainable(settings, 32)
    create = timm.create_model

    def narrow(*args, **kwargs):
        model = create(*args, **kwargs)
        model.forward_head = lambda features, pre_logits=False: features.mean((2, 3))[:, :8]
        return model

    monkeypatch.setattr(timm, "create_model", narrow)
    with pytest.raises(InputError, match="does not take images of 32 x 32 pixels") as error:
        check_trainable(settings, 32)
    assert "\n" not in str(error.value)
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: create("test_resnet"))
    with pytest.raises(InputError, match="has no classifier of 6 outputs; choose another"):
        build_model(settings, seed=1)
