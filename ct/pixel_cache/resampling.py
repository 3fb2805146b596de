"""Resample a slice to the square of the pixel cache."""

import numpy as np
from numpy.typing import NDArray

from ct.pixel_cache.shards import AIR_HU

LOWEST_HU, HIGHEST_HU = -1024, 3071  # the range of a CT scanner: twelve bits


def resample_to_square(hu: NDArray[np.int16], size: int) -> NDArray[np.int16]:
    """Return a slice clipped to LOWEST_HU to HIGHEST_HU, padded with air, as (size, size).

    hu: (rows, cols)

    A larger slice shrinks by means over areas. Where `size` does not divide its side the means are
    weighted, since Pillow's BOX would average one pixel here and two there. A smaller slice grows
    by bilinear interpolation.
    """
    square = pad_to_square(np.clip(hu, LOWEST_HU, HIGHEST_HU))
    side = len(square)
    if side % size == 0:
        return _block_mean(square, side // size)
    from PIL import Image

    method = Image.Resampling.HAMMING if size < side else Image.Resampling.BILINEAR
    image = Image.fromarray(square.astype(np.float32)).resize((size, size), method)
    return np.rint(np.asarray(image)).astype(np.int16)


def pad_to_square(hu: NDArray[np.int16]) -> NDArray[np.int16]:
    """Return a slice (rows, cols) in the middle of a square of air."""
    rows, cols = hu.shape
    if rows == cols:
        return hu
    side = max(rows, cols)
    square = np.full((side, side), AIR_HU, hu.dtype)
    top, left = (side - rows) // 2, (side - cols) // 2
    square[top : top + rows, left : left + cols] = hu
    return square


def _block_mean(square: NDArray[np.int16], factor: int) -> NDArray[np.int16]:
    """Return the means of blocks of factor x factor pixels, rounded.

    Adding up array slices is far quicker than numpy's mean.
    """
    if factor == 1:
        return np.ascontiguousarray(square)
    rows = square[::factor].astype(np.int32)
    for i in range(1, factor):
        rows += square[i::factor]
    total = rows[:, ::factor].astype(np.float32)  # exact: whole numbers below 2**24
    for i in range(1, factor):
        total += rows[:, i::factor]
    return np.rint(total / factor**2).astype(np.int16)
