"""Padding whose number is not below air is read as air, whatever the number."""

import numpy as np
import pytest
from pydicom.dataelem import DataElement
from tiny_dicom import make_dataset

from ct.dicom.dataset_parser import quiet_pydicom
from ct.dicom.hounsfield import read_hu

P = -1  # where padding stands in PICTURE
PICTURE = np.array(
    [
        [P, P, 30, 31, P],
        [P, 40, 41, 42, P],
        [50, 51, P, 53, 54],  # not at the margin: a pixel of the head
        [P, 60, 61, 62, P],
    ]
)
OUTSIDE = (PICTURE == P) & (np.arange(20).reshape(4, 5) != 12)


def read(tmp_path, value, limit=None, stored=None, vr="US", **tags):
    """HU of PICTURE, padded with `stored` or `value`; the tags hold value and limit."""
    stored = value if stored is None else stored
    dataset = make_dataset(np.where(PICTURE == P, stored, PICTURE), **tags)
    for tag, number in ((0x00280120, value), (0x00280121, limit)):
        if number is not None:
            dataset.add(DataElement(tag, vr, number))
    with quiet_pydicom():
        dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    return read_hu(tmp_path / "a.dcm")[0]


@pytest.mark.parametrize(
    ("value", "tags"),
    [
        (4095, {"signed": False}),
        (63536, {"signed": False}),
        (4095, {"signed": False, "bits": 12}),
        (1024, {"signed": False}),  # 0 HU
        (25, {"RescaleIntercept": 0}),
        (-5, {"RescaleIntercept": 0, "vr": "SS"}),
    ],
)
def test_padding_at_the_margin_is_air(tmp_path, value, tags):
    hu = read(tmp_path, value, **tags)
    intercept = tags.get("RescaleIntercept", -1024)
    stored = np.where(PICTURE == P, value, PICTURE)
    np.testing.assert_array_equal(
        hu, np.where(OUTSIDE, -1000, (stored + intercept).clip(None, 32767))
    )


def test_the_tags_bits_are_those_of_a_pixel(tmp_path):
    """A signed -7 whose tag is unsigned, and the reverse."""
    hu = read(tmp_path, 65529, stored=-7, RescaleIntercept=0)
    assert (hu[OUTSIDE] == -1000).all() and hu[2, 2] == -7
    hu = read(tmp_path, -7, stored=65529, vr="SS", signed=False, RescaleIntercept=-32768)
    assert (hu[OUTSIDE] == -1000).all() and hu[2, 2] == 65529 - 32768


def test_bits_above_the_stored_ones_do_not_matter(tmp_path):
    hu = read(tmp_path, 63536, signed=False, bits=12)
    assert (hu[OUTSIDE] == -1000).all() and hu[2, 2] == 63536 % 4096 - 1024


@pytest.mark.parametrize(("value", "limit"), [(3000, 3100), (3100, 3000)])
def test_a_range_of_padding(tmp_path, value, limit):
    for stored, padded in ((3000, True), (3050, True), (3100, True), (2999, False), (3101, False)):
        hu = read(tmp_path, value, limit, stored, signed=False)
        assert (hu[OUTSIDE] == (-1000 if padded else stored - 1024)).all()


@pytest.mark.parametrize("value", [-2000, -3024, -1000])
def test_padding_below_air_stays(tmp_path, value):
    hu = read(tmp_path, value, vr="SS", RescaleIntercept=0)
    assert (hu[PICTURE == P] == value).all()


def test_other_pixels_stay(tmp_path):
    hu = read(tmp_path, 4095, signed=False)
    np.testing.assert_array_equal(hu[PICTURE != P], PICTURE[PICTURE != P] - 1024)
    alone = read(tmp_path, None, stored=4095, signed=False)  # no tag
    assert (alone[PICTURE == P] == 4095 - 1024).all()
    limit_alone = read(tmp_path, None, 4095, stored=4095, signed=False)
    assert (limit_alone[PICTURE == P] == 4095 - 1024).all()
