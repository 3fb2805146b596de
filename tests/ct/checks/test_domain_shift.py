"""Findings on studies that differ from the training data, and none on studies that do not."""

import numpy as np
import pandas as pd
import pytest
from tiny_tables import slice_table

from ct.checks.domain_shift import header_findings, pixel_findings
from ct.checks.training_ranges import series_facts, training_ranges

FACTS = {
    "pixel_spacing_mm": 0.5,
    "slope": 1.0,
    "intercept": -1024.0,
    "mixed_orientation": False,
    "readable": True,
}
AREAS = {"brain_cm2": 150.0, "skull_cm2": 60.0}
STEADY = np.arange(0, 150, 5.0)  # mm, 30 slices
ACQUISITION = {
    "modality": "CT",
    "unit": "HU",
    "body_part": "HEAD",
    "image_type": "AXIAL",
    "contrast": False,
    "lossy": False,
    "burned_in": False,
    "recognizable": False,
    "thickness_mm": 5.0,
    "position": "HFS",
    "stored": "",
    "dicom": True,
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
    slices = slice_table(
        *[
            ("train", i, np.arange(n) * step)
            for i, (n, step) in enumerate(zip(lengths, steps, strict=True))
        ]
    )
    study = slices["study_id"].str[1:].astype(int).to_numpy()
    facts = {
        "pixel_spacing_mm": 0.45 + 0.002 * study,
        "tilt_deg": 10.0 + study % 11,
        "brain_cm2": 140.0 + study,
        "skull_cm2": 50.0 + study,
    }
    return training_ranges(slices.assign(**{**FACTS, **facts}))


def header(slices, ranges, **tags):
    acquisition = pd.DataFrame({**ACQUISITION, **tags}, index=slices.index)
    return header_findings(slices, acquisition, ranges)


def texts(findings):
    return " | ".join(finding.what for finding in findings)


def test_the_ranges_are_those_of_series(ranges):
    assert ranges["slices"] == [28, 32] and ranges["step_mm"] == [2.5, 5] == ranges["thickness_mm"]
    assert ranges["pixel_spacing_mm"] == pytest.approx([0.45, 0.528])
    assert ranges["brain_cm2"] == [140, 179]
    assert ranges["tilt_deg"] == [10, 20] and ranges["series"] == 1


def test_rare_series_do_not_stretch_a_range():
    slices = slice_table(*[("train", i, [0.0, 5.0]) for i in range(1000)]).assign(**FACTS)
    study = slices["study_id"].str[1:].astype(int)
    ranges = training_ranges(slices.assign(pixel_spacing_mm=np.where(study < 3, 9.0, 0.5)))
    assert ranges["pixel_spacing_mm"] == [0.5, 0.5]


def test_unknown_facts_have_no_range():
    ranges = training_ranges(
        slice_table(("train", 0, STEADY), **{**FACTS, "pixel_spacing_mm": np.nan})
    )
    assert not {"pixel_spacing_mm", "brain_cm2"} & set(ranges)  # areas would be in pixels
    assert texts(pixel_findings(table(), ranges)) == ""


def test_a_study_like_the_training_data_has_no_finding(ranges):
    assert header(table(), ranges) == [] and pixel_findings(table(), ranges) == []
    half = np.r_[np.arange(0, 40, 2.5), np.arange(40, 110, 5)]  # half steps at the skull base
    assert header(table(half), ranges) == []


@pytest.mark.parametrize(
    ("tags", "what"),
    [
        ({"modality": "MR"}, "the modality is MR, not CT"),
        ({"body_part": "CHEST"}, "BodyPartExamined is CHEST"),
        ({"modality": "?"}, "the modality is not a known one"),
        ({"unit": "Z_EFF"}, "RescaleType is Z_EFF, not HU"),
        ({"image_type": "ORIGINAL\\PRIMARY\\LOCALIZER"}, "a localizer"),
    ],
)
def test_other_images_are_refused(ranges, tags, what):
    findings = header(table(), ranges, **tags)
    assert [f.refuses for f in findings] == [True]
    assert findings[0].what == what and "--anyway" in findings[0].means
    assert (findings[0].study_id, findings[0].series_id) == ("S0", "R0")


@pytest.mark.parametrize("tilt", [0.0, 3.0, 9.8, 20.1])
def test_less_tilt_than_in_training_is_no_fault(ranges, tilt):
    assert header(table(tilt_deg=tilt), ranges) == []


def test_slices_that_are_not_axial_are_refused(ranges):
    findings = header(table(tilt_deg=88.0), ranges)
    assert [f.refuses for f in findings] == [True] and "88 degrees from axial" in findings[0].what


def test_modality_and_body_part_are_judged_slice_by_slice(ranges):
    last = np.arange(30) == 29
    other = header(table(), ranges, modality=np.where(last, "MR", "CT"))
    assert [f.refuses for f in other] == [True] and "MR" in other[0].what
    assert header(table(), ranges, body_part=np.where(last, "NECK", "HEAD")) == []
    assert header(table(), ranges, body_part=np.where(last, "HEAD", "NECK")) == []
    neck = header(table(), ranges, body_part=np.where(last, "", "NECK"))
    assert [f.refuses for f in neck] == [True]


@pytest.mark.parametrize(
    "part", ["", "HEAD", "BRAIN", "HEADNECK", "SKULL", "KOPF", "TETE", "NEURO"]
)
def test_names_of_the_head_are_accepted(ranges, part):
    assert header(table(), ranges, body_part=part) == []


@pytest.mark.parametrize(
    ("columns", "tags", "what"),
    [
        ({}, {"modality": ""}, "the modality is missing"),
        ({}, {"unit": "US"}, "RescaleType is US, unspecified"),
        ({}, {"unit": "?"}, "RescaleType is no known unit"),
        ({}, {"body_part": "?"}, "BodyPartExamined is not a known body part"),
        ({}, {"contrast": True}, "a contrast agent was given"),
        ({}, {"lossy": True}, "compressed with loss"),
        ({}, {"burned_in": True}, "text is burned into the pixels"),
        ({}, {"recognizable": True}, "the person can be recognized"),
        ({}, {"thickness_mm": 0.6}, "slice thickness 0.6 mm, training range 2.5 to 5 mm"),
        ({"slope": np.nan}, {}, "RescaleSlope or RescaleIntercept is missing, or no number"),
        (
            {"pixel_spacing_mm": np.nan},
            {},
            "PixelSpacing is missing, or no length from 0.001 to 1000 mm",
        ),
        ({"pixel_spacing_mm": 0.9}, {}, "pixel spacing 0.9 mm, training range 0.45 to 0.528 mm"),
        ({"mixed_orientation": True}, {}, "different orientation"),
        ({"tilt_deg": 30.0}, {}, "slice tilt 30 degrees, training range 10 to 20 degrees"),
    ],
)
def test_differences_that_do_not_refuse(ranges, columns, tags, what):
    findings = header(table(**columns), ranges, **tags)
    assert [f.refuses for f in findings] == [False]
    assert what in findings[0].what and findings[0].means


def test_missing_slices_have_a_remark(ranges):
    findings = header(table(np.delete(STEADY, [7, 8, 20])), ranges)
    assert "2 gaps between slices, the largest 15.0 mm" in texts(findings)
    assert "1 gap between slices" in texts(header(table(np.delete(STEADY, 1)), ranges))


def test_slices_at_one_position(ranges):
    assert "at least 2 slices share a position" in texts(
        header(table(np.r_[0.0, STEADY[:29]]), ranges)
    )


def test_unusual_numbers_and_distances_of_slices_have_remarks(ranges):
    assert "a single slice" in texts(header(table([0.0]), ranges))
    assert "number of slices 12, training range 28 to 32" in texts(
        header(table(STEADY[:12]), ranges)
    )
    thin = texts(header(table(np.arange(0, 150, 1.0)), ranges, thickness_mm=1.0))
    assert "slice spacing 1 mm" in thin and "number of slices 150" in thin
    assert "slice thickness 1 mm" in thin


def test_each_series_has_its_own_findings(ranges):
    slices = table(STEADY, [0.0], STEADY)
    findings = header(slices, ranges, modality=np.where(slices["study_id"] == "S2", "MR", "CT"))
    assert {(f.study_id, f.refuses) for f in findings} == {("S1", False), ("S2", True)}


@pytest.mark.parametrize(
    ("areas", "refuses", "what"),
    [
        ({"brain_cm2": 3.0}, True, "brain-like area 3 cm2, training range 140 to 179 cm2"),
        ({"brain_cm2": 600.0}, True, "600 cm2"),
        ({"skull_cm2": 5.0}, True, "bone area 5 cm2"),
        ({"brain_cm2": 110.0}, False, "110 cm2"),
        ({"skull_cm2": 99.0}, False, "bone area 99 cm2"),
    ],
)
def test_areas_outside_the_training_range(ranges, areas, refuses, what):
    findings = pixel_findings(table(**areas), ranges)
    assert [f.refuses for f in findings] == [refuses] and what in findings[0].what


def test_slices_that_do_not_decode(ranges):
    some = np.arange(30) == 4
    bad = {
        "readable": ~some,
        "brain_cm2": np.where(some, np.nan, 150.0),
        "skull_cm2": np.where(some, np.nan, 60.0),
    }
    findings = pixel_findings(table(**bad), ranges)
    assert [f.refuses for f in findings] == [False]
    assert "1 of 30 slices do not decode" in findings[0].what
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


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"position": "HFP"}, ["the patient lay prone (PatientPosition HFP)"]),
        ({"position": "FFS"}, ["the patient lay feet first (PatientPosition FFS)"]),
        (
            {"position": "FFDL"},
            [
                "the patient lay on the left side (PatientPosition FFDL)",
                "the patient lay feet first (PatientPosition FFDL)",
            ],
        ),
        ({"stored": "mirrored"}, ["the pixels are stored mirrored"]),
        ({"position": "", "stored": ""}, []),
        ({"position": "?"}, []),
    ],
)
def test_prone_feet_first_and_turned_pixels_are_remarked_and_refuse_nothing(ranges, tags, said):
    findings = header(table(), ranges, **tags)
    assert [finding.what for finding in findings] == said
    assert not any(finding.refuses for finding in findings)
