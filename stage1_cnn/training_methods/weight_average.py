"""The mean of a CNN's weights at the ends of several epochs."""

import copy

import torch

from stage1_cnn.model import Cnn


class WeightAverage:
    """The mean of the weights of one training (Izmailov et al. 2018; Wortsman et al. 2022).

    The means and variances of batch norm are averaged like weights: over the last epochs, in which
    the learning rate is small, they hardly differ, and no further pass over the slices is needed.
    Counts are those of the last weights.

    model: the mean, once `count`, the number of added weights, is not 0
    """

    def __init__(self, model: Cnn) -> None:
        self.model = copy.deepcopy(model)
        self.count = 0

    @torch.no_grad()
    def add(self, model: Cnn) -> None:
        """Add the weights of `model` to the mean."""
        self.count += 1
        current = model.state_dict()
        for name, mean in self.model.state_dict().items():
            if self.count > 1 and mean.is_floating_point():
                mean.lerp_(current[name], 1 / self.count)
            else:
                mean.copy_(current[name])
