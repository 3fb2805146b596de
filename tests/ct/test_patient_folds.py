"""Folds: by patient, balanced by label pattern, the same for the same seed."""

import numpy as np
import pandas as pd
import pytest

from ct.errors import InputError
from ct.labels import LABELS
from ct.patient_folds import assign_folds, check_folds


def train_slices(rng, patients=60, slices=20, share=0.4):
    """Return train slices of some patients; a share of the patients has a run of positive slices.

    A run has one or two of the labels.
    """
    pattern = np.zeros((patients, slices, len(LABELS)), np.float32)
    for number in range(patients):
        if rng.random() < share:
            start = rng.integers(0, slices - 5)
            for label in set(rng.integers(1, len(LABELS), size=2)):
                pattern[number, start : start + 5, label] = 1
    pattern[:, :, 0] = pattern[:, :, 1:].max(axis=2)
    table = pd.DataFrame(pattern.reshape(-1, len(LABELS)), columns=list(LABELS))
    table = table.assign(
        patient_id=np.repeat([f"P{n:03d}" for n in range(patients)], slices), split="train"
    )
    return table.set_index(pd.Index([f"ID_{n:05x}" for n in range(len(table))], name="slice_id"))


def with_test(train, patients, slices=4):
    """Return the table with test slices of `patients` mixed in."""
    rows = pd.DataFrame({"patient_id": np.repeat(patients, slices), "split": "test"})
    rows.index = [f"ID_t{n:04x}" for n in range(len(rows))]
    return pd.concat([train, rows]).sample(frac=1, random_state=0)


def assert_grouped(table, fold):
    of_train = table["split"] == "train"
    assert (
        pd.Series(fold[of_train]).groupby(table["patient_id"][of_train].to_numpy()).nunique() == 1
    ).all()


@pytest.mark.parametrize("k", [2, 3, 5])
def test_every_slice_has_a_fold_and_no_patient_two(k):
    table = train_slices(np.random.default_rng(k))
    fold = assign_folds(table, k, seed=0)
    assert fold.dtype == np.int8 and fold.shape == (len(table),)
    assert set(fold) == set(range(k))
    assert_grouped(table, fold)
    check_folds(table, fold)


def test_folds_do_not_depend_on_whether_a_patients_rows_are_adjacent():
    table = train_slices(np.random.default_rng(1))
    mixed = table.sample(frac=1, random_state=3)  # a patient's rows are not adjacent
    fold = assign_folds(mixed, 4, seed=0)
    assert_grouped(mixed, fold)
    check_folds(mixed, fold)


def test_prevalence_is_similar_in_all_folds():
    table = train_slices(np.random.default_rng(2), patients=300)
    fold = assign_folds(table, 5, seed=0)
    share = table[list(LABELS)].groupby(fold).mean()
    assert (share.max() - share.min() < 0.35 * share.mean() + 0.002).all()
    sizes = np.bincount(fold)
    assert sizes.max() - sizes.min() <= 0.1 * len(table) / 5


def test_the_seed_decides_the_folds():
    table = train_slices(np.random.default_rng(3))
    first = assign_folds(table, 5, seed=7)
    assert (first == assign_folds(table, 5, seed=7)).all()
    assert (first != assign_folds(table, 5, seed=8)).any()


def test_test_slices_get_their_patients_fold_or_none():
    train = train_slices(np.random.default_rng(4), patients=20)
    table = with_test(train, ["P003", "X001", "P017"])
    fold = pd.Series(assign_folds(table, 3, seed=0), index=table.index)
    is_test = table["split"] == "test"
    of_patient = fold[~is_test].groupby(table["patient_id"][~is_test]).first()
    assert (fold[is_test & (table["patient_id"] == "X001")] == -1).all()
    for patient in ("P003", "P017"):
        test_fold = fold[is_test & (table["patient_id"] == patient)]
        assert len(test_fold) == 4 and (test_fold == of_patient[patient]).all()
    assert (fold[~is_test] >= 0).all()
    # the test slices change nothing in train
    alone = assign_folds(train.loc[table.index[~is_test]], 3, seed=0)
    assert (fold[~is_test].to_numpy() == alone).all()


def test_unlabelled_slices_get_a_fold_too():
    table = train_slices(np.random.default_rng(5), patients=30)
    table.iloc[::7, :6] = np.nan
    table.iloc[3, 2] = np.nan  # one label of six
    table.loc[table["patient_id"] == "P004", list(LABELS)] = np.nan  # a patient without any
    fold = assign_folds(table, 5, seed=0)
    assert set(fold) == set(range(5))
    check_folds(table, fold)


def test_too_few_patients():
    table = train_slices(np.random.default_rng(6), patients=4)
    assert set(assign_folds(table, 4, seed=0)) == set(range(4))
    with pytest.raises(InputError, match=r"folds\.k = 5 but train holds 4 patients; lower"):
        assign_folds(with_test(table, ["X1", "X2", "X3"]), 5, seed=0)  # test patients do not count


def test_patterns_rarer_than_k_are_still_grouped():
    """Two patients with a slice each, one positive: scikit-learn alone refuses that."""
    table = train_slices(np.random.default_rng(7), patients=2, slices=8, share=0).iloc[[0, -1]]
    table.iloc[0, :2] = 1
    assert set(assign_folds(table, 2, seed=0)) == {0, 1}


def test_folds_of_tiny_sets_are_complete_or_refused():
    rng = np.random.default_rng(8)
    for seed in range(60):
        patients = int(rng.integers(2, 7))
        table = train_slices(rng, patients=patients, slices=6).sample(frac=0.4, random_state=seed)
        k = int(rng.integers(2, patients + 1))
        try:
            fold = assign_folds(table, k, seed)
        except InputError as error:
            assert "lower folds.k" in str(error)
        else:
            assert set(fold) == set(range(k))
            assert_grouped(table, fold)


def test_check_folds_names_the_patient_and_the_slice():
    table = with_test(train_slices(np.random.default_rng(9), patients=6), ["P002"])
    fold = assign_folds(table, 3, seed=0)
    check_folds(table, fold)
    moved = fold.copy()
    of_five = np.flatnonzero(table["patient_id"] == "P005")
    moved[of_five[-1]] = (moved[of_five[-1]] + 1) % 3
    with pytest.raises(InputError, match="patient P005 is in two folds"):
        check_folds(table, moved)
    lost = fold.copy()
    lost[of_five[0]] = -1
    with pytest.raises(InputError, match=f"slice {table.index[of_five[0]]} has no fold"):
        check_folds(table, lost)


def test_real_studies_are_leak_free_and_balanced(real_data):
    source = real_data / "stage_two" / "labelled_studies.csv.gz"
    if not source.is_file():
        pytest.skip(f"{source} is not there")
    table = pd.read_csv(
        source, usecols=["SOPInstanceUID", "PatientID", "StudyInstanceUID", *LABELS]
    )
    table = (
        table.rename(columns={"PatientID": "patient_id"})
        .assign(split="train")
        .set_index("SOPInstanceUID")
    )
    studies = table.groupby("patient_id")["StudyInstanceUID"].nunique()
    assert (studies > 1).any()  # else grouping by study would be enough
    fold = assign_folds(table, 5, seed=0)
    assert_grouped(table, fold)
    check_folds(table, fold)
    share = table[list(LABELS)].groupby(fold).mean()
    off = (share / table[list(LABELS)].mean() - 1).abs().max()
    assert off.drop("epidural").max() < 0.1, off  # epidural: a handful of patients
    assert off["epidural"] < 0.6, off
    sizes = np.bincount(fold)
    assert sizes.max() / sizes.min() < 1.1
