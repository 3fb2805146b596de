"""The 12-bit intercept defect: find slices whose HU wrapped round at 4096, and repair them.

123 files of the competition's training set hold HU modulo 4096 without an intercept, so that air,
-1000 HU, is stored as 3096. The repair is J. Howard's (Kaggle, "Cleaning the data for rapid
prototyping"): add 1000, wrap at 4096, subtract 1000.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

STORED_AIR = 4096 - 1000  # what -1000 HU becomes where twelve bits wrap round


def may_wrap_at_12_bits(pixel_format: Mapping[str, int], slope: float, intercept: float) -> bool:
    """Return whether a header allows the defect: unsigned, 12 bits, slope 1, intercept near 0.

    pixel_format: as returned by ct.dicom.pixel_attributes.pixel_format
    """
    unsigned_12_bits = pixel_format["BitsStored"] == 12 and pixel_format["PixelRepresentation"] == 0
    return unsigned_12_bits and slope == 1 and intercept > -100


def wraps_at_12_bits(stored: NDArray[np.integer]) -> bool:
    """Return whether the histogram of the stored values shows the defect.

    stored: unsigned (rows, cols), twelve bits, of a header that `may_wrap_at_12_bits`

    With the defect, air is a narrow peak of many pixels around 3096, with almost nothing just below
    it (-1400 to -1100 HU). Without the defect, where an intercept of 0 is right, values around 3096
    are dense metal: less than a twentieth of the image, without such a sharp edge.
    """
    # more than 16 bits are not 12; and bincount takes memory up to the largest value
    if stored.dtype.itemsize > 2 and stored.max() > 65535:
        return False
    counts = np.bincount(stored.ravel().astype(np.uint16, copy=False), minlength=4096)
    air = counts[STORED_AIR - 100 : STORED_AIR + 101].sum()
    below = counts[STORED_AIR - 400 : STORED_AIR - 100].sum()
    return bool(air > 0.05 * stored.size and below < 0.05 * air)


def unwrap_at_12_bits(stored: NDArray[np.integer]) -> NDArray[np.int16]:
    """Return the HU (rows, cols) of stored values that wrapped round: -1000 to 3095."""
    return (stored.astype(np.int16) + np.int16(1000)) % np.int16(4096) - np.int16(1000)
