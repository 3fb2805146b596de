"""From slices in HU to the CNN's input, in batches on the device: resize, augment, window."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from ct.windows import apply_window, window_bounds
from stage1_cnn.config import CnnConfig

AIR_HU = -1000.0  # the value beyond the edge of an augmented slice
# those of ImageNet, averaged over its three colours: most pretrained weights expect them
MEAN, STD = 0.449, 0.226

Uniform = Callable[[float, float], Tensor]  # (low, high) -> (b,), one number a slice


def resize(hu: Tensor, size: int | None) -> Tensor:
    """Resize float slices (b, c, S, S) to `size` px with antialiasing; None keeps their size."""
    if size is None or hu.shape[-1] == size:
        return hu
    return F.interpolate(
        hu, size=(size, size), mode="bilinear", antialias=True, align_corners=False
    )


def augment(hu: Tensor, config: CnnConfig, generator: torch.Generator) -> Tensor:
    """Return randomly changed slices: geometry, order of the neighbours, erasing, HU and noise.

    hu: float32 (b, c, S, S) in HU; the c neighbours of a slice change together. generator: on the
    device of `hu`. The changes are made in HU, before the windows: 1 HU more is 1 HU more in every
    window. The geometry is one interpolation.
    """
    b = len(hu)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(b, generator=generator, device=hu.device) * (high - low) + low

    if config.flip or config.rotate or config.scale or config.shift:
        hu = _transform(hu, config, uniform)
    if config.reverse and hu.shape[1] > 1:
        hu = torch.where(_per_slice(uniform(0, 1) < 0.5), hu.flip(1), hu)
    if config.erase:
        erased = _rectangles(uniform, hu) & _per_slice(uniform(0, 1) < config.erase)
        hu = torch.where(erased, AIR_HU, hu)
    if config.hu_shift:
        hu = hu + torch.randn(b, 1, 1, 1, generator=generator, device=hu.device) * config.hu_shift
    if config.hu_noise:
        noise = torch.randn(hu.shape, generator=generator, device=hu.device)
        hu = noise.mul_(config.hu_noise).add_(hu)
    return hu


def _transform(hu: Tensor, config: CnnConfig, uniform: Uniform) -> Tensor:
    """Mirror, rotate, zoom and shift each slice at random."""
    mirror = torch.ones(len(hu), device=hu.device)
    if config.flip:
        mirror = torch.where(uniform(-1, 1) < 0, -1.0, 1.0)
    angle = torch.deg2rad(uniform(-config.rotate, config.rotate))
    zoom = 1 + uniform(-config.scale, config.scale)
    # affine_grid's coordinates run from -1 to 1: a width is 2
    shift_x = uniform(-2 * config.shift, 2 * config.shift)
    shift_y = uniform(-2 * config.shift, 2 * config.shift)
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    # two rows of the map from the output to the input
    matrix = [mirror * cos, -mirror * sin, shift_x, sin, cos, shift_y]
    theta = torch.stack(matrix, 1).view(len(hu), 2, 3)
    grid = F.affine_grid(theta, list(hu.shape), align_corners=False)
    # grid_sample pads with 0, which must mean air
    return F.grid_sample(hu - AIR_HU, grid, align_corners=False).add_(AIR_HU)


def _per_slice(values: Tensor) -> Tensor:
    """Return one value a slice, (b,), in the shape that broadcasts to slices, (b, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)


def _rectangles(uniform: Uniform, hu: Tensor) -> Tensor:
    """Draw a rectangle in each slice: 2 to 20 % of its area, at most twice as long as wide.

    Returns bool (b, 1, S, S).
    """
    size = hu.shape[-1]
    area, ratio = uniform(0.02, 0.2), torch.exp2(uniform(-1, 1))
    height, width = torch.sqrt(area * ratio), torch.sqrt(area / ratio)
    top, left = uniform(0, 1) * (1 - height), uniform(0, 1) * (1 - width)
    centres = (torch.arange(size, device=hu.device) + 0.5) / size  # of the pixels
    rows = (centres >= top[:, None]) & (centres < (top + height)[:, None])
    columns = (centres >= left[:, None]) & (centres < (left + width)[:, None])
    return (rows[:, None, :, None]) & (columns[:, None, None, :])


def mix(images: Tensor, labels: Tensor, alpha: float, seed: int) -> tuple[Tensor, Tensor]:
    """Mix a batch with the same batch in reverse order (mixup, Zhang et al. 2018).

    images: (b, ...); labels: (b, 6). One share for the whole batch is drawn from
    Beta(alpha, alpha), by numpy: that needs no synchronisation with the device.

    Returns (images, labels).
    """
    share = float(np.random.default_rng(seed).beta(alpha, alpha))
    return images.lerp(images.flip(0), 1 - share), labels.lerp(labels.flip(0), 1 - share)


def views(hu: Tensor, config: CnnConfig) -> list[Tensor]:
    """Return the slices (b, c, S, S) unchanged, then in each view of test-time augmentation."""
    dims = {"flip": -1, "reverse": 1}
    return [hu, *(hu.flip(dims[name]) for name in config.tta)]


def mean_and_std(config: CnnConfig) -> tuple[float, float]:
    """Return the mean and deviation that normalise images from [0, 1], averaged over colours."""
    if config.normalisation == "backbone":
        return _mean_and_std_of(config.backbone)
    return MEAN, STD


@lru_cache
def _mean_and_std_of(backbone: str) -> tuple[float, float]:
    """Return those that timm lists for a backbone; those of ImageNet where it lists none."""
    known = timm.get_pretrained_cfg(backbone)
    if known is None:
        return MEAN, STD
    return round(sum(known.mean) / len(known.mean), 6), round(sum(known.std) / len(known.std), 6)


def to_channels(hu: Tensor, config: CnnConfig) -> Tensor:
    """Return the CNN's input for slices in HU.

    hu: int16 or float (b, c, S, S). Returns float32 (b, c * w, S', S') in channels-last memory,
    normalised from [0, 1] by `mean_and_std`. Channel i * w + j is slice i through window j. The
    windows of one slice stand together, because timm repeats the three colours of pretrained
    weights for more channels: the weights of a colour get the same window in every slice.
    """
    hu = resize(hu.float(), config.image_size).permute(0, 2, 3, 1)  # (b, S', S', c)
    # channels last: each window is written where it stays
    images = torch.empty((*hu.shape, len(config.windows)), device=hu.device)
    for number, spec in enumerate(config.windows):
        images[..., number] = apply_window(hu, *window_bounds(spec))
    mean, std = mean_and_std(config)
    return images.sub_(mean).div_(std).flatten(3).permute(0, 3, 1, 2)
