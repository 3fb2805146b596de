"""The whole pipeline on 40 slices: what it leaves, what it does again, and what it refuses."""

import hashlib
import json
import os
import re
import shutil
from functools import partial
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import error_line
from tiny_zip import pack

import ct.kaggle_layout
import ct.pixel_cache.writer
import run
from ct.errors import InputError
from ct.labels import KAGGLE_ORDER, LABELS
from ct.run_dir import RunDir
from ct.storage.file_formats import read_array, read_json, read_table, write_table
from ct.storage.file_lock import file_lock
from ct.storage.prediction_files import kind_of
from pipeline.recipe import find_recipe
from pipeline.registry import STAGES
from pipeline.run_context import Run
from pipeline.stage_data.sample_rows import match_sample
from pipeline.stage_data.slice_selection import take_patients
from pipeline.stage_runner import stage_states
from pipeline.stages.submit import submit_stage_one
from report import write_report

SAMPLE = "stage_2_sample_submission.csv"


@pytest.fixture
def copy(finished, tmp_path):
    """A finished run that may be changed."""
    return shutil.copytree(finished, tmp_path / "r")


@pytest.fixture
def data(competition, tmp_path):
    """A competition that may be changed."""
    return shutil.copytree(competition, tmp_path / "data")


def new(folder, data, *flags, recipe="micro"):
    return run.main(["new", f"--run={folder}", f"--recipe={recipe}", f"--data={data}", *flags])


def emptied(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def rewrite(path, change):
    rows = pd.read_csv(path, dtype=str)
    change(rows).to_csv(path, index=False)


def test_a_run_leaves_exactly_these_files(finished):
    fold = [
        "curve.json",
        "held_out.parquet",
        "held_out_embeddings.npy",
        "predict.json",
        "test.parquet",
    ]
    fold += ["test_embeddings.npy", "train.json", "weights.safetensors"]
    expected = {
        ".lock",
        "key",
        "recipe.yaml",
        "ingest.json",
        "slices.parquet",
        "quarantine.csv",
        "folds.parquet",
    }
    expected |= {
        "pixels/index.parquet",
        "pixels/shard-00000.blosc2",
        "submission.csv",
        "report.html",
    }
    expected |= {f"receipts/{name}.json" for name in STAGES} | {"stage1/resnet/oof.parquet"}
    expected |= {f"stage1/resnet/fold{k}/{name}" for k in (0, 1) for name in fold}
    features = ("cnn_weights.json", "names.json", "test.npy", "train.npy")
    expected |= {f"stage2/features/{name}" for name in features}
    tables = (
        "calibrated",
        "calibrated_test",
        "contributions",
        "importances",
        "oof",
        "test",
        "trials",
    )
    expected |= {f"stage2/{name}.parquet" for name in tables}
    expected |= {
        f"stage2/{name}.json" for name in ("blend", "calibration", "configs", "scores", "tuning")
    }
    files = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    folders = ("stage2/tune/", "stage2/fits/", "stage2/boosters/")
    more = {name for name in files if name.startswith(folders)}
    assert {name for name in files - more if not name.startswith("pixels/")} == {
        name for name in expected if not name.startswith("pixels/")
    }
    assert any(name.endswith(".journal") for name in more), "at least one label is tuned"
    assert any(name.endswith(".txt") for name in more), "at least one label is stacked"
    assert not [name for name in files if name.endswith((".part", ".pkl"))]


def test_tables_are_complete_and_joined_by_slice_id(finished):
    slices, fold = read_table(finished / "slices.parquet"), read_table(finished / "folds.parquet")
    train = slices.index[slices["split"] == "train"]
    test = slices.index[slices["split"] == "test"]
    assert (len(train), len(test)) == (35, 5)
    assert fold.index.equals(slices.index)
    for name in ("oof", "calibrated"):
        table = read_table(finished / "stage2" / f"{name}.parquet")
        assert table.index.equals(train) and list(table) == list(LABELS)
        assert ((table > 0) & (table < 1)).all(axis=None)
    assert read_table(finished / "stage2" / "test.parquet").index.equals(test)
    raw = read_table(finished / "stage1" / "resnet" / "oof.parquet")
    assert raw.index.equals(train)
    assert kind_of(raw) == "logits" and (raw.dtypes == np.float32).all()
    X = read_array(finished / "stage2/features/train.npy")
    np.testing.assert_array_equal(X[:, :6], raw)  # of one CNN: neither clipped nor rounded
    platts = json.loads((finished / "stage2/calibration.json").read_text()).values()
    assert all(platt["floor"] is None for of_label in platts for platt in of_label)
    unreadable = slices.index[~slices["readable"]]
    # the truncated file keeps its row, fold and place; its prediction is NaN
    assert len(unreadable) == 1
    assert raw.index[raw.isna().any(axis=1)].equals(unreadable)
    for k in (0, 1):
        held_out = read_table(finished / f"stage1/resnet/fold{k}/held_out.parquet")
        assert set(held_out.index) == set(train[fold.loc[train, "fold"] == k])
        assert read_array(finished / f"stage1/resnet/fold{k}/held_out_embeddings.npy").shape[
            0
        ] == len(held_out)
    assert read_array(finished / "stage2/features/train.npy").dtype == np.float32


def test_submission_has_the_rows_of_the_sample_in_their_order(finished, competition):
    sample = pd.read_csv(competition / SAMPLE)
    made = pd.read_csv(finished / "submission.csv")
    assert list(made["ID"]) == list(sample["ID"])
    assert made["Label"].between(0, 1, inclusive="neither").all()
    assert list(made["ID"][:6].str.split("_").str[-1]) == list(KAGGLE_ORDER)
    final = read_table(finished / "stage2" / "test.parquet")
    slice_id, label = made["ID"][7].rsplit("_", 1)
    assert made["Label"][7] == pytest.approx(final.loc[slice_id, label], abs=1e-8)


def test_a_patient_in_both_sets_gets_the_own_folds_prediction(finished):
    """A test patient who is also in train, in fold j, gets fold j's CNN and stacker alone."""
    slices, fold = (
        read_table(finished / "slices.parquet"),
        read_table(finished / "folds.parquet")["fold"],
    )
    test = slices.index[slices["split"] == "test"]
    own = fold[test]
    assert (own >= 0).all()  # the one test study is of the patient in both sets
    assert json.loads((finished / "ingest.json").read_text())["patients_in_both_sets"] == [
        slices.loc[test[0], "patient_id"]
    ]
    k = int(own.iloc[0])
    logit = read_table(finished / f"stage1/resnet/fold{k}/test.parquet").astype(np.float64)
    platt = json.loads((finished / "stage2/calibration.json").read_text())["epidural"][k]
    expected = 1 / (1 + np.exp(-(platt["slope"] * logit["epidural"] + platt["intercept"])))
    np.testing.assert_allclose(
        read_table(finished / "stage2/calibrated_test.parquet")["epidural"], expected, rtol=1e-4
    )


def test_a_second_all_does_nothing(copy, capsys):
    before = {
        path: path.stat().st_mtime_ns
        for path in copy.rglob("*")
        if path.is_file() and path.name != ".lock"
    }
    assert run.main(["all", f"--run={copy}"]) == 0
    assert "everything is fresh" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_status_json(copy, capsys):
    assert run.main(["status", f"--run={copy}", "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["recipe"] == "micro" and list(status["stages"]) == list(STAGES)
    assert {stage["state"] for stage in status["stages"].values()} == {"fresh"}
    assert status["scores"]["stage_two"] == read_json(copy / "stage2/scores.json")["stage_two"]
    (copy / "stage2/oof.parquet").unlink()
    assert run.main(["status", f"--run={copy}", "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["stages"]["stack"] == {
        "state": "stale",
        "why": "stage2/oof.parquet is gone",
        "makes": STAGES["stack"].makes,
    }
    assert status["scores"] == {}  # their file is stale


def test_status_prints_which_stages_are_stale_and_why(copy, capsys):
    recipe = yaml.safe_load((copy / "recipe.yaml").read_text())
    recipe["features"]["reach"] = 2
    (copy / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    states = stage_states(Run(copy))
    assert {name for name, (kind, _) in states.items() if kind == "fresh"} == {
        "ingest",
        "folds",
        "train",
        "predict",
    }
    assert "features.reach: 1 -> 2" in states["features"][1]
    assert states["tune"] == ("stale", "features is to be made again")
    assert run.main(["tune", f"--run={copy}"]) == 1
    assert "run `features` or `all`" in error_line(capsys)
    (copy / "stage1/resnet/fold1/weights.safetensors").unlink()
    assert stage_states(Run(copy))["train"] == (
        "stale",
        "stage1/resnet/fold1/weights.safetensors is gone",
    )
    assert run.main(["all", f"--run={copy}", "--workers=1"]) == 0
    out = capsys.readouterr().out
    # only the lost fold was trained again
    assert "resnet fold 0: 2 epochs" in out and ", kept" in out
    assert "predict: fresh" in out  # its weights came out the same
    assert "features.reach: 1 -> 2" in out


def test_more_trials_continue_the_same_studies(copy, capsys):
    journal = next((copy / "stage2/tune").glob("*.journal"))
    before = journal.read_text()
    assert run.main(["tune", f"--run={copy}", "--trials=4", "--workers=1"]) == 0
    out = capsys.readouterr().out
    assert "stage2.trials: 3 -> 4" in out and "4 trials" in out
    assert journal.read_text().startswith(before) and len(journal.read_text()) > len(before)
    assert yaml.safe_load((copy / "recipe.yaml").read_text())["stage2"]["trials"] == 4


def test_tuning_ends_at_its_timeout(copy, capsys):
    assert run.main(["tune", f"--run={copy}", "--trials=300", "--timeout=1", "--workers=1"]) == 0
    assert "the time was up in" in capsys.readouterr().out
    receipt = json.loads((copy / "receipts/tune.json").read_text())
    assert receipt["not_repeatable"] == ["tune --timeout=1"]
    configs = json.loads((copy / "stage2/configs.json").read_text())
    tried = [config["trials"] for folds in configs.values() for config in folds if config["trials"]]
    assert tried and max(tried) < 300 and min(tried) >= 3  # those of before are kept
    assert not list((copy / "stage2/tune").glob("*.now"))


def test_saved_models_of_stage_two_give_the_saved_probabilities(finished):
    """Boosters, calibrations and weights give the out-of-fold probabilities and the ablation."""
    import lightgbm as lgb

    from ct.metrics import weighted_log_loss
    from stage2_stack.calibration import Platt

    blends = json.loads((finished / "stage2/blend.json").read_text())
    names = list(json.loads((finished / "stage2/features/names.json").read_text()))
    slices, oof = (
        read_table(finished / "slices.parquet"),
        read_table(finished / "stage2/oof.parquet"),
    )
    fold = read_table(finished / "folds.parquet")["fold"].reindex(oof.index).to_numpy()
    X, checked = read_array(finished / "stage2/features/train.npy"), 0
    y, known = (
        slices.loc[oof.index, list(LABELS)].to_numpy(np.float64),
        slices.loc[oof.index, LABELS[0]].notna().to_numpy(),
    )
    calibration = json.loads((finished / "stage2/calibration.json").read_text())
    for label in LABELS:
        for k, blend in enumerate(blends[label]):
            raw = X[fold == k, names.index(label)]
            start = Platt(**calibration[label][k]).logit(raw)
            logits = {"raw": raw}
            if "lightgbm" in blend["weights"]:
                booster = lgb.Booster(
                    model_file=finished / f"stage2/boosters/lightgbm-{label}-fold{k}-seed0.txt"
                )
                columns = [names.index(name) for name in booster.feature_name()]
                logits["lightgbm"] = start + booster.predict(
                    X[fold == k][:, columns], raw_score=True
                )
                checked += 1
            parts = [
                w * Platt(**blend["calibrations"][name]).logit(logits[name])
                for name, w in blend["weights"].items()
            ]
            logits = (
                sum(parts) if blend["last"] is None else Platt(**blend["last"]).logit(sum(parts))
            )
            p = 1 / (1 + np.exp(-logits))
            np.testing.assert_allclose(oof.loc[fold == k, label], p, rtol=1e-12)
    assert checked
    ablation = json.loads((finished / "stage2/scores.json").read_text())["ladder"]
    assert [step["component"] for step in ablation] == ["raw", "lightgbm", "blend"]
    calibrated = read_table(finished / "stage2/calibrated.parquet").to_numpy()
    for step, table in ((ablation[0], calibrated), (ablation[2], oof.to_numpy())):
        assert step["loss"]["weighted"] == pytest.approx(
            weighted_log_loss(y[known], table[known]), rel=1e-12
        )


def test_xgboost_and_gru_run_as_components(copy, capsys):
    recipe = yaml.safe_load((copy / "recipe.yaml").read_text())
    recipe["stage2"]["components"] = ["raw", "lightgbm", "gru"] + ["xgboost"] * bool(
        find_spec("xgboost")
    )
    (copy / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert run.main(["all", f"--run={copy}", "--workers=1"]) == 0
    ablation = json.loads((copy / "stage2/scores.json").read_text())["ladder"]
    assert {step["component"] for step in ablation} == {*recipe["stage2"]["components"], "blend"}
    assert "GRU over the series" in (copy / "report.html").read_text()
    assert {path.suffix for path in (copy / "stage2/boosters").iterdir()} <= {
        ".txt",
        ".json",
        ".safetensors",
    }


def test_a_component_whose_package_is_missing_is_refused_before_any_work(
    copy, competition, tmp_path, monkeypatch, capsys
):
    recipe = yaml.safe_load((copy / "recipe.yaml").read_text())
    recipe["stage2"]["components"] = ["raw", "xgboost"]
    (copy / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    monkeypatch.setattr("stage2_stack.config.find_spec", lambda name: None)
    assert run.main(["all", f"--run={copy}"]) == 1
    assert "xgboost is not installed: pip install -e '.[xgboost]'" in error_line(capsys)
    assert {
        path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.name != ".lock"
    }.items() <= before.items()
    words = [
        f"--run={tmp_path / 'other'}",
        f"--recipe={copy / 'recipe.yaml'}",
        f"--data={competition}",
    ]
    assert run.main(["new", *words]) == 1 and not (tmp_path / "other").exists()
    assert "xgboost is not installed" in error_line(capsys)


def test_submit_stage_one_writes_its_own_submission(copy, capsys):
    assert run.main(["submit", f"--run={copy}", "--stage=one"]) == 0
    one = pd.read_csv(copy / "submission-stage-one.csv")
    calibrated = read_table(copy / "stage2/calibrated_test.parquet")
    slice_id, label = one["ID"].str.rsplit("_", n=1).str[0], one["ID"].str.rsplit("_", n=1).str[1]
    expected = [calibrated.loc[s, column] for s, column in zip(slice_id, label, strict=True)]
    np.testing.assert_allclose(one["Label"], expected, atol=1e-6)
    assert (
        "kaggle competitions submit -c rsna-intracranial-hemorrhage-detection"
        in capsys.readouterr().out
    )


def test_the_submission_of_stage_one_is_the_mean_that_stage_two_starts_from(copy):
    one, path = copy / "submission-stage-one.csv", copy / "stage2/calibrated_test.parquet"
    write_table(path, read_table(path) * 0 + 0.25)
    submit_stage_one(Run(copy), is_stacked=True)
    assert (pd.read_csv(one)["Label"] == 0.25).all()
    submit_stage_one(Run(copy), is_stacked=False)
    assert not (pd.read_csv(one)["Label"] == 0.25).any()
    assert run.main(["stack", f"--run={copy}"]) == 0  # its table was changed
    assert not one.exists() and not (read_table(path) == 0.25).any(axis=None)


def test_new_completes_what_a_killed_new_left(competition, tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "key").write_bytes(b"half")
    (tmp_path / "r" / "recipe.yaml.part").write_text("name: mi")
    assert new(tmp_path / "r", competition) == 0
    assert len((tmp_path / "r" / "key").read_bytes()) == 32
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["key", "recipe.yaml"]


def test_new_refuses_an_existing_run(copy, data, capsys):
    assert new(copy, data) == 1
    assert "is there already" in error_line(capsys)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: [p.unlink() for p in d.glob("*.csv")], "stage_2_train.csv"),
        (lambda d: shutil.rmtree(d / "stage_2_train"), "stage_2_train"),
        (lambda d: [p.unlink() for p in (d / "stage_2_train").iterdir()], "stage_2_train"),
        (emptied, "is empty"),
        (lambda d: rewrite(d / SAMPLE, lambda r: r.iloc[:-1]), "has 5 rows instead of 6"),
        (
            lambda d: rewrite(d / SAMPLE, lambda r: r.rename(columns={"ID": "id"})),
            "lacks the column ID",
        ),
    ],
)
def test_new_refuses_bad_data_and_leaves_nothing(data, tmp_path, capsys, spoil, message):
    spoil(data)
    assert new(tmp_path / "r", data) == 1
    assert message in error_line(capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["stage1"]["models"][0].update(backbone="resnet10x"), "resnet10"),
        (
            lambda r: r["stage2"].update(trails=3),
            "unknown key 'stage2.trails', did you mean 'trials'?",
        ),
        (lambda r: r["stage1"]["models"][0].update(epoch=3), "did you mean 'epochs'?"),
        (lambda r: r["stage1"]["models"][0].update(windows=["brian"]), "brain"),
        (
            lambda r: r["stage1"]["models"][0].update(pretrained="weights/none.safetensors"),
            "is not a file",
        ),
        (lambda r: r["folds"].update(k=1), "folds.k = 1"),
        (lambda r: r.pop("stage1"), "'stage1' is missing"),
        (
            lambda r: r["stage1"]["models"].append(r["stage1"]["models"][0]),
            "two models are called 'resnet'",
        ),
    ],
)
def test_new_refuses_a_bad_recipe_and_leaves_nothing(
    competition, finished, tmp_path, capsys, change, message
):
    recipe = yaml.safe_load((finished / "recipe.yaml").read_text())
    change(recipe)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    assert new(tmp_path / "r", competition, recipe=tmp_path / "mine.yaml") == 1
    assert message in error_line(capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.yaml"]


def test_new_refuses_a_missing_recipe(competition, tmp_path, capsys):
    assert new(tmp_path / "r", competition, recipe="mirco") == 1
    assert "did you mean 'micro'?" in error_line(capsys)


def test_a_folder_without_write_permission(competition, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert new(tmp_path / "file" / "r", competition) == 1
    assert str(tmp_path / "file") in error_line(capsys)
    assert run.main(["synth", f"--out={tmp_path / 'file' / 'x'}", "--studies=2"]) == 1
    assert str(tmp_path / "file") in error_line(capsys)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.iloc[1:], "1 train slice without all labels, the first {first} (epidural)"),
        (
            lambda r: pd.concat([r, r.iloc[:1].assign(Label=str(1 - int(r["Label"][0])))]),
            "{first}_epidural is both 0 and 1",
        ),
        (lambda r: r.assign(Label=["2", *r["Label"][1:]]), "has the label '2'; labels are 0 or 1"),
        (lambda r: r.assign(ID="ID_f" + r["ID"].str[3:]), "is among the train files"),
        (lambda r: r.assign(ID=["oops", *r["ID"][1:]]), "'oops' does not end in one of"),
    ],
)
def test_ingest_refuses_bad_labels_and_leaves_nothing(data, tmp_path, capsys, change, message):
    first = pd.read_csv(data / "stage_2_train.csv")["ID"][0].rsplit("_", 1)[0]
    rewrite(data / "stage_2_train.csv", change)
    assert new(tmp_path / "r", data) == 0
    capsys.readouterr()
    assert run.main(["ingest", f"--run={tmp_path / 'r'}"]) == 1
    assert message.format(first=first) in error_line(capsys)
    # the headers that were read
    left = {path.name for path in (tmp_path / "r").iterdir()} - {"ingest.part"}
    assert left == {".lock", "key", "recipe.yaml"}


def test_labels_that_contradict_each_other_are_counted_and_named(data, tmp_path, capsys):
    labels = pd.read_csv(data / "stage_2_train.csv", dtype=str).set_index("ID")["Label"]
    some = labels.index[labels.index.str.endswith("_any")]
    positive = labels[some] == "1"
    # `any` is taken from all, and given to another
    bare, added = sorted(some[positive]), sorted(some[~positive])[:1]
    labels[bare], labels[added] = "0", "1"
    labels.reset_index().to_csv(data / "stage_2_train.csv", index=False)
    assert new(tmp_path / "r", data) == 0
    assert run.main(["ingest", f"--run={tmp_path / 'r'}", "--workers=1"]) == 0
    out, counts = capsys.readouterr().out, json.loads((tmp_path / "r" / "ingest.json").read_text())
    assert (counts["subtype_without_any"], counts["any_without_subtype"]) == (len(bare), 1) and len(
        bare
    ) > 1
    first, other = counts["contradictory_labels"]
    assert f"{first}_any" in bare and f"{other}_any" == added[0]
    assert (
        f"{len(bare)} train slices with a subtype and `any` = 0" in out
        and f"the first: {first}, {other}" in out
    )
    assert "1 train slice with `any` = 1 and no subtype" in out
    write_report(RunDir(tmp_path / "r"))
    page = (tmp_path / "r" / "report.html").read_text()
    assert f"<code>{first}</code>, <code>{other}</code>" in page
    assert f"<dt>train slices with a subtype but any = 0</dt><dd>{len(bare)}</dd>" in page


def test_unlabelled_duplicate_unknown_and_quarantined_are_counted(data, tmp_path, capsys):
    labels = pd.read_csv(data / "stage_2_train.csv", dtype=str)
    ids = labels["ID"].str.rsplit("_", n=1).str[0].unique()
    test_id = next((data / "stage_2_test").iterdir())
    foreign = labels.iloc[:6].assign(
        ID="ID_00000dead_" + labels["ID"][:6].str.rsplit("_", n=1).str[1]
    )
    pd.concat([labels[6:], labels[6:9], foreign]).to_csv(data / "stage_2_train.csv", index=False)
    (data / "stage_2_train" / f"{ids[1]}.dcm").write_bytes(b"no DICOM at all")
    test_id.write_bytes(test_id.read_bytes()[:200])
    assert new(tmp_path / "r", data, "--allow-unlabelled") == 0
    assert run.main(["all", f"--run={tmp_path / 'r'}", "--workers=1"]) == 0
    out = capsys.readouterr().out
    counts = json.loads((tmp_path / "r" / "ingest.json").read_text())
    assert (
        counts["unlabelled"] == 1
        and counts["duplicate_label_rows"] == 3
        and counts["labels_without_file"] == 1
    )
    assert counts["quarantined"] == 2 and counts["unreadable"] == 1
    slices = read_table(tmp_path / "r" / "slices.parquet")
    assert slices.loc[ids[0], list(LABELS)].isna().all() and ids[1] not in slices.index
    fold = read_table(tmp_path / "r" / "folds.parquet")["fold"]
    assert fold[ids[0]] >= 0  # left out after the folds are made
    quarantine = pd.read_csv(tmp_path / "r" / "quarantine.csv")
    assert set(quarantine["kind"]) == {"header", "pixels"}
    assert f"stage_2_train/{ids[1]}.dcm" in set(quarantine["path"])
    assert str(tmp_path) not in quarantine.to_csv()
    assert "1 slice in quarantine and 0 without a file got the training prior" in out
    made = pd.read_csv(tmp_path / "r" / "submission.csv").set_index("ID")["Label"]
    known = slices.loc[slices["split"] == "train", "any"].dropna()
    assert made[f"{test_id.stem}_any"] == pytest.approx(
        (known.sum() + 1) / (len(known) + 2), abs=1e-6
    )


def test_a_sample_row_without_a_file_is_refused_unless_missing_is_prior(copy, data, capsys):
    sample = pd.read_csv(data / SAMPLE)
    foreign = sample.iloc[:6].assign(
        ID="ID_00000dead_" + sample["ID"][:6].str.rsplit("_", n=1).str[1]
    )
    pd.concat([sample, foreign]).to_csv(data / SAMPLE, index=False)
    recipe = yaml.safe_load((copy / "recipe.yaml").read_text())
    recipe["data"]["sample"] = str(data / SAMPLE)
    (copy / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    before = (copy / "submission.csv").read_bytes()
    assert run.main(["submit", f"--run={copy}"]) == 1
    assert "ID_00000dead" in error_line(capsys)
    assert (copy / "submission.csv").read_bytes() == before
    assert run.main(["submit", f"--run={copy}", "--missing=prior"]) == 0
    made = pd.read_csv(copy / "submission.csv")
    assert len(made) == 36 and made["ID"].iloc[-1] == "ID_00000dead_any"


@pytest.mark.parametrize("missing", ["refuse", "prior"])
def test_a_sample_of_other_data_is_refused(copy, data, missing, capsys):
    """Its submission would be nothing but priors."""
    before = (copy / "submission.csv").read_bytes()
    sample = pd.read_csv(data / SAMPLE)
    others = sample.assign(
        ID=sample["ID"]
        .str.replace("ID_", "ID_f", n=1)
        .str.replace(r"^ID_f(.{8}).", r"ID_f\1", regex=True)
    )
    mixed = pd.concat([others.iloc[: len(sample) - 12], sample.iloc[-12:]])  # two of five slices
    recipe = yaml.safe_load((copy / "recipe.yaml").read_text())
    recipe["data"] |= {"sample": str(data / SAMPLE), "missing": missing}
    (copy / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    for foreign in (others, mixed):
        foreign.to_csv(data / SAMPLE, index=False)
        assert run.main(["submit", f"--run={copy}"]) == 1
        line = error_line(capsys)
        assert line.count("\n") == 1 and ("it belongs to other data" in line) == (
            missing == "prior"
        ), line
        assert (copy / "submission.csv").read_bytes() == before


@pytest.mark.parametrize(("spoilt", "status"), [(5, 1), (3, 1), (2, 0)])
def test_a_mostly_unreadable_test_set_is_refused_before_training(
    data, tmp_path, spoilt, status, capsys
):
    """Its submission would be mostly priors. A few quarantined files get the prior."""
    r, files = tmp_path / "r", sorted((data / "stage_2_test").iterdir())
    assert len(files) == 5
    for path in files[:spoilt]:
        path.write_bytes(b"x")
    assert new(r, data) == 0
    assert run.main(["ingest", f"--run={r}", "--workers=1"]) == status
    if status:
        line = error_line(capsys)
        assert (
            f"{spoilt} of the 5 slices" in line
            and f"test/{files[0].stem}, " in line
            and "--missing=prior" in line
        ), line
        assert not (r / "slices.parquet").exists()
        assert run.main(["ingest", f"--run={r}", "--workers=1", "--missing=prior"]) == 0


def test_a_mostly_quarantined_sample_is_refused_unless_missing_is_prior(finished):
    slices, kept = read_table(finished / "slices.parquet"), Run(finished)
    test = slices.index[slices["split"] == "test"]
    quarantine = pd.DataFrame(
        {"slice_id": test, "split": "test", "kind": "header", "reason": "no DICOM"}
    )
    match = partial(match_sample, kept.find_sample(), kept.pseudonym_key())
    with pytest.raises(
        InputError,
        match=f"^3 of the 5 slices of the sample .* test/{test[0]}, no DICOM; .*--missing=prior",
    ):
        match(test[3:], quarantine[:3], "refuse")
    assert (
        len(match(test[3:], quarantine[:3], "prior")[3]) == 3
        and len(match(test[2:], quarantine[:2], "refuse")[3]) == 2
    )


@pytest.mark.parametrize("part", ["few studies of the whole sample", "a sample of few studies"])
def test_a_part_of_the_data_is_accepted(copy, data, part):
    sample = pd.read_csv(data / SAMPLE)
    if part == "a sample of few studies":
        sample = sample.iloc[:6]
    else:
        more = [
            sample.assign(ID=f"ID_{number:09x}_" + sample["ID"].str.rsplit("_", n=1).str[1]).iloc[
                :6
            ]
            for number in range(90)
        ]
        sample = pd.concat([sample, *more])
    sample.to_csv(data / SAMPLE, index=False)
    recipe = yaml.safe_load((copy / "recipe.yaml").read_text())
    recipe["data"] |= {"sample": str(data / SAMPLE), "missing": "prior"}
    (copy / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert run.main(["submit", f"--run={copy}"]) == 0
    assert len(pd.read_csv(copy / "submission.csv")) == len(sample)


def test_a_damaged_copy_of_a_slice_does_not_replace_it(data, tmp_path):
    first = sorted((data / "stage_2_train").iterdir())[0]
    (first.parent / "0 damaged.dcm").write_bytes(first.read_bytes()[:-20])
    assert new(tmp_path / "r", data) == 0
    assert run.main(["ingest", f"--run={tmp_path / 'r'}", "--workers=1"]) == 0
    taken = read_table(tmp_path / "r" / "slices.parquet").loc[first.stem]
    assert taken["readable"] and taken["path"] == f"stage_2_train/{first.name}"
    reasons = pd.read_csv(tmp_path / "r" / "quarantine.csv").set_index("path")["reason"]
    assert reasons["stage_2_train/0 damaged.dcm"] == f"same SOPInstanceUID as {taken['path']}"


def test_one_process_at_a_time(copy, capsys):
    with file_lock(copy / ".lock"):
        assert run.main(["all", f"--run={copy}"]) == 1
    assert "another process works on this run" in error_line(capsys)


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")  # the example's own ids are no UIDs
def test_own_identifiers_become_pseudonyms(data, tmp_path, capsys):
    """Own UIDs and names reach no table, cache, report or log; the submission has sample ids."""
    import pydicom

    new_id, folder = {}, data / "stage_2_train" / "DOE_JANE"
    folder.mkdir()
    for number, path in enumerate(sorted(data.glob("stage_2_*/*.dcm"))):
        dataset = pydicom.dcmread(path)
        new_id[path.stem] = dataset.SOPInstanceUID = f"1.2.752.24.7.{number}"
        dataset.PatientID = f"DOE-{dataset.PatientID}"
        dataset.PatientName, dataset.PatientBirthDate = "DOE^JANE", "19521107"
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = (
            f"1.2.752.24.8.{dataset.StudyInstanceUID}",
            "1.2.752.24.9",
        )
        where = folder if path.parent.name == "stage_2_train" else path.parent
        path.unlink()
        dataset.save_as(where / f"{new_id[path.stem]}.dcm")
    for name in ("stage_2_train.csv", SAMPLE):
        rewrite(
            data / name,
            lambda r: r.assign(ID=[new_id[i] + "_" + k for i, k in r["ID"].str.rsplit("_", n=1)]),
        )
    (folder / "scan.txt").write_text("no DICOM")
    assert new(tmp_path / "r", data) == 0
    assert run.main(["all", f"--run={tmp_path / 'r'}", "--workers=1"]) == 0
    out = capsys.readouterr().out
    sample = pd.read_csv(data / SAMPLE)
    assert list(pd.read_csv(tmp_path / "r" / "submission.csv")["ID"]) == list(sample["ID"])
    slices = read_table(tmp_path / "r" / "slices.parquet")
    assert slices.index.str.fullmatch("[0-9a-f]{12}").all() and len(slices) == 40
    assert (
        len(json.loads((tmp_path / "r" / "ingest.json").read_text())["patients_in_both_sets"]) == 1
    )
    for secret in ("1.2.752", "DOE", "JANE", "19521107"):
        assert secret not in out
        for path in (p for p in (tmp_path / "r").rglob("*") if p.is_file()):
            # the file to look for; the sample's own ids
            named = path.name in ("quarantine.csv", "submission.csv")
            content = path.read_bytes()
            if path.suffix == ".html":  # a PNG's base64 may hold any word
                content = re.sub(rb"iVBORw0KGgo[A-Za-z0-9+/=]*", b"", content)
            assert named or secret.encode() not in content, (secret, path)
    for path in (tmp_path / "r").rglob("*.parquet"):  # compressed: look inside
        assert (
            not read_table(path)
            .reset_index()
            .astype(str)
            .apply(lambda c: c.str.contains("1.2.752", regex=False))
            .any(axis=None)
        )


def test_the_source_may_be_moved_away(copy, tmp_path, capsys):
    """Stages that have read it stay fresh; a stage that must read it again is refused."""
    recipe = yaml.safe_load((copy / "recipe.yaml").read_text())
    recipe["data"]["source"] = str(tmp_path / "gone")
    (copy / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert run.main(["status", f"--run={copy}"]) == 0
    (copy / "receipts" / "submit.json").unlink()
    assert run.main(["status", f"--run={copy}"]) == 0
    out = capsys.readouterr().out
    assert "submit    missing" in out


@pytest.mark.parametrize("names", [("labels",), ("sample",), ("labels", "sample")])
def test_csv_files_outside_the_data_may_be_moved_away(copy, competition, names, tmp_path, capsys):
    """The folders are unchanged, and the digests of the csv files are in the receipts."""
    recipe = yaml.safe_load((copy / "recipe.yaml").read_text())
    recipe["data"] |= dict.fromkeys(names, str(tmp_path / "gone.csv"))
    (copy / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    for path in (copy / "receipts").glob("*.json"):  # as if they had lain there when they were read
        receipt = json.loads(path.read_text())
        read = receipt["recipe"]
        read |= {
            f"data.{name}": str(tmp_path / "gone.csv") for name in names if f"data.{name}" in read
        }
        read.get("data", {}).update(dict.fromkeys(names, str(tmp_path / "gone.csv")))
        path.write_text(json.dumps(receipt))
    assert {kind for kind, _ in stage_states(Run(copy)).values()} == {"fresh"}
    (copy / "receipts" / "ingest.json").unlink()
    assert run.main(["ingest", f"--run={copy}", "--workers=1"]) == 1
    assert (
        f"gone.csv does not exist or is no file; put it there or name it with --{names[0]}"
        in capsys.readouterr().err
    )


def test_a_zip_gives_the_same_submission_as_its_folder(
    competition, finished, stacking, tmp_path, capsys, monkeypatch
):
    archive, r = pack(competition, tmp_path / "kaggle.zip", "rsna/"), tmp_path / "r"
    before = os.stat(archive)
    assert new(r, archive, recipe=stacking) == 0
    assert run.main(["all", f"--run={r}", "--workers=1"]) == 0
    assert (r / "submission.csv").read_bytes() == (finished / "submission.csv").read_bytes()
    for name in (
        "slices.parquet",
        "quarantine.csv",
        "ingest.json",
        *(f"pixels/{p.name}" for p in (r / "pixels").iterdir()),
    ):
        assert (r / name).read_bytes() == (finished / name).read_bytes(), name
    files = [{str(p.relative_to(root)) for p in root.rglob("*")} for root in (r, finished)]
    assert files[0] == files[1] and not [name for name in files[0] if name.endswith(".part")]
    assert os.stat(archive).st_mtime_ns == before.st_mtime_ns and sorted(os.listdir(tmp_path)) == [
        "kaggle.zip",
        "r",
    ]

    def refuse(path):
        raise AssertionError(
            "the directory of a zip takes seconds to read, and nothing asked for it"
        )

    monkeypatch.setattr(ct.kaggle_layout, "open_zip", refuse)
    assert run.main(["all", f"--run={r}"]) == 0 and run.main(["status", f"--run={r}"]) == 0
    assert "everything is fresh" in capsys.readouterr().out
    os.utime(archive, (1, 1))
    states = stage_states(Run(r))
    assert states["ingest"] == ("stale", "zip archive changed") and states["submit"][0] == "stale"


def test_csv_files_outside_a_zip(competition, tmp_path, capsys):
    (tmp_path / "sample.csv").write_bytes((competition / SAMPLE).read_bytes())
    (tmp_path / "labels.csv").write_bytes((competition / "stage_2_train.csv").read_bytes())
    archive, r = pack(competition, tmp_path / "kaggle.zip"), tmp_path / "r"
    assert (
        new(
            r, archive, f"--labels={tmp_path / 'labels.csv'}", f"--sample={tmp_path / 'sample.csv'}"
        )
        == 0
    )
    assert run.main(["ingest", f"--run={r}", "--workers=1"]) == 0
    rewrite(tmp_path / "labels.csv", lambda rows: rows[::-1])
    assert stage_states(Run(r))["ingest"] == ("stale", "label csv changed")
    (tmp_path / "labels.csv").unlink()  # moved away: what was read of it is known
    assert run.main(["status", f"--run={r}"]) == 0
    (r / "receipts" / "ingest.json").unlink()  # and now it is not
    capsys.readouterr()
    assert run.main(["status", f"--run={r}"]) == 1
    assert (
        "labels.csv does not exist or is no file; put it there or name it with --labels"
        in error_line(capsys)
    )


def test_half_a_zip_is_refused_by_new(competition, tmp_path, capsys):
    archive = pack(competition, tmp_path / "kaggle.zip")
    archive.write_bytes(archive.read_bytes()[:-99])
    assert new(tmp_path / "r", archive) == 1
    assert "no whole zip archive" in error_line(capsys) and not (tmp_path / "r").exists()


def test_train_slices_takes_whole_patients_and_prints_it(
    competition, finished, tmp_path, capsys, monkeypatch
):
    whole = read_table(finished / "slices.parquet")
    read, hu = [], ct.pixel_cache.writer.read_hu
    monkeypatch.setattr(
        ct.pixel_cache.writer, "read_hu", lambda file: read.append(file) or hu(file)
    )
    assert new(tmp_path / "r", competition, "--train-slices=17") == 0
    assert run.main(["ingest", f"--run={tmp_path / 'r'}", "--workers=1"]) == 0
    slices = read_table(tmp_path / "r" / "slices.parquet")
    train, sizes = (
        slices[slices["split"] == "train"],
        whole[whole["split"] == "train"].groupby("patient_id").size(),
    )
    # the pixels of the others are not read
    assert 0 < len(train) <= 17 and len(read) == len(slices)
    assert train.groupby("patient_id").size().eq(sizes).sum() == train["patient_id"].nunique()
    assert (slices["split"] == "test").sum() == (whole["split"] == "test").sum()
    order = sorted(sizes.index, key=lambda p: hashlib.blake2b(p.encode(), digest_size=16).digest())
    taken = train["patient_id"].nunique()
    assert set(train["patient_id"]) == set(order[:taken]) and len(train) + sizes[order[taken]] > 17
    counts = json.loads((tmp_path / "r" / "ingest.json").read_text())
    assert (
        counts["slices_not_taken"] == 35 - len(train)
        and counts["patients_not_taken"] == len(sizes) - taken
    )
    assert counts["labels_without_file"] == 0 and counts["train_slices"] == len(train)
    expected = f"{35 - len(train)} train slices of {len(sizes) - taken} patients not used"
    assert f"{expected} (data.train_slices)" in capsys.readouterr().out
    recipe = yaml.safe_load((tmp_path / "r" / "recipe.yaml").read_text())
    recipe["data"]["train_slices"] = 3
    (tmp_path / "r" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert stage_states(Run(tmp_path / "r"))["ingest"] == (
        "stale",
        "recipe changed, data.train_slices: 17 -> 3",
    )
    assert run.main(["ingest", f"--run={tmp_path / 'r'}"]) == 1
    assert "data.train_slices = 3 takes no whole patient" in error_line(capsys)


def test_more_train_slices_take_the_same_patients_and_more():
    rows = [(f"ID_{p}", f"P{p}", "train") for p in range(50) for _ in range(1 + p % 7)]
    slices = pd.DataFrame(rows, columns=["slice_id", "patient_id", "split"])
    before = set()
    for number in (10, 40, 41, 100, 191, 1000):
        kept, counts = take_patients(slices, number)
        assert before <= set(kept["patient_id"]) and len(kept) <= number
        assert counts["slices_not_taken"] == len(slices) - len(kept)
        before = set(kept["patient_id"])
    assert len(kept) == len(slices) and take_patients(slices, None)[0] is slices


def test_changed_counts_of_ingest_retrain_nothing(copy, data, capsys):
    """A duplicate row of the label csv changes ingest.json, but neither slices nor pixels."""
    recipe = yaml.safe_load((copy / "recipe.yaml").read_text())
    recipe["data"]["source"] = str(data)
    (copy / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    rewrite(data / "stage_2_train.csv", lambda r: pd.concat([r, r.iloc[:1]]))
    assert run.main(["all", f"--run={copy}", "--workers=1"]) == 0
    out = capsys.readouterr().out
    for stage in ("folds", "train", "predict", "features", "tune", "stack"):
        assert f"{stage}: fresh" in out
    assert "1 identical duplicate row of the" in out


def test_the_data_section_of_a_recipe_is_kept(competition, tmp_path):
    recipe = yaml.safe_load(find_recipe("micro").read_text())
    recipe["data"] = {"missing": "prior", "allow_unlabelled": True}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    flags = ["--missing=refuse", "--allow-unlabelled=false"]
    assert new(tmp_path / "a", competition, recipe=tmp_path / "mine.yaml") == 0
    assert new(tmp_path / "b", competition, *flags, recipe=tmp_path / "mine.yaml") == 0
    as_written, with_flags = (
        yaml.safe_load((tmp_path / name / "recipe.yaml").read_text())["data"] for name in "ab"
    )
    assert (as_written["missing"], as_written["allow_unlabelled"]) == ("prior", True)
    assert (with_flags["missing"], with_flags["allow_unlabelled"]) == ("refuse", False)


def test_new_refuses_a_backbone_that_does_not_fit_the_images(
    competition, finished, tmp_path, capsys
):
    recipe = yaml.safe_load((finished / "recipe.yaml").read_text())
    # made for 160 x 160 pixels, and no others
    recipe["stage1"]["models"][0]["backbone"] = "test_vit"
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    assert new(tmp_path / "r", competition, recipe=tmp_path / "mine.yaml") == 1
    assert "image_size" in error_line(capsys)
    assert not (tmp_path / "r").exists()
