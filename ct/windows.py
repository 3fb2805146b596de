"""HU windows: the ranges of density that a radiologist uses."""

import math
from typing import Any

from ct.config import suggestion
from ct.errors import InputError

# centre and width, HU
WINDOWS = {"brain": (40, 80), "subdural": (80, 200), "soft": (40, 380), "bone": (600, 2800)}


def window_bounds(spec: str) -> tuple[float, float]:
    """Return the lowest and highest HU of a window: centre -+ width / 2.

    spec: a name of WINDOWS, or "centre/width" in HU, such as "40/80"

    The bounds are those of LINEAR_EXACT (DICOM PS3.3 section C.11.2.1.3.2). Raises InputError for
    an unknown name, malformed text and a width that is not above 0.
    """
    centre: float
    width: float
    if spec in WINDOWS:
        centre, width = WINDOWS[spec]
        return centre - width / 2, centre + width / 2
    before, slash, after = str(spec).partition("/")
    if not slash:
        raise InputError(
            f"window {spec!r} is neither a name nor centre/width such as 40/80"
            f"{suggestion(spec, WINDOWS)}"
        )
    try:
        centre, width = float(before), float(after)
    except ValueError:
        raise InputError(
            f"window {spec!r}: centre and width must be numbers, such as 40/80"
        ) from None
    if not (math.isfinite(centre) and math.isfinite(width) and width > 0):
        raise InputError(
            f"window {spec!r}: the centre must be finite and the width above 0, such as 40/80"
        )
    return centre - width / 2, centre + width / 2


def apply_window(hu: Any, low: float, high: float) -> Any:
    """Scale HU to [0, 1]: 0 at `low` and below, 1 at `high` and above.

    hu: numpy array or torch tensor of any shape. Floats keep their type; integers become the
        library's default float.
    """
    return ((hu - low) / (high - low)).clip(0, 1)
