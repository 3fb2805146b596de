"""Markov chains and probes of a run are fitted without the patient's labels; later stages run."""

import json
import shutil

import numpy as np
import pytest
import yaml

import run
from ct.averaging import mean_logits
from ct.labels import LABELS
from ct.storage.file_formats import read_array, read_arrays, read_json, read_table, write_table
from features.linear_probe import cross_fit_probe, part_of_patient
from features.markov import MarkovChain, posterior_logits
from pipeline.receipt import Receipt
from pipeline.run_context import Run
from pipeline.stage_data.cross_fitting import new_array
from pipeline.stage_data.probe_unit import probe_units
from pipeline.stage_runner import stage_states
from pipeline.stages.features import features

RICH = {
    "reach": 2,
    "smooth_mm": [5],
    "smooth_best": True,
    "rolling": [1],
    "cumulative": True,
    "chain": True,
    "probe": True,
    "difference_reach": 1,
    "model_reach": 1,
    "other_studies": True,
    "place": True,
    "padding": True,
    "scanner": True,
}


@pytest.fixture(scope="module")
def rich(finished, tmp_path_factory):
    """A finished run with features of every family. Not to be changed."""
    folder = shutil.copytree(finished, tmp_path_factory.mktemp("rich") / "r")
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["features"] = RICH
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert run.main(["features", f"--run={folder}"]) == 0
    return folder


def columns(folder, kind):
    """(train (n, 6), test (K, m, 6)) of one kind of feature."""
    names = list(read_json(folder / "stage2/features/names.json"))
    at = [names.index(f"{label}_{kind}") for label in LABELS]
    return (
        np.array(read_array(folder / f"stage2/features/{split}.npy")[..., at])
        for split in ("train", "test")
    )


def test_every_family_is_there(rich):
    X, test_X = (read_array(rich / f"stage2/features/{split}.npy") for split in ("train", "test"))
    names = list(read_json(rich / "stage2/features/names.json"))
    slices = read_table(rich / "slices.parquet")
    counts = slices["split"].value_counts()
    assert X.shape == (counts["train"], len(names)) and test_X.shape == (
        2,
        counts["test"],
        len(names),
    )
    assert X.dtype == test_X.dtype == np.float32
    assert {
        "any_chain",
        "any_probe",
        "padded",
        "window_width",
        "any_others_max",
        "any_dz+1",
    } <= set(names)


@pytest.mark.slow
def test_later_stages_run_with_every_family(rich, tmp_path):
    folder = shutil.copytree(rich, tmp_path / "r")
    assert run.main(["all", f"--run={folder}", "--workers=1"]) == 0
    assert all(kind == "fresh" for kind, _ in stage_states(Run(folder)).values())


def test_the_chain_of_a_slice_is_fitted_without_its_fold(rich):
    train, test = columns(rich, "chain")
    slices, fold = read_table(rich / "slices.parquet"), read_table(rich / "folds.parquet")["fold"]
    chains = {
        label: {where: MarkovChain.from_json(c) for where, c in each.items()}
        for label, each in json.loads((rich / "stage2/features/chain.json").read_text()).items()
    }
    rows = slices[slices["split"] == "train"]
    logits = mean_logits(
        {"resnet": read_table(rich / "stage1/resnet/oof.parquet").reindex(rows.index).to_numpy()}
    )
    for k in (0, 1):
        held = (fold[rows.index] == k).to_numpy()
        expected = posterior_logits(
            rows[held], logits[held], [chains[label][f"without fold {k}"] for label in LABELS]
        )
        np.testing.assert_allclose(train[held], expected, rtol=1e-5)
        unseen = slices[slices["split"] == "test"]
        theirs = mean_logits(
            {
                "r": read_table(rich / f"stage1/resnet/fold{k}/test.parquet")
                .reindex(unseen.index)
                .to_numpy()
            }
        )
        own = fold[unseen.index].to_numpy()  # all of one patient, who is also in train
        assert len(set(own)) == 1 and own[0] >= 0
        expected = posterior_logits(
            unseen, theirs, [chains[label][f"without fold {own[0]}"] for label in LABELS]
        )
        np.testing.assert_allclose(test[k], expected, rtol=1e-5)


def test_the_probe_of_a_fold_is_of_its_own_cnn(rich):
    train, test = columns(rich, "probe")
    slices = read_table(rich / "slices.parquet")
    rows = slices[slices["split"] == "train"]
    for k in (0, 1):
        folder = rich / f"stage1/resnet/fold{k}"
        held = read_table(folder / "held_out.parquet").index
        own = slices.loc[held]
        expected, probe, parts = cross_fit_probe(
            read_array(folder / "held_out_embeddings.npy"),
            own[list(LABELS)].to_numpy(np.float64),
            own["patient_id"].to_numpy(),
        )
        np.testing.assert_array_equal(train[rows.index.get_indexer(held)], expected)
        test_rows = slices[slices["split"] == "test"]
        groups, fold = (
            own["patient_id"].to_numpy(object),
            read_table(rich / "folds.parquet")["fold"],
        )
        theirs = (groups == test_rows["patient_id"].iloc[0]).nonzero()[0]
        expected_probe = parts[part_of_patient(groups)[theirs[0]]] if len(theirs) else probe
        assert len(theirs) == 0 or fold[test_rows.index[0]] == k
        np.testing.assert_array_equal(
            test[k], expected_probe.logits(read_array(folder / "test_embeddings.npy"))
        )
        kept = read_arrays(rich / "stage2/features/probes.safetensors")
        for name, each in {
            "": probe,
            **{f"part{j}.": part for j, part in enumerate(parts)},
        }.items():
            for field, array in vars(each).items():
                np.testing.assert_array_equal(kept[f"resnet.fold{k}.{name}{field}"], array)


def build(folder):
    """Build the features of a run again; return those of the test slices and their names."""
    run_folder = Run(folder, log=lambda text: None)
    for unit in probe_units(run_folder, {}):
        unit.run(run_folder.log, run_folder.bar)
    with Receipt(folder, folder / "receipts/features.json", "features", {}, {}) as receipt:
        features(run_folder, receipt)
    return np.array(read_array(folder / "stage2/features/test.npy")), list(
        read_json(folder / "stage2/features/names.json")
    )


def turn_round(folder, chosen):
    """Invert the labels of the train slices of one patient."""
    slices = read_table(folder / "slices.parquet")
    rows = slices.index[(slices["split"] == "train") & (slices["patient_id"] == chosen)]
    slices.loc[rows, list(LABELS)] = 1 - slices.loc[rows, list(LABELS)]
    write_table(folder / "slices.parquet", slices)


def test_train_labels_of_a_patient_reach_none_of_the_same_patients_test_features(rich, tmp_path):
    folder = shutil.copytree(rich, tmp_path / "r")
    slices, fold = read_table(folder / "slices.parquet"), read_table(folder / "folds.parquet")
    test = slices.index[slices["split"] == "test"]
    patient, own = slices.loc[test[0], "patient_id"], fold.loc[test[0], "fold"]
    before = np.array(read_array(folder / "stage2/features/test.npy"))
    turn_round(folder, patient)
    after, names = build(folder)
    # the features that the stacker of that fold reads
    np.testing.assert_array_equal(after[own], before[own])

    # another patient in the same place gets chains and probes that are fitted on that patient, so
    # the test would notice a leak
    slices = read_table(folder / "slices.parquet")
    slices.loc[test, "patient_id"] = "ID_0fffffff"
    write_table(folder / "slices.parquet", slices)
    write_table(
        folder / "folds.parquet", fold.assign(fold=fold["fold"].where(~fold.index.isin(test), -1))
    )
    turned, _ = build(folder)
    turn_round(folder, patient)
    other, _ = build(folder)
    others = ~((turned == other) | np.isnan(turned) & np.isnan(other))[own].all(axis=0)
    assert {
        name.partition("_")[2] for name, differs in zip(names, others, strict=True) if differs
    } == {"chain", "probe"}


def test_labels_of_a_patient_reach_none_of_the_own_features(rich, tmp_path):
    """Invert one patient's labels: the patient's features in stage two do not change."""
    folder = shutil.copytree(rich, tmp_path / "r")
    before = np.array(read_array(folder / "stage2/features/train.npy"))
    names = list(read_json(folder / "stage2/features/names.json"))
    slices = read_table(folder / "slices.parquet")
    rows = slices[slices["split"] == "train"]
    his = (rows["patient_id"] == rows["patient_id"].iloc[0]).to_numpy()
    slices.loc[rows.index[his], list(LABELS)] = 1 - slices.loc[rows.index[his], list(LABELS)]
    write_table(folder / "slices.parquet", slices)
    build(folder)
    after = np.array(read_array(folder / "stage2/features/train.npy"))
    np.testing.assert_array_equal(after[his], before[his])
    others = ~((after == before) | np.isnan(after) & np.isnan(before)).all(axis=0)
    changed = {name.partition("_")[2] for name, other in zip(names, others, strict=True) if other}
    assert changed == {"chain", "probe"}  # the test would see a leak


def test_other_folds_give_other_features(rich, tmp_path):
    """The chain reads the folds: the stage is stale where they are made again."""
    folder = shutil.copytree(rich, tmp_path / "r")
    assert stage_states(Run(folder))["features"][0] == "fresh"
    receipt = json.loads((folder / "receipts/features.json").read_text())
    assert "folds.parquet" in receipt["read"]


def test_a_new_array_of_no_rows(tmp_path):
    for shape in ((0, 5), (2, 0, 5), (3, 2)):
        with new_array(tmp_path / "x.npy", shape) as X:
            X[:] = 1
        assert np.load(tmp_path / "x.npy", allow_pickle=False).shape == shape
