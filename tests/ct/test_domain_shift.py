"""What is said of a study that is unlike the training data, and what of one that is like them:
nothing.
"""

import numpy as np
import pandas as pd
import pytest
from tiny_tables import slice_table

from ct.checks.domain_shift import header_findings, pixel_findings, series_facts, training_ranges

FACTS = {
    "pixel_spacing_mm": 0.5,
    "slope": 1.0,
    "intercept": -1024.0,
    "mixed_orientation": False,
    "readable": True,
}
AREAS = {"brain_cm2": 150.0, "skull_cm2": 60.0}
STEADY = np.arange(0, 150, 5.0)  # mm, 30 slices
TAKEN = {
    "modality": "CT",
    "body_part": "HEAD",
    "image_type": "AXIAL",
    "contrast": False,
    "lossy": False,
    "thickness_mm": 5.0,
}


def table(*positions, **columns):
    series = [
        ("test", number, of_series) for number, of_series in enumerate(positions or (STEADY,))
    ]
    return slice_table(*series, **{**FACTS, **AREAS, **columns})


@pytest.fixture(scope="module")
def ranges():
    """Of 40 training studies of 28 to 32 slices, 2.5 or 5 mm apart, pixels of 0.45 to 0.53 mm."""
    lengths, steps = 28 + np.arange(40) % 5, np.where(np.arange(40) % 2, 5.0, 2.5)
    made = slice_table(
        *[
            ("train", i, np.arange(n) * step)
            for i, (n, step) in enumerate(zip(lengths, steps, strict=True))
        ]
    )
    study = made["study_id"].str[1:].astype(int).to_numpy()
    facts = {
        "pixel_spacing_mm": 0.45 + 0.002 * study,
        "tilt_deg": 10.0 + study % 11,
        "brain_cm2": 140.0 + study,
        "skull_cm2": 50.0 + study,
    }
    return training_ranges(made.assign(**{**FACTS, **facts}))


def header(slices, ranges, **taken):
    acquisition = pd.DataFrame({**TAKEN, **taken}, index=slices.index)
    return header_findings(slices, acquisition, ranges)


def texts(findings):
    return " | ".join(finding.what for finding in findings)


def test_the_ranges_are_those_of_series(ranges):
    assert ranges["slices"] == [28, 32] and ranges["step_mm"] == [2.5, 5] == ranges["thickness_mm"]
    assert ranges["pixel_spacing_mm"] == pytest.approx([0.45, 0.528]) and ranges["brain_cm2"] == [
        140,
        179,
    ]
    assert ranges["tilt_deg"] == [10, 20] and ranges["series"] == 1


def test_rare_series_do_not_stretch_a_range():
    made = slice_table(*[("train", i, [0.0, 5.0]) for i in range(1000)]).assign(**FACTS)
    study = made["study_id"].str[1:].astype(int)
    ranges = training_ranges(made.assign(pixel_spacing_mm=np.where(study < 3, 9.0, 0.5)))
    assert ranges["pixel_spacing_mm"] == [0.5, 0.5]


def test_what_nobody_knows_has_no_range():
    ranges = training_ranges(
        slice_table(("train", 0, STEADY), **{**FACTS, "pixel_spacing_mm": np.nan})
    )
    assert not {"pixel_spacing_mm", "brain_cm2"} & set(ranges)  # areas would be in pixels
    assert texts(pixel_findings(table(), ranges)) == ""


def test_a_study_like_the_training_data_has_no_remark(ranges):
    assert header(table(), ranges) == [] and pixel_findings(table(), ranges) == []
    half = np.r_[np.arange(0, 40, 2.5), np.arange(40, 110, 5)]  # half steps at the skull base
    assert header(table(half), ranges) == []


@pytest.mark.parametrize(
    ("taken", "says"),
    [
        ({"modality": "MR"}, "the modality is MR, not CT"),
        ({"body_part": "CHEST"}, "BodyPartExamined says CHEST"),
        ({"modality": "?"}, "the modality is no known one, not CT"),
        ({"body_part": "?"}, "BodyPartExamined says no known word"),
        ({"image_type": "ORIGINAL\\PRIMARY\\LOCALIZER"}, "a localizer"),
    ],
)
def test_other_images_are_refused(ranges, taken, says):
    found = header(table(), ranges, **taken)
    assert [f.refuses for f in found] == [True] and found[0].what == says and found[0].means
    assert (found[0].study_id, found[0].series_id) == ("S0", "R0")


@pytest.mark.parametrize("tilt", [0.0, 3.0, 9.8, 20.1])
def test_less_tilt_than_in_training_is_no_fault(ranges, tilt):
    assert header(table(tilt_deg=tilt), ranges) == []


def test_slices_that_are_not_axial_are_refused(ranges):
    found = header(table(tilt_deg=88.0), ranges)
    assert [f.refuses for f in found] == [True] and "88 degrees from axial" in found[0].what


@pytest.mark.parametrize("part", ["", "HEAD", "BRAIN", "HEADNECK", "SKULL"])
def test_heads_are_heads(ranges, part):
    assert header(table(), ranges, body_part=part) == []


@pytest.mark.parametrize(
    ("columns", "taken", "says"),
    [
        ({}, {"modality": ""}, "the modality is not said, not CT"),
        ({}, {"contrast": True}, "a contrast agent was given"),
        ({}, {"lossy": True}, "compressed with loss"),
        ({}, {"thickness_mm": 0.6}, "slices 0.6 mm thick, in training 2.5 to 5"),
        ({"slope": np.nan}, {}, "RescaleSlope or RescaleIntercept is missing"),
        ({"pixel_spacing_mm": np.nan}, {}, "PixelSpacing is missing"),
        ({"pixel_spacing_mm": 0.9}, {}, "pixels of 0.9 mm, in training 0.45 to 0.528"),
        ({"mixed_orientation": True}, {}, "differing orientation"),
        ({"tilt_deg": 30.0}, {}, "slices tilted by 30 degrees, in training 10 to 20"),
    ],
)
def test_what_is_remarked(ranges, columns, taken, says):
    found = header(table(**columns), ranges, **taken)
    assert [f.refuses for f in found] == [False] and says in found[0].what and found[0].means


def test_missing_slices_are_seen(ranges):
    found = header(table(np.delete(STEADY, [7, 8, 20])), ranges)
    assert "2 gaps between slices, the largest 15.0 mm" in texts(found)
    assert "1 gap between slices" in texts(header(table(np.delete(STEADY, 1)), ranges))


def test_slices_at_one_place(ranges):
    assert "2 slices or more share a place" in texts(header(table(np.r_[0.0, STEADY[:29]]), ranges))


def test_lengths(ranges):
    assert "one slice alone" in texts(header(table([0.0]), ranges))
    assert "12 slices, in training 28 to 32" in texts(header(table(STEADY[:12]), ranges))
    thin = texts(header(table(np.arange(0, 150, 1.0)), ranges, thickness_mm=1.0))
    assert "slices 1 mm apart" in thin and "150 slices" in thin and "slices 1 mm thick" in thin


def test_each_series_is_judged_by_itself(ranges):
    slices = table(STEADY, [0.0], STEADY)
    found = header(slices, ranges, modality=np.where(slices["study_id"] == "S2", "MR", "CT"))
    assert {(f.study_id, f.refuses) for f in found} == {("S1", False), ("S2", True)}


@pytest.mark.parametrize(
    ("areas", "refuses", "says"),
    [
        ({"brain_cm2": 3.0}, True, "3 cm2 of brain-like pixels at most, in training 140 to 179"),
        ({"brain_cm2": 600.0}, True, "600 cm2"),
        ({"skull_cm2": 5.0}, True, "5 cm2 of bone at most"),
        ({"brain_cm2": 110.0}, False, "110 cm2"),
        ({"skull_cm2": 99.0}, False, "99 cm2 of bone"),
    ],
)
def test_pixels_tell_heads_from_others(ranges, areas, refuses, says):
    found = pixel_findings(table(**areas), ranges)
    assert [f.refuses for f in found] == [refuses] and says in found[0].what


def test_slices_that_do_not_decode(ranges):
    some = np.arange(30) == 4
    bad = {
        "readable": ~some,
        "brain_cm2": np.where(some, np.nan, 150.0),
        "skull_cm2": np.where(some, np.nan, 60.0),
    }
    found = pixel_findings(table(**bad), ranges)
    assert [f.refuses for f in found] == [False] and "1 of 30 slices do not decode" in found[0].what
    none = pixel_findings(table(readable=False, brain_cm2=np.nan, skull_cm2=np.nan), ranges)
    assert [f.refuses for f in none] == [True] and "30 of 30" in none[0].what


def test_the_facts_of_a_series_by_hand():
    facts = series_facts(table([0.0, 5, 10, 20, 25], brain_cm2=np.array([10.0, 90, 120, 80, 5])))
    assert facts.loc[("S0", "R0")].to_dict() == {
        "pixel_spacing_mm": 0.5,
        "step_mm": 5,
        "slices": 5,
        "tilt_deg": 15,
        "brain_cm2": 120,
        "skull_cm2": 60,
    }
