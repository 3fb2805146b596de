"""Of each study the plain axial soft series is read, and every other one says why it is not."""

import itertools

import numpy as np
import pandas as pd
import pytest

from ct.checks.series_choice import PASSED_OVER, READ, REFUSED, Spacing, choose_series

TRAINING = Spacing(2.5, 5.5, 5.0)
THICK = {
    "patient_id": "P",
    "slices": 30,
    "step_mm": 5.0,
    "thickness_mm": 5.0,
    "extent_mm": 150.0,
    "kernel": "soft",
    "kind": "",
    "contrast": False,
    "derived": False,
    "unfit": "",
    "labelled": True,
}
THIN = THICK | {"slices": 150, "step_mm": 1.0, "thickness_mm": 1.0}
WORSE = {  # series that are passed over beside a 5 mm soft one -> a part of the reason
    "thin": (THIN, "slices 1 mm apart, training 2.5 to 5.5 mm"),
    "thick": (THICK | {"slices": 15, "step_mm": 10.0}, "slices 10 mm apart"),
    "half": (THICK | {"slices": 50, "step_mm": 3.0}, "slices 3 mm apart, farther from 5 mm"),
    "bone": (THICK | {"kernel": "bone"}, "bone kernel"),
    "lung": (THICK | {"kernel": "lung"}, "lung kernel"),
    "unknown": (THICK | {"kernel": ""}, "unknown kernel"),
    "contrast": (THICK | {"contrast": True}, "a contrast agent was given"),
    "derived": (THICK | {"derived": True}, "derived images"),
    "reformat": (THICK | {"kind": "reformat"}, "derived images"),
    "projection": (THICK | {"kind": "projection"}, "a projection series"),
    "localizer": (THICK | {"unfit": "a localizer", "slices": 1}, "a localizer"),
    "part": (THICK | {"slices": 4, "extent_mm": 20.0}, "covers 20 mm"),
    "fewer": (THICK | {"slices": 29, "extent_mm": 145.0}, "fewer slices, 29"),
    "unlabelled": (THICK | {"labelled": False}, "no labels"),
    "copy": (THICK, "a copy of the series that is read"),
}


def choose(series, **options):
    """The choice among {name: values}, all of one study."""
    index = pd.MultiIndex.from_product([["S"], series], names=["study_id", "series_id"])
    return choose_series(
        pd.DataFrame(list(series.values()), index=index), TRAINING, **options
    ).droplevel(0)


def read(series, **options):
    status = choose(series, **options)["status"]
    return list(status.index[status == READ])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("thickness", [0.0, -1.0, np.nan])
def test_a_thickness_that_is_no_length_counts_as_unknown(thickness):
    odd = THICK | {"thickness_mm": thickness}
    assert read({"a": odd, "b": odd}) == ["a"]
    assert read({"a": THICK | {"thickness_mm": 2.0}, "b": odd}) == ["b"]


@pytest.mark.parametrize("name", WORSE)
def test_the_plain_thick_soft_series_is_read(name):
    other, reason = WORSE[name]
    for order in ({"a": THICK, "b": other}, {"b": other, "a": THICK}):
        choice = choose(order)
        assert choice.at["a", "status"] == READ and choice.at["b", "status"] == PASSED_OVER
        assert reason in choice.at["b", "reason"]
        assert (
            choice.at["a", "reason"] == "axial, no contrast agent, soft kernel, slices 5 mm apart"
        )


def test_without_it_the_thin_one_and_never_bone_or_contrast():
    names = ["bone", "contrast", "lung", "localizer", "projection"]
    for some in itertools.chain.from_iterable(itertools.combinations(names, n) for n in range(6)):
        assert read({name: WORSE[name][0] for name in [*some, "thin"]}) == ["thin"]
    assert read({"bone": WORSE["bone"][0], "contrast": WORSE["contrast"][0]}) == ["bone"]


def test_the_choice_depends_on_neither_order_nor_number():
    series = {name: values for name, (values, _) in WORSE.items()} | {"best": THICK}
    rng = np.random.default_rng(0)
    for _ in range(20):
        order = {name: series[name] for name in rng.permutation(list(series))}
        assert read(order) == [min("best", "copy")]


def test_a_long_series_of_the_neck_makes_no_head_a_part():
    neck = THICK | {"contrast": True, "extent_mm": 400.0, "slices": 80}
    assert read({"neck": neck, "head": THICK}) == ["head"]


def test_one_series_of_each_patient_of_a_study():
    assert read({"a": THICK, "b": THICK | {"patient_id": "Q"}}) == ["a", "b"]


def test_no_head_at_all_is_refused_unless_told():
    series = {"a": THICK | {"unfit": "a localizer"}, "b": THICK | {"unfit": "the modality is MR"}}
    choice = choose(series)
    assert set(choice["status"]) == {REFUSED}
    assert choice["reason"].tolist() == ["a localizer", "the modality is MR"]
    assert len(read(series, anyway=True)) == 1
    assert choose({"a": THICK})["reason"].tolist() == ["the only series"]
