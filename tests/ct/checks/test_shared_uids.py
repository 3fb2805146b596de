"""One study UID on several PatientIDs: people are separated, one person's series stays together."""

import numpy as np
import pandas as pd
import pytest

from ct.checks.patient_overlap import ONE_PATIENT, SEVERAL_PATIENTS, UNCLEAR, is_regular
from ct.checks.shared_uids import separate_patients
from ct.errors import InputError
from ct.labels import LABELS
from ct.patient_folds import assign_folds, check_folds, extend_folds, fold_groups
from ct.slices import ORIENTATION, POSITION, order_slices

KEY = b"k" * 32
STEP = 5.0
AXIAL = (1, 0, 0, 0, 1, 0)


def part(patient, heights, study="S", series="R", corner=(-125, -100), iop=AXIAL, split="train"):
    """Header rows of one patient's slices at `heights`, mm."""
    table = pd.DataFrame(
        {"patient_id": patient, "study_id": study, "series_id": series, "split": split},
        range(len(heights)),
    )
    points = np.column_stack([np.tile(corner, (len(heights), 1)), heights])
    table = table.assign(**dict(zip(POSITION, points.T, strict=True)))
    return table.assign(**dict(zip(ORIENTATION, iop, strict=True)))


def header(*parts):
    """A header table of parts, shuffled."""
    table = pd.concat(parts)
    table.index = pd.Index([f"ID_{number:09x}" for number in range(len(table))], name="slice_id")
    return table.astype({name: "str" for name in ("patient_id", "study_id", "series_id")}).sample(
        frac=1, random_state=0
    )


def grid(first, count, step=STEP):
    return first + step * np.arange(count)


def verdict(*parts):
    """The verdict, which is the same for all rows."""
    verdicts = set(separate_patients(header(*parts), KEY)[1])
    assert len(verdicts) == 1
    return verdicts.pop()


def labelled(table):
    y = np.zeros((len(table), len(LABELS)), np.float32)
    return table.assign(**dict(zip(LABELS, y.T, strict=True)))


def test_nine_people_under_one_uid_keep_nine_groups():
    rng = np.random.default_rng(0)
    table = header(*(part(f"P{n}", grid(rng.uniform(-20, 20), 30)) for n in range(9)))
    separated, verdicts = separate_patients(table, KEY)
    assert set(verdicts) == {SEVERAL_PATIENTS} and separated.index.equals(table.index)
    for name in ("study_id", "series_id"):
        pairs = separated[["patient_id", name]].drop_duplicates()
        assert len(pairs) == pairs[name].nunique() == 9
        assert pairs[name].str.fullmatch("[0-9a-f]{12}").all()
        assert not pairs[name].isin(table[name]).any()
    assert len(set(fold_groups(separated))) == 9
    assert len(set(fold_groups(table))) == 1  # without the separation
    again, _ = separate_patients(table.sample(frac=1, random_state=5), KEY)
    # the same names, whatever the order of the files
    pd.testing.assert_frame_equal(again.loc[separated.index], separated)
    other, _ = separate_patients(table, b"o" * 32)
    assert not other["study_id"].isin(separated["study_id"]).any()


@pytest.mark.parametrize("offset", [0.0, 1.3, 2.5, 47.0])
def test_two_heads_that_overlap_are_two_people(offset):
    assert verdict(part("A", grid(0, 30)), part("B", grid(offset, 26))) == SEVERAL_PATIENTS


def test_two_heads_of_half_steps_and_gaps_are_two_people():
    one = np.concatenate([grid(0, 12, 2.5), grid(32.5, 20)])
    two = np.delete(grid(1.1, 32), 14)
    stacks = np.sort(np.concatenate([grid(3, 30), grid(43.34, 12)]))  # a part was scanned again
    assert verdict(part("A", one), part("B", two)) == SEVERAL_PATIENTS
    assert verdict(part("A", stacks), part("B", two)) == SEVERAL_PATIENTS


PIECES = {
    "halves": np.arange(30) < 14,
    "a slice": np.arange(30) == 11,
    "a block": (np.arange(30) > 8) & (np.arange(30) < 17),
    "here and there": np.isin(np.arange(30), [0, 3, 4, 9, 11, 12, 13, 17, 20, 25]),
    "thirds": np.arange(30) // 10,
}


@pytest.mark.parametrize("name", PIECES)
@pytest.mark.parametrize("tilted", [False, True])
def test_a_patient_id_that_changes_within_a_series_is_one_person(name, tilted):
    heights, who = grid(12.5, 30), PIECES[name]
    iop = (1, 0, 0, 0, np.cos(0.3), -np.sin(0.3)) if tilted else AXIAL
    parts = [part(f"P{each:d}", heights[who == each], iop=iop) for each in np.unique(who)]
    table = header(*parts)
    separated, verdicts = separate_patients(table, KEY)
    assert set(verdicts) == {ONE_PATIENT} and separated["study_id"].equals(table["study_id"])
    pairs = separated[["patient_id", "series_id"]].drop_duplicates()
    # so no neighbour is a slice of another PatientID
    assert len(pairs) == pairs["series_id"].nunique() == len(parts)
    assert set(fold_groups(separated)) == {"P0"}
    placed = order_slices(separated)
    assert (placed.groupby("series_id")["patient_id"].nunique() == 1).all()
    assert placed["gap_below_mm"].isna().sum() >= len(parts)


UNKNOWN = {
    "one far above": [part("A", grid(0, 20)), part("B", grid(300, 20))],
    "a slice at a place that is taken": [part("A", grid(0, 20)), part("B", [50.0])],
    "two slices": [part("A", [0.0]), part("B", [5.0])],
    "no order at all": [
        part("A", np.random.default_rng(1).uniform(0, 150, 20)),
        part("B", grid(0, 20)),
    ],
    "it goes on elsewhere in the plane": [
        part("A", grid(0, 20)),
        part("B", grid(100, 20), corner=(-110, -90)),
    ],
    "it goes on with another tilt": [
        part("A", grid(0, 20)),
        part("B", grid(100, 20), iop=(1, 0, 0, 0, 0.97, -0.24)),
    ],
    "one of them on two PatientIDs": [
        part("A", grid(0, 30)),
        part("B", grid(1.3, 15)),
        part("C", grid(76.3, 15)),
    ],
    "a position that is none": [part("A", [*grid(0, 20), 1e308]), part("B", grid(1.3, 20))],
    "a hole between": [part("A", grid(0, 20)), part("B", grid(110, 20))],
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_other_positions_are_unclear(name):
    table = header(*UNKNOWN[name])
    separated, verdicts = separate_patients(table, KEY)
    assert set(verdicts) == {UNCLEAR}
    # slices of two PatientIDs are never neighbours
    assert (separated.groupby("series_id")["patient_id"].nunique() == 1).all()


def test_series_of_single_patients_are_classified_together():
    separated, verdicts = separate_patients(
        header(part("A", grid(0, 30), series="R1"), part("B", grid(1, 30), series="R2")), KEY
    )
    assert set(verdicts) == {SEVERAL_PATIENTS} and separated["study_id"].nunique() == 2
    assert set(separated["series_id"]) == {"R1", "R2"}  # each had one patient already
    assert (
        verdict(part("A", grid(0, 15), series="R1"), part("B", grid(75, 15), series="R2"))
        == ONE_PATIENT
    )
    scouts = [part(name, [0.0], series=f"scout {name}", iop=(1, 0, 0, 0, 0, -1)) for name in "AB"]
    assert verdict(part("A", grid(0, 30)), part("B", grid(1, 30)), *scouts) == SEVERAL_PATIENTS
    split_series = [
        part("A", grid(0, 15)),
        part("B", grid(75, 15)),
        part("C", grid(1, 30), series="other"),
    ]
    assert verdict(*split_series) == UNCLEAR


def test_one_persons_series_joins_its_studies():
    table = header(
        part("A", grid(0, 15), study="S1"),
        part("B", grid(75, 15), study="S2"),
        part("C", grid(0, 9), study="S3", series="Q"),
    )
    separated, verdicts = separate_patients(table, KEY)
    groups = pd.Series(fold_groups(separated), index=separated.index)
    assert set(groups[separated["patient_id"] == "B"]) == {"A"}
    assert set(groups[separated["patient_id"] == "C"]) == {"C"}
    assert set(verdicts[(separated["patient_id"] == "C").to_numpy()]) == {""}
    # of each study, the first
    numbered = header(*(part(f"P{n}", grid(n, 20), study=f"S{n}", series="1") for n in range(4)))
    separated, verdicts = separate_patients(numbered, KEY)
    assert set(verdicts) == {""}
    assert len(set(fold_groups(separated))) == 4
    assert separated["study_id"].equals(numbered["study_id"])


def test_studies_of_one_patient_are_unchanged():
    table = header(part("A", grid(0, 20)), part("B", grid(0, 20), study="S2", series="R2"))
    separated, verdicts = separate_patients(table, KEY)
    assert separated is table and set(verdicts) == {""}
    assert (fold_groups(table) == table["patient_id"]).all()
    empty = table.iloc[:0]
    assert separate_patients(empty, KEY)[0].empty and len(fold_groups(empty)) == 0


def test_regular_series():
    assert is_regular(grid(0, 3))
    assert not is_regular(grid(0, 2))
    assert not is_regular(np.array([0.0, 5.0, 12.0]))
    assert is_regular(grid(0, 4)) and not is_regular(np.array([0.0, 1.0, 5.0, 12.0]))
    assert is_regular(np.delete(grid(0, 20), 7))
    assert is_regular(np.concatenate([grid(0, 9, 2.5), grid(25, 9)]))
    assert is_regular(np.repeat(grid(0, 10), 2))
    assert not is_regular(np.sort(np.random.default_rng(0).uniform(0, 100, 20)))
    assert not is_regular(np.cumsum(np.arange(10.0)))


def test_folds_keep_groups_and_never_split_a_study():
    split_series = [part(f"T{n}", grid(75.0 * n, 15)) for n in range(2)]
    others = [part(f"P{n}", grid(0, 15), study=f"S{n}", series=f"R{n}") for n in range(6)]
    back = part("P0", grid(0, 5), study="X", series="X", split="test")
    # so P0 and P1 are one group
    twin = part("P1", grid(25, 5), study="X", series="Y", split="test")
    late = part("N", grid(50, 5), study="X", series="Z", split="test")
    table = labelled(separate_patients(header(*split_series, *others, back, twin, late), KEY)[0])
    assert len(set(fold_groups(table))) == 1 + 6 - 1
    for seed in range(8):
        fold = pd.Series(assign_folds(table, 3, seed), index=table.index)
        assert fold.groupby(fold_groups(table)).nunique().max() == 1
        # in test only, but in a study with patients of train
        assert (fold[table["patient_id"] == "N"] >= 0).all()
        check_folds(table, fold.to_numpy())
        assert (extend_folds(table, fold[table["split"] == "train"], 3) == fold).all()
    moved = fold.copy()
    moved[table["patient_id"] == "T1"] = (moved[table["patient_id"] == "T1"] + 1) % 3
    imported = moved[table["split"] == "train"]
    with pytest.raises(
        InputError,
        match=r"study S is in two folds, \d and \d; .* patients who share a study belong together",
    ):
        check_folds(table, moved.to_numpy())
    with pytest.raises(InputError, match="study S is in two folds"):
        extend_folds(table, imported, 3)
    low = table.loc[imported.index, "patient_id"].isin(["T0", "T1", "P1"])
    two_folds = pd.Series(np.where(low, 0, 1), imported.index)
    two_folds[table.loc[imported.index, "patient_id"] == "P5"] = 2
    with pytest.raises(InputError, match="the group of patient N is in two folds, [01] and [01]"):
        extend_folds(table, two_folds, 3)
