"""Strided 1 x 1 convolutions of the image, whose training on the CPU crashes in torch 2.14.

FastViT, MobileOne and others begin with one. Over fewer than 16 channels oneDNN's backward pass in
channels-last memory writes beyond its buffer: the process aborts, or its memory is wrong.
"""

import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS = 16  # with as many and more, oneDNN does not crash


class StridedPointwise(nn.Conv2d):
    """A strided 1 x 1 convolution that in training on the CPU leaves out the pixels beforehand."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution (b, out, h / stride, w / stride) of the input (b, in, h, w)."""
        if self.training and input.device.type == "cpu":
            rows, columns = self.stride
            return F.conv2d(input[:, :, ::rows, ::columns], self.weight, self.bias)
        return super().forward(input)


def replace_strided_pointwise(backbone: nn.Module) -> None:
    """Let the strided 1 x 1 convolutions of few channels be StridedPointwise; weights stay."""
    for module in backbone.modules():
        if type(module) is nn.Conv2d and _crashes(module):
            module.__class__ = StridedPointwise


def _crashes(layer: nn.Conv2d) -> bool:
    plain = layer.groups == 1 and set(layer.padding) == {0}
    pointwise = layer.kernel_size == (1, 1) and layer.stride != (1, 1)
    return plain and pointwise and layer.in_channels < CHANNELS
