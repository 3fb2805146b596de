"""Measures of a slice in full resolution: areas of brain and bone, mean HU."""

import numpy as np


def measure(hu, spacing):
    """Measure a slice, on every second pixel of every second row where it is large.

    hu: int16 (rows, cols); spacing: mm, or NaN

    Returns padding_hu, brain_cm2, skull_cm2, brain_mean_hu, brain_std_hu, blood_share (see
    PIXEL_COLUMNS).
    """
    step = 2 if min(hu.shape) >= 256 else 1
    seen = hu[::step, ::step]
    pixel = step**2 * (1.0 if np.isnan(spacing) else (spacing / 10) ** 2)
    brain = seen[(seen >= 0) & (seen <= 80)]
    tissue = [brain.mean(), brain.std(), (brain >= 50).mean()] if brain.size else [np.nan] * 3
    return hu.min(), brain.size * pixel, np.count_nonzero(seen > 300) * pixel, *tissue
