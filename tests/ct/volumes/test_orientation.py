"""Which way up: stored pixels are turned as ImageOrientationPatient says."""

import itertools

import numpy as np
import pytest
from tiny_dicom import header_of, write_slice

from ct.dicom.hounsfield import read_hu
from ct.volumes.orientation import UPRIGHT, Turn, turn_to_standard

# patient left is +x, back is +y: the value of a pixel tells where in the patient it lies
ROWS, COLUMNS = 5, 4
UP = 100 * np.arange(ROWS)[:, None] + np.arange(COLUMNS)  # the standard view
KEY = b"key"
STORED = {  # how a slice is stored: (its pixels, directions along a row and down a column)
    "upright": (UP, [1, 0, 0, 0, 1, 0]),
    "turned by 180 degrees": (UP[::-1, ::-1], [-1, 0, 0, 0, -1, 0]),
    "rows upside down": (UP[::-1], [1, 0, 0, 0, -1, 0]),
    "columns left to right": (UP[:, ::-1], [-1, 0, 0, 0, 1, 0]),
    "turned clockwise": (np.rot90(UP, -1), [0, -1, 0, 1, 0, 0]),
    "turned anticlockwise": (np.rot90(UP), [0, 1, 0, -1, 0, 0]),
    "transposed": (UP.T, [0, 1, 0, 1, 0, 0]),
    "transposed the other way": (UP[::-1, ::-1].T, [0, -1, 0, -1, 0, 0]),
}


@pytest.mark.parametrize("way", STORED)
@pytest.mark.parametrize("tilt", [0, 30, -30])
def test_patient_left_stays_left_and_the_back_stays_below(tmp_path, way, tilt):
    stored, iop = STORED[way]
    c, s = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
    tilted = (np.reshape(iop, (2, 3)) @ [[1, 0, 0], [0, c, s], [0, -s, c]]).ravel()
    spacing = [0.5, 0.75] if stored.shape == UP.shape else [0.75, 0.5]
    path = write_slice(
        tmp_path / "a.dcm",
        stored,
        RescaleIntercept=0,
        ImageOrientationPatient=[f"{value:.6f}" for value in tilted],
        PixelSpacing=spacing,
    )
    hu, _ = read_hu(path)
    assert hu.tolist() == UP.tolist() and hu.flags.c_contiguous
    header = header_of(path, KEY)
    assert (header["rows"], header["cols"], header["pixel_spacing_mm"]) == (ROWS, COLUMNS, 0.5)
    np.testing.assert_allclose(header["iop"], [1, 0, 0, 0, c, s], atol=1e-6)
    # the first turned pixel: where it lies among the stored ones
    row, column = np.argwhere(stored == UP[0, 0])[0]
    first = tilted[:3] * column * spacing[1] + tilted[3:] * row * spacing[0]
    np.testing.assert_allclose(header["ipp"], np.add([-125, -100.5, 30.25], first), atol=1e-5)


def test_the_directions_follow_the_pixels():
    """Each of the eight Turns takes the patient's point of a pixel to the same place as pixels."""
    iop = np.array([0.9, 0.1, 0.2, -0.1, 0.8, 0.3])
    for flags in itertools.product([False, True], repeat=3):
        turn = Turn(*flags)
        rows, columns = np.mgrid[:ROWS, :COLUMNS]
        points = columns[..., None] * iop[:3] + rows[..., None] * iop[3:]
        turned = np.stack([turn.pixels(points[..., axis]) for axis in range(3)], -1)
        directions = turn.directions(iop)
        np.testing.assert_allclose(turned[0, 1] - turned[0, 0], directions[:3])
        np.testing.assert_allclose(turned[1, 0] - turned[0, 0], directions[3:])


@pytest.mark.parametrize(
    "iop", [[0, 1, 0, 0, 0, -1], [1, 0, 0, 0, 0, -1], [0, -1, 0, 0, 0, -1], [-1, 0, 0, 0, 0, 1]]
)
def test_coronal_and_sagittal_slices_are_not_turned(iop):
    assert turn_to_standard(iop) == UPRIGHT


@pytest.mark.parametrize("degrees", [-40, -5, 5, 40])
def test_a_head_that_is_not_straight_stays_as_it_is(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    assert turn_to_standard([c, s, 0, -s, c, 0]) == UPRIGHT


def test_words():
    assert turn_to_standard([1, 0, 0, 0, 1, 0]).words == ""
    assert turn_to_standard([-1, 0, 0, 0, -1, 0]).words == "turned by 180 degrees"
    assert turn_to_standard([0, 1, 0, -1, 0, 0]).words == "turned by 90 degrees"
    assert turn_to_standard([0, -1, 0, 1, 0, 0]).words == "turned by 90 degrees"
    assert turn_to_standard([-1, 0, 0, 0, 1, 0]).words == "mirrored"
    assert turn_to_standard([0, 1, 0, 1, 0, 0]).words == "mirrored"
