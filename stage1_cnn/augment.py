"""From slices in HU to the CNN's input, on its device and in batches: resizing, augmentation on HU,
windows.
"""

import numpy as np
import torch
import torch.nn.functional as F

from ct.windows import apply_window, window_bounds

AIR_HU = -1000.0  # what augmentation shows beyond the edge of a slice
# ImageNet's over its three colours: pretrained weights expect it, the others don't mind
MEAN, STD = 0.449, 0.226


def resize(hu, size):
    """Resize float slices (b, c, S, S) to `size` px with antialiasing; None leaves them as they
    are.
    """
    if size is None or hu.shape[-1] == size:
        return hu
    return F.interpolate(
        hu, size=(size, size), mode="bilinear", antialias=True, align_corners=False
    )


def augment(hu, config, generator):
    """Mirror, turn, zoom and move each slice at random, reverse its neighbours, erase a piece,
    shift its HU and add noise.

    hu: float32 (b, c, S, S) in HU; the c neighbours of a slice change together. generator: on the
    device of `hu`. Everything happens on HU, before the windows, in one interpolation: 1 extra HU
    is 1 extra HU in every window.
    """
    b = len(hu)

    def uniform(low, high):
        return torch.rand(b, generator=generator, device=hu.device) * (high - low) + low

    if config.flip or config.rotate or config.scale or config.shift:
        mirror = (
            torch.where(uniform(-1, 1) < 0, -1.0, 1.0)
            if config.flip
            else torch.ones(b, device=hu.device)
        )
        turn, zoom = (
            torch.deg2rad(uniform(-config.rotate, config.rotate)),
            1 + uniform(-config.scale, config.scale),
        )
        # of 2
        across, along = (
            uniform(-2 * config.shift, 2 * config.shift),
            uniform(-2 * config.shift, 2 * config.shift),
        )
        cos, sin = torch.cos(turn) / zoom, torch.sin(turn) / zoom
        # of the map from the output to the input
        rows = [mirror * cos, -mirror * sin, across, sin, cos, along]
        grid = F.affine_grid(
            torch.stack(rows, 1).view(b, 2, 3), list(hu.shape), align_corners=False
        )
        # grid_sample pads with 0
        hu = F.grid_sample(hu - AIR_HU, grid, align_corners=False).add_(AIR_HU)
    if config.reverse and hu.shape[1] > 1:
        hu = torch.where(_each(uniform(0, 1) < 0.5), hu.flip(1), hu)
    if config.erase:
        hu = torch.where(_rectangles(uniform, hu) & _each(uniform(0, 1) < config.erase), AIR_HU, hu)
    if config.hu_shift:
        hu = hu + torch.randn(b, 1, 1, 1, generator=generator, device=hu.device) * config.hu_shift
    if config.hu_noise:
        hu = (
            torch.randn(hu.shape, generator=generator, device=hu.device)
            .mul_(config.hu_noise)
            .add_(hu)
        )
    return hu


def _each(values):
    """One value a slice, (b,), in the shape of slices, (b, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)


def _rectangles(uniform, hu):
    """Draw a rectangle in each slice, of 2 to 20 % of its area and up to twice as long as wide.
    Returns bool (b, 1, S, S).
    """
    size = hu.shape[-1]
    area, ratio = uniform(0.02, 0.2), torch.exp2(uniform(-1, 1))
    high, wide = torch.sqrt(area * ratio), torch.sqrt(area / ratio)
    top, left = uniform(0, 1) * (1 - high), uniform(0, 1) * (1 - wide)
    at = (torch.arange(size, device=hu.device) + 0.5) / size  # the pixels' centres
    rows = (at >= top[:, None]) & (at < (top + high)[:, None])
    columns = (at >= left[:, None]) & (at < (left + wide)[:, None])
    return (rows[:, None, :, None]) & (columns[:, None, None, :])


def mix(images, labels, alpha, seed):
    """Mix a batch with itself in reverse (mixup, Zhang et al. 2018): images (b, ...) and labels (b,
    6) by one share.

    The share is drawn from Beta(alpha, alpha) by numpy, which needs no word from the device.
    """
    share = float(np.random.default_rng(seed).beta(alpha, alpha))
    return images.lerp(images.flip(0), 1 - share), labels.lerp(labels.flip(0), 1 - share)


def views(hu, config):
    """Return the slices (b, c, S, S) as they are, and in each view of test-time augmentation."""
    dims = {"flip": -1, "reverse": 1}
    return [hu, *(hu.flip(dims[name]) for name in config.tta)]


def to_channels(hu, config):
    """Turn slices in HU into the CNN's input.

    hu: int16 or float (b, c, S, S). Returns float32 (b, c * w, S', S') in channels-last memory,
    normalised from [0, 1] by MEAN and STD. Channel i * w + j is slice i through window j: the
    windows of one slice stand together, so that the three colours of pretrained weights, which timm
    repeats for more channels, meet the same windows in each slice.
    """
    hu = resize(hu.float(), config.image_size).permute(0, 2, 3, 1)  # (b, S', S', c)
    # channels last: each window goes to its place
    images = torch.empty((*hu.shape, len(config.windows)), device=hu.device)
    for number, spec in enumerate(config.windows):
        images[..., number] = apply_window(hu, *window_bounds(spec))
    return images.sub_(MEAN).div_(STD).flatten(3).permute(0, 3, 1, 2)
