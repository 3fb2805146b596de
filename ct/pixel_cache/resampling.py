"""Resample a slice to the square of the pixel cache."""

import numpy as np

from ct.pixel_cache.reader import AIR_HU

LOWEST, HIGHEST = -1024, 3071  # HU: twelve bits, all that a CT scanner tells apart


def shrink(hu, size):
    """Return a slice as int16 (size, size), clipped to what a scanner tells apart, padded with air
    to a square, resampled.

    hu: int16 (rows, cols). Smaller by means over areas (where `size` does not divide the side,
    weighted: Pillow's BOX would take one pixel here and two there), larger by bilinear
    interpolation.
    """
    square = pad_to_square(np.clip(hu, LOWEST, HIGHEST))
    side = len(square)
    if side % size == 0:
        return _block_mean(square, side // size)
    from PIL import Image

    how = Image.Resampling.HAMMING if size < side else Image.Resampling.BILINEAR
    image = Image.fromarray(square.astype(np.float32)).resize((size, size), how)
    return np.rint(np.asarray(image)).astype(np.int16)


def pad_to_square(hu):
    """Return `hu` (rows, cols) in the middle of a square of air."""
    rows, cols = hu.shape
    if rows == cols:
        return hu
    side = max(rows, cols)
    square = np.full((side, side), AIR_HU, hu.dtype)
    top, left = (side - rows) // 2, (side - cols) // 2
    square[top : top + rows, left : left + cols] = hu
    return square


def _block_mean(square, factor):
    """Return the means of blocks of factor x factor pixels, rounded; summing slices is far quicker
    than numpy's mean.
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
