"""Measures of a slice at full resolution: areas of brain and skull, HU of the brain."""

import numpy as np
from numpy.typing import NDArray


def measure_slice(hu: NDArray[np.int16], spacing_mm: float) -> tuple[float, ...]:
    """Measure a slice; a large slice on every second pixel of every second row.

    hu: (rows, cols); spacing_mm: between pixels, NaN where unknown

    Returns padding_hu, brain_cm2, skull_cm2, brain_mean_hu, brain_std_hu, blood_share: see
    ct.slices.PIXEL_COLUMNS.
    """
    step = 2 if min(hu.shape) >= 256 else 1
    sampled = hu[::step, ::step]
    pixel_cm2 = step**2 * (1.0 if np.isnan(spacing_mm) else (spacing_mm / 10) ** 2)
    brain = sampled[(sampled >= 0) & (sampled <= 80)]
    skull_cm2 = np.count_nonzero(sampled > 300) * pixel_cm2
    if not brain.size:
        return hu.min(), 0.0, skull_cm2, np.nan, np.nan, np.nan
    blood_share = (brain >= 50).mean()
    return hu.min(), brain.size * pixel_cm2, skull_cm2, brain.mean(), brain.std(), blood_share
