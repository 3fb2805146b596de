"""Which way up a slice is stored, and how its pixels are turned to the standard axial view.

In that view, the radiological one, rows run to the patient's left and columns to the back. The
directions of the stored rows and columns are those of ImageOrientationPatient (PS3.3 section
C.7.6.2.1.1), in patient coordinates: +x left, +y back, +z head.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ct.slices import MAX_AXIAL_DEG


class Turn(NamedTuple):
    """What brings stored pixels to the standard axial view: exchange the axes, then reverse."""

    transposed: bool  # exchange rows and columns
    reversed_rows: bool  # reverse the order of the rows
    reversed_columns: bool

    def pixels(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return pixels (rows, cols) in the standard view, in one piece of memory."""
        if self == UPRIGHT:
            return stored
        turned = stored.T if self.transposed else stored
        turned = turned[:: -1 if self.reversed_rows else 1, :: -1 if self.reversed_columns else 1]
        return np.ascontiguousarray(turned)

    def directions(self, iop: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the directions (6,) along a row and down a column of the turned pixels.

        iop: of the stored pixels, as in ImageOrientationPatient
        """
        row, column = (iop[3:], iop[:3]) if self.transposed else (iop[:3], iop[3:])
        return np.concatenate(
            [-row if self.reversed_columns else row, -column if self.reversed_rows else column]
        )

    def first_pixel(self, rows: int, columns: int) -> tuple[int, int]:
        """Return the (row, column) in the stored pixels (rows, columns) of the first turned one."""
        last_row, last_column = self.reversed_rows, self.reversed_columns
        if self.transposed:
            last_row, last_column = last_column, last_row
        return (rows - 1) * last_row, (columns - 1) * last_column

    @property
    def words(self) -> str:
        """Return how the pixels are stored, in words; "" where they are not turned."""
        if self == UPRIGHT:
            return ""
        if sum(self) % 2:  # an odd number of exchanges and reversals
            return "mirrored"
        return f"turned by {90 if self.transposed else 180} degrees"


UPRIGHT = Turn(False, False, False)


def turn_to_standard(iop: ArrayLike) -> Turn:
    """Return the Turn of slices of this ImageOrientationPatient, (6,).

    Rows and columns go to the nearest axes of the patient, so that a tilt, or a head that is not
    straight, stays as it is. Slices more than MAX_AXIAL_DEG from axial are not turned.
    """
    row, column = np.asarray(iop, np.float64).reshape(2, 3)
    normal = np.cross(row, column)
    if abs(normal[2]) < np.cos(np.radians(MAX_AXIAL_DEG)) * np.linalg.norm(normal):
        return UPRIGHT
    transposed = abs(row[1]) + abs(column[0]) > abs(row[0]) + abs(column[1])
    if transposed:
        row, column = column, row
    return Turn(bool(transposed), bool(column[1] < 0), bool(row[0] < 0))
