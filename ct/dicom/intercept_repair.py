"""The 12-bit intercept defect: HU that wrapped at 4096, and their repair."""

import numpy as np

AIR_STORED = 4096 - 1000  # what air becomes where -1000 HU wraps round in twelve bits


def wraps_at_12_bits(stored):
    """Tell whether the stored values are HU that wrapped round at 4096.

    stored: unsigned (rows, cols), twelve bits, of a file whose intercept is near 0

    123 files of the competition's training set hold HU modulo 4096 without an intercept, so that
    air, -1000 HU, lies at 3096. There air is a narrow peak of many pixels, and below it (-1400 to
    -1100 HU) lies nothing. A file of another vendor may be right with an intercept of 0: values
    about 3096 are then dense metal, which neither fills a twentieth of the image nor ends so
    sharply. The mending is J. Howard's (Kaggle, "Cleaning the data for rapid prototyping").
    """
    # no twelve bits; and bincount would take memory up to the largest
    if stored.dtype.itemsize > 2 and stored.max() > 65535:
        return False
    counts = np.bincount(stored.ravel().astype(np.uint16, copy=False), minlength=4096)
    air = counts[AIR_STORED - 100 : AIR_STORED + 101].sum()
    below = counts[AIR_STORED - 400 : AIR_STORED - 100].sum()
    return bool(air > 0.05 * stored.size and below < 0.05 * air)
