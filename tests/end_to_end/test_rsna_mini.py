"""The mini competition of real slices, from end to end with the recipe `small`."""

import json
import re
import shutil
import tarfile
import time

import browser_steps
import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from several_series import Head
from sklearn import metrics
from test_resume import kill_in

import run
from benchmarks.stacking.small_data import ROUNDING, of_run
from ct.labels import LABELS, WEIGHTS, read_labels
from ct.metrics import log_loss as loss_of
from ct.metrics import patient_bootstrap
from ct.storage.file_formats import read_array, read_table
from ct.storage.prediction_files import kind_of, read_predictions_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mini(tmp_path_factory, real_data):
    """A finished run of `small` on the mini competition."""
    folder = tmp_path_factory.mktemp("mini")
    with tarfile.open(real_data / "rsna_mini.tar.xz") as archive:
        archive.extractall(folder / "data", filter="data")
    assert (
        run.main(["new", f"--run={folder / 'r'}", "--recipe=small", f"--data={folder / 'data'}"])
        == 0
    )
    assert run.main(["all", f"--run={folder / 'r'}"]) == 0
    return folder / "r"


def test_every_slice_is_indexed_in_anatomical_order(mini):
    slices = read_table(mini / "slices.parquet")
    assert len(slices) == 350 and slices["study_id"].nunique() == 10
    assert (slices["split"] == "train").sum() == 280
    assert slices["readable"].all()
    for _, study in slices.groupby(["study_id", "series_id"]):
        assert study["position_mm"].is_monotonic_increasing
        assert list(study["place"]) == list(range(len(study)))
        # along the body axis the skull base comes before the vertex: there is less skull at the top
        assert study["skull_cm2"].iloc[:5].mean() > study["skull_cm2"].iloc[-2:].mean()
    assert slices[list(LABELS)].sum().to_dict() == {
        "any": 69,
        "epidural": 0,
        "intraparenchymal": 47,
        "intraventricular": 7,
        "subarachnoid": 31,
        "subdural": 21,
    }


def test_rare_labels_are_not_stacked_and_the_reason_is_kept(mini):
    slices = read_table(mini / "slices.parquet")
    train = slices[slices["split"] == "train"]
    configs, scores = (
        json.loads((mini / "stage2" / f"{name}.json").read_text()) for name in ("configs", "scores")
    )
    for label in LABELS:
        if train.loc[train[label] == 1, "patient_id"].nunique() < 3:
            assert not any(config["stacked"] for config in configs[label])
            assert all("positives" in config["why"] for config in configs[label])
    assert scores["stage_two"]["epidural"]["auc"] is None
    oof = read_table(mini / "stage2" / "oof.parquet")
    cnns = [
        read_predictions_of(path, oof.index)
        for path in sorted((mini / "stage1").glob("*/oof.parquet"))
    ]
    assert len(cnns) == 2 and {cnn.kind for cnn in cnns} == {"logits"}
    mean = np.mean([cnn.values[:, LABELS.index("epidural")] for cnn in cnns], axis=0)
    np.testing.assert_allclose(oof["epidural"], expit(mean), rtol=1e-5)  # the CNNs' as they are


def test_submission_and_report(mini):
    assert len(pd.read_csv(mini / "submission.csv")) == 420
    page = (mini / "report.html").read_text()
    assert "undefined" in page and "http://" not in page.replace("http://www.w3.org", "")


@browser_steps.NEEDED
def test_the_report_in_a_browser(mini, browser, tmp_path):
    """With the maps of one study, that of the costliest slice."""
    pytest.importorskip("captum", reason="captum is not installed: pip install -e '.[explain]'")
    copy = tmp_path / "r"
    shutil.copytree(mini, copy)
    study = re.search(r'href="#study=(\w+)&amp;slice=', (copy / "report.html").read_text())[1]
    for words in (["explain", f"--studies={study}", "--model=mobilenet"], ["report"]):
        assert run.main([*words, f"--run={copy}"]) == 0
    browser_steps.check_report(browser, (copy / "report.html").as_uri(), tmp_path)


def test_out_of_fold_predictions_are_complete(mini):
    slices, fold = read_table(mini / "slices.parquet"), read_table(mini / "folds.parquet")["fold"]
    train = slices.index[slices["split"] == "train"]
    for model in ("resnet10t", "mobilenet"):
        oof = read_table(mini / "stage1" / model / "oof.parquet")
        assert (
            oof.index.equals(train)
            and oof.notna().all(axis=None)
            and np.isfinite(oof).all(axis=None)
            and kind_of(oof) == "logits"
        )
        for k in range(3):
            held_out = read_table(mini / "stage1" / model / f"fold{k}" / "held_out.parquet")
            assert set(held_out.index) == set(train[fold[train] == k])
            assert held_out.equals(oof.loc[held_out.index])
            embeddings = read_array(
                mini / "stage1" / model / f"fold{k}" / "held_out_embeddings.npy"
            )
            assert (
                len(embeddings) == len(held_out)
                and embeddings.dtype == np.float16
                and np.isfinite(embeddings).all()
            )


def test_killed_many_times_in_training_it_gives_the_same_submission(mini, tmp_path):
    folder = shutil.copytree(mini, tmp_path / "r")
    shutil.rmtree(folder / "stage1")
    for name in ("train", "predict"):
        (folder / "receipts" / f"{name}.json").unlink()
    assert all(kill_in(folder, "train", wait) for wait in (6, 15, 25, 40))
    assert run.main(["train", f"--run={folder}"]) == 0
    for path in sorted((mini / "stage1").rglob("*")):
        if path.suffix in (".parquet", ".npy", ".safetensors") and not path.name.startswith("test"):
            assert path.read_bytes() == (folder / path.relative_to(mini)).read_bytes(), path.name


def test_score_of_a_test_study_alone_gives_the_same_numbers(mini, tmp_path):
    """Both test studies, from the run and from the packed model; then one of them alone."""
    expected, test = (
        read_table(mini / "stage2" / "test.parquet"),
        next(mini.parent.rglob("stage_2_test")),
    )
    assert run.main(["export-model", f"--run={mini}", f"--to={tmp_path / 'model'}"]) == 0
    for by in (f"--run={mini}", f"--model={tmp_path / 'model'}"):
        out = tmp_path / f"by{by.partition('=')[0]}"
        assert run.main(["score", f"--data={test}", f"--to={out}", by]) == 0
        scored = read_table(out / "slices.parquet")
        pd.testing.assert_frame_equal(
            scored[list(LABELS)], expected.loc[scored.index], check_exact=True
        )
        assert len(scored) == len(expected) == 70
        assert read_table(out / "studies.parquet")["status"].eq("scored").all()
    study = scored.index[scored["study_id"] == scored["study_id"].iloc[0]]
    for name in study:
        (tmp_path / "alone").mkdir(exist_ok=True)
        shutil.copy(test / f"{name}.dcm", tmp_path / "alone")
    assert run.main(["score", f"--data={tmp_path / 'alone'}", f"--to={tmp_path / 'one'}", by]) == 0
    alone = read_table(tmp_path / "one" / "slices.parquet")[list(LABELS)]
    np.testing.assert_allclose(alone, expected.loc[alone.index], atol=1e-6)
    assert len(alone) == len(study)


def test_score_weighs_the_cnns_as_the_run_does(mini, tmp_path, monkeypatch):
    """Fitted weights gain nothing significant with so few patients: here they count anyway."""
    folder = shutil.copytree(mini, tmp_path / "r")
    (folder / "receipts/features.json").unlink()
    monkeypatch.setattr("features.cnn_weights.lower_end", lambda *_: 1.0)
    for stage in ("features", "tune", "stack"):
        assert run.main([stage, f"--run={folder}"]) == 0
    weights = json.loads((folder / "stage2/features/cnn_weights.json").read_text())
    assert weights["of all folds"]["resnet10t"]["any"] != 0.5
    assert run.main(["export-model", f"--run={folder}", f"--to={tmp_path / 'model'}"]) == 0
    expected = read_table(folder / "stage2" / "test.parquet")
    before = read_table(mini / "stage2" / "test.parquet")
    assert not np.allclose(expected[list(LABELS)], before[list(LABELS)], atol=1e-4)
    test = next(mini.parent.rglob("stage_2_test"))
    for by in (f"--run={folder}", f"--model={tmp_path / 'model'}"):
        out = tmp_path / f"by{by.partition('=')[0]}"
        assert run.main(["score", f"--data={test}", f"--to={out}", by]) == 0
        scored = read_table(out / "slices.parquet")[list(LABELS)]
        pd.testing.assert_frame_equal(scored, expected.loc[scored.index], check_exact=True)


def test_a_head_of_several_series_has_the_probabilities_of_the_thick_soft_one(mini, tmp_path):
    """Beside thin, bone and contrast series it is read; without it the thin one, as slabs."""
    head = Head(next(mini.parent.rglob("stage_2_test")), number=1)  # slices 5 mm apart
    head.write_thick(tmp_path / "alone/thick")
    for folder, write in (("all", head.write_thick), ("thin", None)):
        head.write_others(tmp_path / folder)
        head.write_thin(tmp_path / folder / "thin")
        if write:
            write(tmp_path / folder / "thick")
    studies = {}
    for name in ("alone", "all", "thin"):
        words = [f"--run={mini}", f"--data={tmp_path / name}", f"--to={tmp_path / name}-scores"]
        assert run.main(["score", *words]) == 0
        studies[name] = read_table(tmp_path / f"{name}-scores/studies.parquet")[list(LABELS)]
    np.testing.assert_allclose(studies["all"], studies["alone"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(studies["thin"], studies["alone"], rtol=0, atol=0.02)
    slabs = read_table(tmp_path / "thin-scores/slabs.parquet")
    assert len(head.hu) - 2 <= len(slabs) <= len(head.hu)


def test_a_second_all_is_quick(mini, command):
    start = time.perf_counter()
    done = command("all", f"--run={mini}")
    assert done.returncode == 0 and "everything is fresh" in done.stdout
    assert time.perf_counter() - start < 10


@pytest.fixture(scope="module")
def part(mini, tmp_path_factory):
    """A finished run of `micro` on some patients of the mini competition."""
    data = next(mini.parent.rglob("stage_2_train")).parent
    folder = tmp_path_factory.mktemp("part") / "r"
    words = [f"--run={folder}", "--recipe=micro", f"--data={data}", "--train-slices=150"]
    assert run.main(["new", *words]) == 0
    assert run.main(["all", f"--run={folder}", "--workers=1"]) == 0
    return folder


@pytest.mark.parametrize("name", ["mini", "part"])
def test_stage_two_is_not_worse_than_the_cnns_mean(name, request):
    y, raw, _, final, patients = of_run(request.getfixturevalue(name))
    gain = (loss_of(y, raw) - loss_of(y, final)) @ WEIGHTS
    assert patient_bootstrap(gain, patients)[1] > -ROUNDING


def test_evaluate_on_held_out_studies_gives_scikit_learns_figures(mini, part, tmp_path, capsys):
    """A run of some patients alone, evaluated on the others; one of its own patients is refused."""
    data, folder = next(mini.parent.rglob("stage_2_train")).parent, part
    labels = data / "stage_2_train.csv"
    train = read_table(folder / "slices.parquet").query("split == 'train'")
    words = [f"--data={data / 'stage_2_train'}", f"--run={folder}", f"--to={tmp_path / 'out'}"]
    capsys.readouterr()
    assert run.main(["evaluate", *words, f"--labels={labels}"]) == 1
    assert train["patient_id"].iloc[0] in capsys.readouterr().err
    rows = pd.read_csv(labels)
    held_out = rows[~rows["ID"].str.rpartition("_")[0].isin(train.index)]
    held_out.to_csv(tmp_path / "labels.csv", index=False)
    assert run.main(["evaluate", *words, f"--labels={tmp_path / 'labels.csv'}"]) == 0
    scored = [f"--data={data / 'stage_2_train'}", f"--run={folder}", f"--to={tmp_path / 'scores'}"]
    assert run.main(["score", *scored]) == 0
    truth = read_labels(tmp_path / "labels.csv")[0]
    p = read_table(tmp_path / "scores" / "slices.parquet").loc[truth.index]
    levels = {
        "slices": (truth, p),
        "studies": (
            truth.groupby(p["study_id"]).max(),
            read_table(tmp_path / "scores" / "studies.parquet").loc[sorted(set(p["study_id"]))],
        ),
    }
    values = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    for level, (y, p) in levels.items():
        assert values[level]["rows"] == len(y) > 1
        for label in LABELS:
            figures = values[level]["labels"][label]
            loss = metrics.log_loss(y[label], p[label], labels=[0, 1])
            assert figures["log_loss"]["value"] == pytest.approx(loss, abs=1e-5)
            if 0 < y[label].sum() < len(y):
                area = metrics.roc_auc_score(y[label], p[label])
                assert figures["auc"]["value"] == pytest.approx(area, abs=1e-3)
