"""Bins of the features in files: made once, the same models, and remade where they are damaged."""

import threading

import numpy as np
import pytest

from ct.run_dir import RunDir
from ct.storage.file_formats import write_array
from ct.storage.sealed_files import seal_path
from pipeline.stage_data.binned_files import FEATURES, BinnedFiles
from stage2_stack.components.pooled_features import PooledFeatures
from stage2_stack.learners.binned_features import BinnedFeatures
from stage2_stack.learners.lightgbm_booster import fit_booster
from stage2_stack.tuning.inner_cv import InnerFolds
from stage2_stack.tuning.search_space import FIRST

NAMES = ["any", "any_z-1", "any_z+1", "tilt_deg"]
ROWS, EVERY = np.arange(0, 300, 2), np.arange(4)


@pytest.fixture
def run(tmp_path):
    """A run folder whose features have missing values and a constant column."""
    X = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    X[::7, 1] = np.nan
    X[:, 3] = 2
    write_array(tmp_path / FEATURES, X)
    return RunDir(tmp_path)


class CountedFeatures(BinnedFeatures):
    """Counts how often columns are binned."""

    made = 0

    def _matrices(self, columns):
        self.made += 1
        return super()._matrices(columns)


def features_of(run, read=None, threads=1, tail_bins=0):
    X = np.load(run.root / FEATURES)
    return CountedFeatures(X, NAMES, threads, BinnedFiles(run, read or {}, threads), tail_bins)


def model_of(features, columns=EVERY):
    y, base = (ROWS % 3 == 0).astype(float), np.linspace(-1, 0, len(ROWS))
    data = features.dataset(columns, ROWS, y, base)
    return fit_booster(data, FIRST | {"min_data_in_leaf": 2}, 5, 1, 1)[0].model_to_string()


def test_other_objects_read_the_bins_and_fit_the_same_models(run):
    X = np.load(run.root / FEATURES)
    for columns in (EVERY, EVERY[1:3]):
        expected = model_of(BinnedFeatures(X, NAMES), columns)
        several = [features_of(run, threads=threads) for threads in (1, 2)]
        assert [model_of(features, columns) for features in several] == [expected, expected]
        assert [features.made for features in several] == [1, 0]
    assert len(list(run.binned.rglob("*.bin"))) == 2


@pytest.mark.parametrize("tail_bins", [0, 9])
def test_bins_that_are_made_in_parts_are_one_file(run, monkeypatch, tail_bins):
    X = np.load(run.root / FEATURES)
    expected = model_of(BinnedFeatures(X, NAMES, tail_bins=tail_bins))
    monkeypatch.setattr("stage2_stack.learners.binned_features.COLUMNS_AT_ONCE", 3)
    several = [model_of(features_of(run, tail_bins=tail_bins)) for _ in range(2)]
    assert several == [expected, expected]
    assert len(list(run.binned.rglob("*.bin"))) == 1


def test_bins_that_are_narrow_in_the_tails_have_files_of_their_own(run):
    X = np.load(run.root / FEATURES)
    expected = [model_of(BinnedFeatures(X, NAMES, tail_bins=bins)) for bins in (0, 9)]
    assert expected[0] != expected[1]
    for made in (1, 0):
        several = [features_of(run, tail_bins=bins) for bins in (0, 9)]
        assert [model_of(features) for features in several] == expected
        assert [features.made for features in several] == [made, made]
    assert len(list(run.binned.rglob("*.bin"))) == 2


def test_pooled_rows_have_files_of_their_own(run):
    names = [f"{label}{kind}" for kind in ("", "_z-1") for label in ("any", "subdural")]
    labels = ("epidural", "intraparenchymal", "intraventricular", "subarachnoid")
    X = np.random.default_rng(1).normal(size=(300, 12)).astype(np.float32)
    names += [f"{label}{kind}" for kind in ("", "_z-1") for label in labels]
    stored, plain = (
        PooledFeatures(X, names, 1, store) for store in (BinnedFiles(run, {}, 1), None)
    )
    every = np.arange(len(stored.names))
    assert model_of(stored, every) == model_of(plain, every)


def test_processes_that_need_the_same_bins_wait_for_them(run):
    several, models = [features_of(run) for _ in range(4)], []
    threads = [
        threading.Thread(target=lambda each=each: models.append(model_of(each))) for each in several
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(models) == 4 and len(set(models)) == 1
    assert sum(features.made for features in several) == 1


@pytest.mark.parametrize("damage", ["a byte", "cut", "no seal", "another seal", "empty"])
def test_damaged_bins_never_reach_lightgbms_parser(run, damage):
    expected = model_of(features_of(run))
    (path,) = run.binned.rglob("*.bin")
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    if damage == "no seal":
        seal_path(path).unlink()
    elif damage == "another seal":
        seal_path(path).write_text("0" * 32)
    else:
        path.write_bytes({"a byte": raw, "cut": raw[:-9], "empty": b""}[damage])
    again = features_of(run)
    assert model_of(again) == expected and again.made == 1


def test_other_features_are_binned_again_and_their_old_bins_removed(run):
    model_of(features_of(run))
    model_of(features_of(run), EVERY[:2])
    write_array(run.root / FEATURES, np.load(run.root / FEATURES) + 1)
    again = features_of(run)
    model_of(again)
    assert again.made == 1 and len(list(run.binned.rglob("*.bin"))) == 1
    by_digest = features_of(run, {FEATURES: "0" * 32})  # as a stage that knows the digest
    model_of(by_digest)
    assert by_digest.made == 1 and [path.name for path in run.binned.iterdir()] == ["0" * 32]


def test_a_search_on_many_rows_holds_the_bins_of_one_scope(run, monkeypatch):
    monkeypatch.setattr("stage2_stack.tuning.inner_cv.MAX_BINNED_BYTES", 0)
    from stage2_stack.config import StackConfig

    y, losses = (ROWS % 3 == 0).astype(float), {}
    for name, features in (("stored", features_of(run)), ("plain", features_of(run))):
        features.store = features.store if name == "stored" else None
        folds = InnerFolds(features, ROWS, y, ROWS % 4, "any", StackConfig(max_rounds=3), 0)
        scopes = ("context", "all", "context")
        losses[name] = [folds.evaluate(FIRST | {"scope": scope}) for scope in scopes]
        # without files, binning again would take long
        assert len(features._binned_columns) == (1 if name == "stored" else 2)
    assert losses["stored"] == losses["plain"]
