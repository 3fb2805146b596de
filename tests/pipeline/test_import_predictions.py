"""Predictions of models trained elsewhere: imported, checked, stacked, removed."""

import json
import os
import shutil
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import error_line

import run
from ct.errors import InputError
from ct.labels import KAGGLE_ORDER, LABELS
from ct.run_dir import RunDir
from ct.seeds import derive_seed
from ct.storage.file_formats import read_array, read_table, write_table
from ct.tables.spreadsheet import write_sheet
from pipeline.run_context import Run
from pipeline.stage_data import imported_predictions
from pipeline.stage_runner import stage_states
from pipeline.stages.folds import folds

COLUMNS = list(LABELS)
RECIPE = {
    "name": "tiny",
    "data": {"slices": ""},
    "folds": {"k": 3},
    "stage1": {"models": []},
    "features": {"reach": 1, "smooth_mm": [5]},
    "stage2": {"trials": 1, "max_rounds": 10, "positive_patients": 2, "confidence": 0},
}
PATIENTS, TESTS, SLICES = 18, 4, 6  # the first test patient is also in train


def slice_list(seed=0):
    """A slice list of made-up studies whose identifiers are not the competition's, as text."""
    rng, rows = np.random.default_rng(seed), []
    for study in range(PATIENTS + TESTS):
        start, kind = rng.integers(0, SLICES - 2), rng.integers(1, 8)
        for place in range(SLICES):
            y = [int(j == kind and start <= place < start + 3) for j in range(1, 6)]
            labels = dict(zip(COLUMNS, [max(y), *y], strict=True))
            row = {
                "SOPInstanceUID": f"1.2.840.{study}.{place}",
                "PatientID": f"DOE-{0 if study == PATIENTS else study}",
            }
            row |= {
                "StudyInstanceUID": f"1.2.841.{study}",
                "SeriesInstanceUID": f"1.2.842.{study}",
                **labels,
            }
            row |= {
                "ImagePositionPatient": f"['-125', '-100', '{5.0 * place}']",
                "PixelSpacing": "['0.5', '0.5']",
            }
            rows.append(row | {"ImageOrientationPatient": "['1', '0', '0', '0', '1', '0']"})
    return pd.DataFrame(rows)


WHOLE = slice_list()  # the truth, of the test slices, too
TRAIN, TEST = WHOLE[: PATIENTS * SLICES], WHOLE[PATIENTS * SLICES :]
TABLE = pd.concat([TRAIN, TEST.assign(**dict.fromkeys(COLUMNS, ""))])
NUMBER = TRAIN["PatientID"].str[4:].astype(int)  # of the patient


def guesses(rows, seed, skill=2.0):
    """Simulated predictions: posteriors of a signal that a positive label shifts by `skill` SD."""
    y = rows[COLUMNS].astype(float).fillna(0).to_numpy()
    seen = skill * y + np.random.default_rng(seed).normal(0, 1, y.shape)
    p = 1 / (1 + np.exp(-(skill * (seen - skill / 2) - 2)))  # the prior's logit: 12 %
    return pd.DataFrame(p, columns=COLUMNS).assign(SOPInstanceUID=rows["SOPInstanceUID"].to_numpy())


def make(folder, table=TABLE, sampled=True, **changes):
    """Make a run of a slice list. Returns its folder. sampled: with a sample of the test slices"""
    folder.mkdir(exist_ok=True)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(RECIPE | changes))
    table.to_csv(folder / "slices.csv", index=False)
    words = [
        "new",
        f"--run={folder / 'r'}",
        f"--recipe={folder / 'tiny.yaml'}",
        f"--slices={folder / 'slices.csv'}",
    ]
    sample = [f"{name}_{label},0.5" for name in TEST["SOPInstanceUID"] for label in KAGGLE_ORDER]
    (folder / "sample.csv").write_text("\n".join(["ID,Label", *sample]) + "\n")
    if sampled and (table["any"] == "").any():
        words.append(f"--sample={folder / 'sample.csv'}")
    assert run.main(words) == 0
    return folder / "r"


def take(r, name, oof, test=None, *more):
    """Import a model. Returns the exit status."""
    words = ["import-predictions", f"--run={r}", f"--name={name}"]
    for flag, table in (("oof", oof), ("test", test)):
        if table is not None:
            table.to_csv(r.parent / f"{name}-{flag}.csv", index=False)
            words.append(f"--{flag}={r.parent / f'{name}-{flag}.csv'}")
    return run.main([*words, *more])


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    """A finished run of two imported models. Not to be changed; copy it first."""
    r = make(tmp_path_factory.mktemp("listed"))
    assert take(r, "one", guesses(TRAIN, 1), guesses(TEST, 2)) == 0
    folds = pd.concat([guesses(TEST, 10 + k).assign(fold=k) for k in range(3)])
    assert take(r, "two", guesses(TRAIN, 3), folds) == 0
    assert run.main(["all", f"--run={r}", "--workers=1"]) == 0
    return r


@pytest.fixture
def copy(listed, tmp_path):
    """A finished run that may be changed."""
    return shutil.copytree(listed, tmp_path / "r")


@pytest.fixture
def fresh(tmp_path):
    """A run into which nothing is imported yet."""
    return make(tmp_path / "new")


def test_stage_two_runs_without_images(listed, capsys):
    slices = read_table(listed / "slices.parquet")
    train, test = (slices.index[slices["split"] == split] for split in ("train", "test"))
    assert len(train) == PATIENTS * SLICES and len(test) == TESTS * SLICES
    for name, index in (("oof", train), ("calibrated", train), ("test", test)):
        table = read_table(listed / "stage2" / f"{name}.parquet")
        assert (
            table.index.equals(index)
            and list(table) == COLUMNS
            and ((table > 0) & (table < 1)).all(axis=None)
        )
    scores = json.loads((listed / "stage2" / "scores.json").read_text())
    assert list(scores["models"]) == ["one", "two"] and scores["rows"] == len(train)
    assert list(pd.read_csv(listed / "submission.csv")["ID"][:2]) == [
        f"1.2.840.{PATIENTS}.0_{k}" for k in KAGGLE_ORDER[:2]
    ]
    page = (listed / "report.html").read_text()
    assert (
        "The predictions of <b>one</b> were imported" in page
        and "smoother than the out-of-fold predictions" in page
    )
    assert "This run trains no CNN" in page and "data:image/jpeg" not in page
    assert "iVBORw0KGgo" not in page  # how a PNG begins
    assert not (listed / "pixels").exists() and not (listed / "stage1").exists()
    assert run.main(["all", f"--run={listed}"]) == 0
    assert "everything is fresh" in capsys.readouterr().out


def test_own_identifiers_reach_no_file(listed):
    for path in (
        p
        for p in listed.rglob("*")
        if p.is_file() and p.name not in ("submission.csv", "recipe.yaml")
    ):
        text = (
            read_table(path).reset_index().to_csv()
            if path.suffix == ".parquet"
            else path.read_bytes().decode("latin-1")
        )
        assert "1.2.84" not in text and "DOE" not in text, path


def test_imported_predictions_are_joined_by_slice_id(listed):
    table = pd.read_csv(listed.parent / "one-oof.csv")
    slices, kept = (
        read_table(listed / "slices.parquet"),
        read_table(listed / "imports/one/oof.parquet"),
    )
    assert kept.index.equals(slices.index[slices["split"] == "train"])
    place = slices.loc[kept.index, "study_id"].map(
        dict(zip(slices["study_id"].unique(), range(99), strict=False))
    )
    assert place.is_monotonic_increasing  # in the table's order, not the file's
    assert sorted(kept["any"]) == pytest.approx(sorted(table["any"]))
    assert np.corrcoef(kept["any"], slices.loc[kept.index, "any"])[0, 1] > 0.4


def test_a_test_patient_in_train_has_the_own_folds_prediction(listed):
    fold = read_table(listed / "folds.parquet")["fold"]
    tables = [read_table(listed / f"imports/two/test-fold{k}.parquet") for k in range(3)]
    known = fold[tables[0].index] >= 0
    assert known.sum() == SLICES
    predictions = pd.read_csv(listed.parent / "two-test.csv")
    own = predictions[predictions["fold"] == fold[known.index[known]].iloc[0]]
    for k, table in enumerate(tables):
        # the first test patient's
        assert sorted(table.loc[known, "any"]) == pytest.approx(sorted(own["any"][:SLICES]))
        others = predictions[predictions["fold"] == k]["any"][SLICES:]
        assert sorted(table.loc[~known, "any"]) == pytest.approx(sorted(others))


def test_only_other_numbers_make_features_stale(copy, listed, capsys):
    again = [
        pd.read_csv(listed.parent / f"one-{flag}.csv", dtype={"SOPInstanceUID": str})
        for flag in ("oof", "test")
    ]
    assert take(copy, "one", *again) == 0
    assert {kind for kind, _ in stage_states(Run(copy)).values()} == {"fresh"}
    assert take(copy, "one", guesses(TRAIN, 7), again[1]) == 0
    states = stage_states(Run(copy))
    assert (
        states["features"] == ("stale", "imports/one/import.json changed")
        or "imports/one/oof" in states["features"][1]
    )
    assert states["train"][0] == states["folds"][0] == "fresh" and states["stack"][0] == "stale"


def test_an_import_is_removed_but_not_the_last_predictions(copy, capsys):
    assert run.main(["import-predictions", f"--run={copy}", "--name=too", "--remove"]) == 1
    assert "did you mean 'two'?" in error_line(capsys)
    assert run.main(["import_predictions", f"--run={copy}", "--name=two", "--remove"]) == 0
    assert not (copy / "imports" / "two").exists() and Run(copy).recipe.stage1.imports == ("one",)
    assert "stage1.imports" in stage_states(Run(copy))["features"][1]
    assert run.main(["import_predictions", f"--run={copy}", "--name=one", "--remove"]) == 0
    capsys.readouterr()
    assert run.main(["features", f"--run={copy}"]) == 1
    assert "there are no predictions to stack" in error_line(capsys)


def test_without_test_slices_there_is_nothing_to_submit(tmp_path, capsys):
    rich = {
        "chain": True,
        "cumulative": True,
        "rolling": [1],
        "other_studies": True,
        "place": True,
        "smooth_best": True,
    }
    r = make(tmp_path / "t", TRAIN, features=RECIPE["features"] | rich)
    assert take(r, "one", guesses(TRAIN, 1)) == 0
    assert run.main(["all", f"--run={r}", "--workers=1"]) == 0
    out = capsys.readouterr().out
    assert (
        "nothing to submit: the slice list has no test slices" in out and "cannot be checked" in out
    )
    assert not (r / "submission.csv").exists() and len(read_table(r / "stage2/test.parquet")) == 0
    assert (r / "report.html").is_file() and len(read_table(r / "stage2/oof.parquet")) == len(TRAIN)
    assert run.main(["submit", f"--run={r}", "--stage=one"]) == 1
    assert "nothing to submit" in error_line(capsys)


def test_a_weak_model_loses_its_weight_in_the_mean(fresh, monkeypatch):
    """Test slices get the weights of all folds; a test patient of train those without that fold."""
    monkeypatch.setattr("features.cnn_weights.lower_end", lambda *_: 1.0)  # 18 patients are few
    assert take(fresh, "good", guesses(TRAIN, 1), guesses(TEST, 2)) == 0
    assert take(fresh, "weak", guesses(TRAIN, 3, 0.3), guesses(TEST, 4, 0.3)) == 0
    assert run.main(["features", f"--run={fresh}"]) == 0
    weights = json.loads((fresh / "stage2/features/cnn_weights.json").read_text())
    assert list(weights) == [f"without fold {k}" for k in range(3)] + ["of all folds"]
    assert all(of_fit["weak"]["any"] < 0.25 for of_fit in weights.values())
    slices, fold = (read_table(fresh / f"{name}.parquet") for name in ("slices", "folds"))
    test = slices.index[slices["split"] == "test"]
    X = read_array(fresh / "stage2/features/test.npy")[0, :, : 3 * len(COLUMNS)]
    mean, good, weak = (X[:, at] for at in (slice(0, 6), slice(6, 12), slice(12, 18)))
    of_fold = fold["fold"].reindex(test)
    assert set(of_fold) > {-1} and len(set(of_fold)) == 2
    for row, k in enumerate(of_fold):
        fit = weights["of all folds" if k < 0 else f"without fold {k:.0f}"]
        left_out = np.array([fit["weak"][label] == 0 for label in COLUMNS])
        assert left_out.any() and (np.isnan(weak[row]) == left_out).all()
        expected = [
            fit["good"][label] * good[row, j] + fit["weak"][label] * np.nan_to_num(weak[row, j])
            for j, label in enumerate(COLUMNS)
        ]
        np.testing.assert_allclose(mean[row], expected, rtol=1e-5, atol=1e-6)


def test_features_needs_the_test_predictions(fresh, capsys):
    assert take(fresh, "one", guesses(TRAIN, 1)) == 0
    assert "`features` needs its predictions" in capsys.readouterr().out
    assert run.main(["features", f"--run={fresh}"]) == 1
    assert f"one has no predictions for the {len(TEST)} test slices" in error_line(capsys)


def test_a_probe_of_an_imported_model_is_refused_and_the_chain_is_not(copy, capsys):
    recipe = yaml.safe_load((copy / "recipe.yaml").read_text())
    for name, message in (("probe", "which imported models lack"), ("chain", "")):
        (copy / "recipe.yaml").write_text(
            yaml.safe_dump(recipe | {"features": recipe["features"] | {name: True}})
        )
        assert run.main(["features", f"--run={copy}"]) == bool(message)
        assert message in capsys.readouterr().err
    assert "any_chain" in json.loads((copy / "stage2/features/names.json").read_text())


def test_slicewise_folds_are_refused_with_the_patient(fresh, capsys):
    folds = np.arange(len(TRAIN)) % 3
    assert take(fresh, "one", guesses(TRAIN, 1).assign(fold=folds)) == 1
    line = error_line(capsys)
    patient = read_table(fresh / "slices.parquet")["patient_id"]
    assert "is in two folds" in line and any(name in line for name in patient) and "--oof=" in line
    assert not (fresh / "imports").exists() and Run(fresh).recipe.stage1.imports == ()


def test_a_slice_list_with_slicewise_folds_is_refused(tmp_path, capsys):
    r = make(tmp_path / "t", TRAIN.assign(fold=np.arange(len(TRAIN)) % 3))
    assert run.main(["ingest", f"--run={r}"]) == 1
    assert "is in two folds" in error_line(capsys)


def test_in_sample_predictions_are_refused_unless_trusted(fresh, capsys):
    sharp = guesses(TRAIN, 1, skill=9.0)
    assert take(fresh, "one", sharp, guesses(TEST, 2)) == 1
    line = error_line(capsys)
    assert (
        "on train slices is 0." in line and "on test slices, 0." in line and "--trust-oof" in line
    )
    half = guesses(TRAIN, 1)
    half.loc[(NUMBER % 3 == 1).to_numpy(), COLUMNS] = sharp[COLUMNS]
    assert take(fresh, "one", half.assign(fold=(NUMBER % 3).to_numpy())) == 1
    assert "the weighted log loss of fold 1 is 0." in error_line(capsys)
    assert not (fresh / "imports").exists() and not (fresh / "imports/folds.parquet").exists()
    assert take(fresh, "one", sharp, guesses(TEST, 2), "--trust-oof") == 0
    assert "imported with --trust-oof" in capsys.readouterr().out


def test_one_test_patient_is_no_measure_of_how_certain_a_model_should_be(tmp_path, capsys):
    """Predictions that four test patients refuse, by fold; one of them alone has no error."""
    sharp = guesses(TRAIN, 1, skill=3.5)
    folds = pd.concat([guesses(TEST, 10 + k).assign(fold=k) for k in range(3)])
    sharp["fold"] = (NUMBER % 3).to_numpy()
    assert take(make(tmp_path / "four"), "one", sharp, folds) == 1
    assert "3 standard errors below, the mean entropy on test slices" in error_line(capsys)
    single = TEST["SOPInstanceUID"][-SLICES:]
    r = make(tmp_path / "t", TABLE[~TABLE.index.isin(TEST.index[:-SLICES])], sampled=False)
    folds = folds[folds["SOPInstanceUID"].isin(single)]
    assert take(r, "one", sharp, folds) == 0
    assert "with one test patient it cannot be checked" in capsys.readouterr().out


def test_a_model_that_is_in_sample_in_all_folds_is_refused_without_test_predictions(fresh, capsys):
    """All folds are in-sample, so none differs, and there are no test slices to compare with."""
    y = TRAIN[COLUMNS].astype(float).to_numpy()
    for p, why in (
        (np.where(y == 1, 0.997, 0.001), "under a twentieth of the base rates' entropy"),
        (np.where(y == 1, 0.55, 0.45), "the AUC is 0.999 or more in "),
    ):
        known = pd.DataFrame(p, columns=COLUMNS).assign(
            SOPInstanceUID=TRAIN["SOPInstanceUID"].to_numpy()
        )
        assert take(fresh, "one", known.assign(fold=(NUMBER % 3).to_numpy())) == 1
        line = error_line(capsys)
        assert why in line and "--trust-oof" in line and not (fresh / "imports").exists()
    assert take(fresh, "one", known, None, "--trust-oof") == 0
    assert "imported with --trust-oof, although the AUC is 0.999 or more" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda o, t: (o[1:], t), "lacks 1 slice of the run, the first "),
        (lambda o, t: (pd.concat([o, o[:1]]), t), "occurs twice"),
        (
            lambda o, t: (pd.concat([o, o[:1].assign(SOPInstanceUID="1.9")]), t),
            "no train slices of the run, the first 1.9",
        ),
        (
            lambda o, t: (pd.concat([o, t]), t),
            f"{len(TEST)} rows of slices that are no train slices of the run",
        ),
        (lambda o, t: (o, t[1:]), "lacks 1 slice of"),
        (lambda o, t: (o, pd.concat([t, t[:1]])), "occurs twice"),
        (
            lambda o, t: (o, pd.concat([t.assign(fold=k) for k in range(3)])[1:]),
            ", fold 0, lacks 1 slice of",
        ),
        (lambda o, t: (o, pd.concat([t.assign(fold=k) for k in range(2)])), ", fold 2, lacks"),
        (
            lambda o, t: (o, pd.concat([t.assign(fold=k) for k in range(4)])),
            "has 4 folds, but the out-of-fold predictions",
        ),
        (
            lambda o, t: (o, pd.concat([t.assign(fold=k) for k in (0, 1, 2, 2)])),
            "occurs twice in fold 2",
        ),
    ],
)
def test_faults_of_the_rows_are_named(copy, capsys, spoil, message):
    assert take(copy, "new", *spoil(guesses(TRAIN, 1), guesses(TEST, 2))) == 1
    assert message in error_line(capsys)
    assert not (copy / "imports/new").exists()


def test_folds_that_come_with_the_first_model_become_the_runs(fresh, capsys):
    own = (NUMBER % 4).to_numpy()
    tests = pd.concat([guesses(TEST, 20 + k).assign(fold=k) for k in range(4)])
    assert take(fresh, "one", guesses(TRAIN, 1).assign(fold=own), tests) == 0
    out = capsys.readouterr().out
    assert (
        "folds.k: 3 -> 4" in out
        and "its 4 folds are the run's" in out
        and "as in the slice list or the imported model" in out
    )
    patients = read_table(fresh / "slices.parquet")["patient_id"]
    fold = read_table(fresh / "folds.parquet")["fold"]
    train = fold[read_table(fresh / "imports/folds.parquet").index]
    assert fold.groupby(patients).nunique().max() == 1 and sorted(train.value_counts()) == sorted(
        np.bincount(own)
    )
    before = [read_table(fresh / f"imports/one/test-fold{k}.parquet") for k in range(4)]
    turned = (own + 1) % 4  # the same folds under other numbers
    assert (
        take(
            fresh,
            "two",
            guesses(TRAIN, 1).assign(fold=turned),
            tests.assign(fold=(tests["fold"] + 1) % 4),
        )
        == 0
    )
    assert "its folds are not the run's" not in capsys.readouterr().out
    for k in range(4):
        pd.testing.assert_frame_equal(
            read_table(fresh / f"imports/two/test-fold{k}.parquet"), before[k]
        )
    other = (NUMBER // 6).to_numpy()
    assert take(fresh, "three", guesses(TRAIN, 1).assign(fold=other), tests[tests["fold"] < 3]) == 0
    out = capsys.readouterr().out
    assert (
        "its folds are not the run's" in out
        and "of 3 folds, the run has 4: their mean is used" in out
    )


def test_patients_without_predictions_get_a_fold_as_fast_as_others():
    groups = pd.Series([f"p{row // 3}" for row in range(60_000)], name="group")
    own_fold = pd.Series([0, 1, 2, 3], index=["p0", "p1", "p2", "p19999"])
    start = time.process_time()
    fold = imported_predictions.complete_folds(groups, own_fold, 7)
    assert time.process_time() - start < 2  # looking for each group's slices took .2 ms a group
    assert fold.dtype == np.int8 and fold.groupby(groups).nunique().max() == 1
    assert fold[[0, 3, 6, 59_999]].tolist() == [0, 1, 2, 3]
    assert fold[9] == derive_seed(7, "fold", "p3") % 4
    assert (fold.value_counts(normalize=True) - 0.25).abs().max() < 0.02


def test_a_slice_list_may_bring_its_folds(tmp_path, capsys):
    r = make(
        tmp_path / "t", TABLE.assign(fold=np.append((NUMBER % 2).to_numpy(), [-1] * len(TEST)))
    )
    assert Run(r).recipe.folds.k == 2
    assert take(r, "one", guesses(TRAIN, 1)) == 0
    out = capsys.readouterr().out
    assert "as in the slice list or the imported model" in out
    assert "without a fold column" not in out
    recipe = yaml.safe_load((r / "recipe.yaml").read_text())
    recipe["folds"]["k"] = 3
    (r / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert run.main(["folds", f"--run={r}"]) == 1
    assert "folds.k = 3, but the slice list or import has 2 folds" in error_line(capsys)


@pytest.mark.parametrize("folds", [False, True])
def test_unlabelled_slices_of_labelled_studies_never_tear_a_series(tmp_path, capsys, folds):
    """Refused, or train slices at their place; a fold that the list brings holds for them, too."""
    rows = [1, 2, 9, 17]  # inside and at an end of the series of three studies
    table = TABLE.assign(fold=[*NUMBER % 3, *[-1] * len(TEST)])
    table.loc[rows, COLUMNS] = ""
    if folds:
        table.loc[rows, "fold"] = -1
    else:
        table = table.drop(columns="fold")
    r = make(tmp_path / "t", table)
    assert run.main(["ingest", f"--run={r}"]) == 1
    line = error_line(capsys)
    assert "4 train slices without all labels, the first " in line
    assert "a study with labels is in train as a whole" in line and "--allow-unlabelled" in line

    r = make(tmp_path / "u", table, data={"slices": "", "allow_unlabelled": True})
    oof = guesses(TRAIN.drop(index=rows), 1)  # unlabelled slices need no predictions
    assert take(r, "one", oof, guesses(TEST, 2)) == 0
    assert "4 train slices without all six labels" in capsys.readouterr().out
    slices = read_table(r / "slices.parquet")
    assert slices.groupby("study_id")["split"].nunique().max() == 1
    assert (slices["series_slices"] == SLICES).all()
    assert slices["gap_above_mm"].dropna().unique().tolist() == [5]
    assert slices["any"].isna().sum() == 4 + len(TEST)
    fold = read_table(r / "folds.parquet")["fold"]
    train = slices[slices["split"] == "train"]
    assert fold[train.index].groupby(train["study_id"]).nunique().max() == 1
    assert run.main(["features", f"--run={r}"]) == 0


def test_people_who_share_a_study_by_mistake_may_be_labelled_or_not(tmp_path):
    """All have one StudyInstanceUID; the study of each is their own before the split is made."""
    table = TABLE.assign(StudyInstanceUID="1.2")
    table.loc[TEST.index[:SLICES], "PatientID"] = "DOE-99"  # not in train
    r = make(tmp_path / "t", table)
    assert run.main(["ingest", f"--run={r}"]) == 0
    slices = read_table(r / "slices.parquet")
    assert (slices["split"] == "test").sum() == len(TEST)


def test_a_fold_without_labels_is_refused(finished, tmp_path):
    """An imported model may bring folds of which one has not been labelled yet."""
    folder = RunDir(shutil.copytree(finished, tmp_path / "r"))
    slices, fold = read_table(folder.slices), read_table(folder.folds)
    folder.imported_folds.parent.mkdir(parents=True, exist_ok=True)
    write_table(folder.imported_folds, fold[slices["split"] == "train"])
    slices.loc[fold["fold"] == 1, "any"] = np.nan
    write_table(folder.slices, slices)
    with pytest.raises(InputError, match="^fold 1 has no slice with all six labels; give its pat"):
        folds(Run(folder.root), SimpleNamespace(made=[]))


@pytest.mark.parametrize("recipe", ["micro", "tiny"])
def test_a_recipe_has_cnns_or_a_slice_list(tmp_path, capsys, recipe):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(RECIPE | {"data": {}}))
    TABLE.to_csv(tmp_path / "s.csv", index=False)
    name = recipe if recipe == "micro" else tmp_path / "tiny.yaml"
    assert (
        run.main(
            ["new", f"--run={tmp_path / 'r'}", f"--recipe={name}", f"--slices={tmp_path / 's.csv'}"]
        )
        == 1
    )
    expected = "CNNs, which need images" if recipe == "micro" else "stage1.models is empty"
    assert expected in error_line(capsys)


def test_an_imported_model_is_stacked_with_the_cnns(finished, tmp_path, capsys):
    copy = shutil.copytree(finished, tmp_path / "r")
    slices = read_table(copy / "slices.parquet").rename_axis("SOPInstanceUID").reset_index()
    train, test = (slices[slices["split"] == split] for split in ("train", "test"))
    # the slice that does not decode needs no row
    table = guesses(train, 1)[train["readable"].to_numpy(bool)]
    assert take(copy, "resnet", table, guesses(test, 2)) == 1
    assert "a CNN of the recipe has that name" in error_line(capsys)
    assert take(copy, "mine", table, guesses(test, 2)) == 0
    states = stage_states(Run(copy))
    assert {name for name, (kind, _) in states.items() if kind == "fresh"} == {
        "ingest",
        "folds",
        "train",
        "predict",
    }
    assert run.main(["all", f"--run={copy}", "--workers=1"]) == 0
    scores = json.loads((copy / "stage2/scores.json").read_text())
    assert list(scores["models"]) == ["resnet", "mine"]
    names = json.loads((copy / "stage2/features/names.json").read_text())
    assert "any_by_mine" in names and "any_by_resnet" in names
    assert run.main(["submit", f"--run={copy}", "--stage=one"]) == 0


@pytest.mark.slow
def test_real_studies_with_simulated_predictions(tmp_path, real_data):
    """200 patients of the competition: geometry and labels are real, predictions simulated."""
    table = pd.read_csv(
        real_data / "stage_two/labelled_studies.csv.gz", dtype=str, keep_default_na=False
    )
    patients = table["PatientID"].unique()[:200]
    table = table[table["PatientID"].isin(patients)].reset_index(drop=True)
    table = table.drop(columns=[name for name in table if name.startswith("resnet")])
    r = make(tmp_path / "t", table)
    assert (
        take(r, "one", guesses(table, 1, 3.0)) == 0 and take(r, "two", guesses(table, 2, 3.0)) == 0
    )
    assert run.main(["all", f"--run={r}"]) == 0
    scores = json.loads((r / "stage2/scores.json").read_text())
    # neighbours of a slice with independent noise help
    assert scores["gain"]["weighted"]["low"] > 0
    slices = read_table(r / "slices.parquet")
    assert len(slices) == len(table)
    assert all(
        series.is_monotonic_increasing
        for _, series in slices["position_mm"].groupby(slices["series_id"])
    )


@pytest.mark.parametrize("name", ["one/oof.parquet", "two/test-fold1.parquet"])
def test_a_damaged_import_is_refused_before_it_is_stacked(copy, name, capsys):
    path = copy / "imports" / name
    before, text = path.stat(), bytearray(path.read_bytes())
    text[len(text) // 2] ^= 1
    path.write_bytes(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    features = (copy / "stage2/features/train.npy").read_bytes()
    assert run.main(["all", f"--run={copy}", "--workers=1"]) == 1
    assert f"imports/{name}, which is damaged; import it again" in error_line(capsys)
    assert (copy / "stage2/features/train.npy").read_bytes() == features
    assert run.main(["status", f"--run={copy}", "--verify"]) == 1
    assert f"imports/{name} is damaged" in capsys.readouterr().out


def test_the_quarantine_is_read_as_it_was_written(tmp_path, monkeypatch):
    """A name that starts like a formula has an apostrophe in the file."""
    monkeypatch.setattr(imported_predictions, "pseudonym", lambda name, key, kind: name)
    write_sheet(tmp_path / "q.csv", pd.DataFrame({"slice_id": ["-1"]}), index=False)
    stub = SimpleNamespace(
        dir=SimpleNamespace(quarantine=tmp_path / "q.csv"), pseudonym_key=lambda: b""
    )
    table, rows = (
        pd.DataFrame({"slice_id": ["a", "-1"], "any": [0.5, 0.5]}),
        pd.DataFrame({"split": ["test"]}, index=["a"]),
    )
    assert imported_predictions.by_slice(stub, table, rows, "--test=t.csv").index.tolist() == ["a"]


def test_damaged_folds_of_an_import_are_refused(fresh, capsys):
    oof = guesses(TRAIN, 1).assign(fold=NUMBER.to_numpy() % 3)
    # whether so few patients raise the alarm of a fold depends on the run's random key
    assert take(fresh, "one", oof, guesses(TEST, 2), "--trust-oof") == 0
    path = fresh / "imports/folds.parquet"
    path.write_bytes(path.read_bytes().replace(b"P", b"Q", 1))
    capsys.readouterr()
    assert run.main(["folds", f"--run={fresh}"]) == 1
    assert "imports/folds.parquet, which is damaged" in error_line(capsys)
