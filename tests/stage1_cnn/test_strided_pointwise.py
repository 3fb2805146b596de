"""Strided 1 x 1 convolutions of few channels, which crash in torch's backward pass on the CPU."""

import copy

import pytest
import torch
from torch import nn

from stage1_cnn.backbones.strided_pointwise import StridedPointwise, replace_strided_pointwise
from stage1_cnn.config import CnnConfig
from stage1_cnn.model import check_trainable, untrained_model


def convolution(channels, **values):
    return nn.Sequential(nn.Conv2d(channels, 48, **({"kernel_size": 1, "stride": 2} | values)))


@pytest.mark.parametrize("size", [16, 17])
def test_values_and_gradients_are_those_of_the_convolution(size):
    torch.manual_seed(0)
    model, images = convolution(3), torch.randn(2, 3, size, size).requires_grad_()
    replace_strided_pointwise(model)
    weight, bias = model[0].weight.flatten(1), model[0].bias[:, None, None]
    outputs = model.train().to(memory_format=torch.channels_last)(images)
    expected = torch.einsum("oi,bihw->bohw", weight, images[:, :, ::2, ::2]) + bias
    torch.testing.assert_close(outputs, expected)
    torch.testing.assert_close(model.eval()(images), expected)
    mine = torch.autograd.grad(outputs.square().sum(), [weight_of(model), images])
    torch.testing.assert_close(
        list(mine), list(torch.autograd.grad(expected.square().sum(), [weight_of(model), images]))
    )


def weight_of(model):
    return model[0].weight


def test_only_those_that_crash_are_replaced():
    kept = [
        convolution(16),
        convolution(3, stride=1),
        convolution(3, kernel_size=3),
        convolution(3, padding=1),
        convolution(3, groups=3),
    ]
    for model in kept:
        replace_strided_pointwise(model)
        assert type(model[0]) is nn.Conv2d
    model = convolution(3)
    names = list(model.state_dict())
    replace_strided_pointwise(model)
    assert type(copy.deepcopy(model)[0]) is StridedPointwise and list(model.state_dict()) == names


def test_a_backbone_that_begins_with_one_is_trained():
    settings = CnnConfig(name="a", backbone="mobileone_s0", image_size=64, threads=1)
    layers = [type(layer) for layer in untrained_model(settings).backbone.modules()]
    assert StridedPointwise in layers
    check_trainable(settings, 64)
