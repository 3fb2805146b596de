"""Crop slices to the head, on the device: the box of each slice, and the crop at another size.

The box is that of one slice and its neighbours, and is computed from their HU alone: training,
prediction, Grad-CAM and `score` get the same one, and nothing of it is stored. The measures of a
slice, which are features, are made of the whole slice at full resolution and stay as they are.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from stage1_cnn.config import CnnConfig

TISSUE_HU = -30  # least HU of what counts: brain, blood and bone do, fat and air do not
# blocks along a side, over which tissue is averaged: 4 mm where a slice is 256 mm wide
BLOCKS = 64
# least share of tissue in 3 x 3 blocks: tables, head rests and skin are not as thick
SOLID = 0.9
# of the side of the slice, around the solid blocks: half of a block at the skin is no tissue
MARGIN = 1 / 32
LEAST_SIDE = 0.5  # of the side of the slice: a small section is not magnified without limit


def crop_to_head(hu: Tensor, config: CnnConfig) -> Tensor:
    """Return the slices cropped to the head, at the size of the CNN's input.

    hu: int16 or float (b, c, S, S) in HU. Returns float32 (b, c, S', S'), S' = `image_size` or S;
    `hu` itself where `crop_head` is off.
    """
    if not config.crop_head:
        return hu
    size = config.image_size or hu.shape[-1]
    top, left, side = head_boxes(hu)
    with torch.autocast(hu.device.type, enabled=False):  # bf16 cannot tell 1000 HU from 1003
        rows = _weights(top, side, size, hu.shape[-1]).unsqueeze(1)  # (b, 1, S', S)
        columns = _weights(left, side, size, hu.shape[-1]).unsqueeze(1)
        return rows @ hu.float() @ columns.mT


def head_boxes(hu: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (top, left, side) in px, each float32 (b,), of the square box of the head.

    hu: (b, c, S, S) in HU. The box holds all tissue that is about 12 mm thick or more (9 to 16 by
    S, which is at least 96): skull and brain, also brain that no skull surrounds. It has a margin
    and lies inside the slice. Without such tissue it is the slice.
    """
    S = hu.shape[-1]
    block = max(1, round(S / BLOCKS))
    share = F.avg_pool2d((hu > TISSUE_HU).float(), block, ceil_mode=True)
    solid = (F.avg_pool2d(share, 3, stride=1, padding=1) > SOLID).any(1)  # (b, blocks, blocks)
    top, bottom = _ends(solid.any(2), block, S)
    left, right = _ends(solid.any(1), block, S)
    side = torch.maximum(bottom - top, right - left) + 2 * MARGIN * S
    side = side.clamp(LEAST_SIDE * S, S)
    return _start(top, bottom, side, S), _start(left, right, side, S), side


def _ends(occupied: Tensor, block: int, S: int) -> tuple[Tensor, Tensor]:
    """Return where the occupied blocks begin and end along one side, px, float32 (b,) each.

    occupied: bool (b, blocks); block: px of one. Where none is they are the ends of the slice.
    """
    occupied = occupied | ~occupied.any(1, keepdim=True)
    first = occupied.int().argmax(1)  # of equal values the first
    last = occupied.shape[1] - occupied.flip(1).int().argmax(1)
    return (first * block).float(), (last * block).clamp(max=S).float()


def _start(low: Tensor, high: Tensor, side: Tensor, S: int) -> Tensor:
    """Return where a box of `side` around the middle of low and high begins, inside the slice."""
    return torch.minimum(((low + high - side) / 2).clamp(min=0), S - side)


def _weights(start: Tensor, side: Tensor, size: int, S: int) -> Tensor:
    """Return the weights of interpolation along one side of the boxes, float32 (b, size, S).

    start, side: (b,) in px. Output pixel i is the mean of the slice's pixels, weighted by a
    triangle as wide as an output pixel, at least two pixels: bilinear with antialiasing.
    """
    step = (side / size)[:, None, None]  # of an output pixel, in px
    outputs = torch.arange(size, device=start.device, dtype=torch.float32)[None, :, None] + 0.5
    inputs = torch.arange(S, device=start.device, dtype=torch.float32)[None, None, :] + 0.5
    distance = (inputs - (start[:, None, None] + outputs * step)).abs()
    weights = (1 - distance / step.clamp(min=1)).clamp(min=0)
    return weights / weights.sum(2, keepdim=True)


def maps_of_slices(maps: Tensor, hu: Tensor, config: CnnConfig) -> Tensor:
    """Return maps of cropped slices as maps of the whole slices, 0 outside the crop.

    maps: (b, n, h, w); hu: (b, c, S, S), the whole slices. Returns (b, n, h', w'), of which the
    sides are those of `map_shape`; `maps` itself where `crop_head` is off.
    """
    if not config.crop_head:
        return maps
    top, left, side = (value / hu.shape[-1] for value in head_boxes(hu))  # shares of the slice
    zero = torch.zeros_like(side)
    across = torch.stack([1 / side, zero, (1 - 2 * left) / side - 1], 1)
    down = torch.stack([zero, 1 / side, (1 - 2 * top) / side - 1], 1)
    shape = [*maps.shape[:2], *map_shape((maps.shape[2], maps.shape[3]), config)]
    grid = F.affine_grid(torch.stack([across, down], 1), shape, align_corners=False)
    return F.grid_sample(maps, grid, align_corners=False)


def map_shape(shape: tuple[int, int], config: CnnConfig) -> tuple[int, int]:
    """Return the rows and columns of a map of a whole slice. shape: those of the CNN's input.

    A crop may have half the side of its slice: a cell is then as large as in the crop.
    """
    factor = round(1 / LEAST_SIDE) if config.crop_head else 1
    return shape[0] * factor, shape[1] * factor
