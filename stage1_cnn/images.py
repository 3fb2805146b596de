"""From slices in HU to the CNN's input, on its device and in batches: resizing, augmentation on HU, windows."""

import torch
import torch.nn.functional as F

from ct.windows import apply_window, window_bounds

AIR_HU = -1000.0  # what augmentation shows beyond the edge of a slice
MEAN, STD = 0.449, 0.226  # ImageNet's over its three colours: pretrained weights expect it, the others don't mind


def resize(hu, size):
    """Resize float slices (b, c, S, S) to `size` px with antialiasing; None leaves them as they are."""
    if size is None or hu.shape[-1] == size:
        return hu
    return F.interpolate(hu, size=(size, size), mode="bilinear", antialias=True, align_corners=False)


def augment(hu, config, generator):
    """Mirror, turn, zoom and move each slice at random, then shift its HU and add noise.

    hu: float32 (b, c, S, S) in HU; the c neighbours of a slice move together. generator: on the device of `hu`.
    Everything happens on HU, before the windows, in one interpolation: 1 extra HU is 1 extra HU in every window.
    """
    b = len(hu)

    def uniform(reach):
        return (torch.rand(b, generator=generator, device=hu.device) * 2 - 1) * reach

    if config.flip or config.rotate or config.scale or config.shift:
        mirror = torch.where(uniform(1.0) < 0, -1.0, 1.0) if config.flip else torch.ones(b, device=hu.device)
        turn, zoom = torch.deg2rad(uniform(config.rotate)), 1 + uniform(config.scale)
        across, along = uniform(2 * config.shift), uniform(2 * config.shift)  # the grid is 2 wide
        cos, sin = torch.cos(turn) / zoom, torch.sin(turn) / zoom
        rows = [mirror * cos, -mirror * sin, across, sin, cos, along]  # of the map from the output to the input
        grid = F.affine_grid(torch.stack(rows, 1).view(b, 2, 3), list(hu.shape), align_corners=False)
        hu = F.grid_sample(hu - AIR_HU, grid, align_corners=False) + AIR_HU  # grid_sample pads with 0
    if config.hu_shift:
        hu = hu + torch.randn(b, 1, 1, 1, generator=generator, device=hu.device) * config.hu_shift
    if config.hu_noise:
        hu = hu + torch.randn(hu.shape, generator=generator, device=hu.device) * config.hu_noise
    return hu


def to_channels(hu, config):
    """Turn slices in HU into the CNN's input.

    hu: int16 or float (b, c, S, S). Returns float32 (b, c * w, S', S') in channels-last memory, normalised from [0, 1] by MEAN
    and STD. Channel i * w + j is slice i through window j: the windows of one slice stand together, so that the three colours
    of pretrained weights, which timm repeats for more channels, meet the same windows in each slice.
    """
    hu = resize(hu.float(), config.image_size)
    seen = [apply_window(hu, *window_bounds(spec)) for spec in config.windows]
    images = (torch.stack(seen, dim=2).flatten(1, 2) - MEAN) / STD
    return images.contiguous(memory_format=torch.channels_last)
