"""Training: what it learns from, what it refuses, and that it repeats."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cnn_slices import make_slices, reader
from safetensors.torch import load, save

from ct.errors import InputError
from ct.labels import LABELS, WEIGHTS
from ct.metrics import weighted_log_loss
from stage1_cnn.config import CnnConfig
from stage1_cnn.model import load_model
from stage1_cnn.predict import predict
from stage1_cnn.train import fold_rows, learning_rate, train_fold, weighted_bce


def config(**values):
    """A CnnConfig that trains in a second."""
    small = {"name": "a", "backbone": "test_resnet", "threads": 1, "batch": 16, "epochs": 1, "windows": ("brain",), "lr": 3e-3}
    return CnnConfig(**(small | values))


def data(patients=10, each=4):
    """Slices, pictures, and two folds by patient."""
    slices, hu = make_slices(patients, each)
    return slices, hu, (np.arange(len(slices)) // each) % 2


def digest(state):
    """A hash of all weights."""
    return hashlib.sha256(b"".join(state[name].numpy().tobytes() for name in sorted(state))).hexdigest()


def test_training_rows_are_readable_labelled_and_of_other_folds():
    slices, _, fold = data(4)
    slices.iloc[4, slices.columns.get_loc("readable")] = False
    slices.iloc[5, slices.columns.get_loc("epidural")] = np.nan
    slices.iloc[12:, slices.columns.get_loc("split")] = "test"  # patient 3, who has a fold all the same
    train, held = fold_rows(slices, fold, 0)
    assert train.tolist() == [6, 7]
    assert held.tolist() == [*range(4), *range(8, 12)]
    assert fold_rows(slices, fold, 1)[1].tolist() == [4, 5, 6, 7]  # held out, whatever they lack


def test_a_patient_on_both_sides_raises_the_alarm():
    slices, hu, fold = data()
    fold[0] = 1
    with pytest.raises(ValueError, match="patient ID_00 is in fold 1"):
        train_fold(slices, fold, 1, reader(hu), config(), seed=0)


def test_nothing_to_train_on_is_the_user_s_to_mend():
    slices, hu, fold = data(2)
    slices[list(LABELS)] = np.float32(np.nan)
    with pytest.raises(InputError, match="fold 1 leaves 0"):
        train_fold(slices, fold, 1, reader(hu), config(), seed=0)


def test_the_loss_is_the_metric():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(20, 6)), (rng.random((20, 6)) < 0.3).astype(float)
    loss = weighted_bce(torch.tensor(logits), torch.tensor(labels), torch.tensor(WEIGHTS))
    assert loss.item() == pytest.approx(weighted_log_loss(labels, 1 / (1 + np.exp(-logits))))


def test_the_rate_rises_then_falls_to_nearly_nothing():
    c = config(lr=1.0, warmup=0.2)
    rates = [learning_rate(step, 50, c) for step in range(50)]
    assert rates[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert rates[10] == 1.0
    assert rates[30] == pytest.approx(0.5)  # half way down the cosine
    assert 0 < rates[-1] < 0.01
    assert (np.diff(rates[10:]) < 0).all()
    assert learning_rate(0, 1, config(lr=1.0, warmup=0.0)) == 1.0


def test_a_planted_blob_is_learned():
    slices, hu, fold = data(40)
    result = train_fold(slices, fold, 0, reader(hu), config(epochs=6), seed=0)  # 30 steps
    losses = [epoch["train_loss"] for epoch in result.curve]
    assert losses[-1] < 0.5 * losses[0]
    labels = slices[list(LABELS)].to_numpy()[result.rows]
    assert result.curve[-1]["held_out_loss"] == pytest.approx(weighted_log_loss(labels, result.probs), rel=1e-5)
    assert result.probs[labels == 1].mean() > result.probs[labels == 0].mean() + 0.3


def test_what_it_returns():
    slices, hu, fold = data()
    slices.iloc[2, slices.columns.get_loc("readable")] = False
    slices.iloc[3, [slices.columns.get_loc(label) for label in LABELS]] = np.nan
    seen, calls = [], []
    result = train_fold(slices, fold, 0, reader(hu, calls), config(epochs=2, neighbours=1), 0, lambda *at: seen.append(at[:3]))
    assert result.rows.tolist() == np.flatnonzero(fold == 0).tolist()
    assert np.flatnonzero(np.isnan(result.probs).all(axis=1)).tolist() == [2]
    assert np.flatnonzero(np.isnan(result.embeddings).all(axis=1)).tolist() == [2]
    assert np.isfinite(result.probs[3]).all()  # unlabelled, but seen
    assert 2 not in {number for call in calls for number in call}
    assert seen == [(1, 1, 2), (1, 2, 2), (2, 1, 2), (2, 2, 2)]
    assert [list(epoch) for epoch in result.curve] == [["epoch", "lr", "train_loss", "held_out_loss", "seconds"]] * 2
    assert np.isfinite([list(epoch.values()) for epoch in result.curve]).all()
    model = load_model(config(neighbours=1), load(save(result.state)))
    probs, embeddings = predict(model, slices, result.rows, reader(hu), config(neighbours=1))
    np.testing.assert_array_equal(probs, result.probs)
    np.testing.assert_array_equal(embeddings, result.embeddings)


def test_held_out_labels_do_not_reach_the_weights():
    slices, hu, fold = data()
    first = train_fold(slices, fold, 0, reader(hu), config(), seed=0)
    slices.loc[slices.index[fold == 0], list(LABELS)] = np.float32(np.nan)
    hidden = train_fold(slices, fold, 0, reader(hu), config(), seed=0)
    assert digest(first.state) == digest(hidden.state)
    np.testing.assert_array_equal(first.probs, hidden.probs)
    assert hidden.curve[-1]["held_out_loss"] is None


@pytest.mark.parametrize("patients", [2, 9])  # 4 training slices; 16 + 1 after one is lost
def test_small_and_odd_training_sets_work(patients):
    slices, hu, fold = data(patients)
    fold[:] = np.arange(len(slices)) // 4 == 0
    if patients == 9:
        slices, hu, fold = slices.iloc[:21], hu[:21], fold[:21]
    result = train_fold(slices, fold, 1, reader(hu), config(), seed=0)
    assert np.isfinite(result.probs).all()


def test_a_loss_that_is_not_a_number_names_its_slices(monkeypatch):
    slices, hu, fold = data()
    monkeypatch.setattr("stage1_cnn.train.weighted_bce", lambda logits, labels, weights: logits.sum() * float("nan"))
    with pytest.raises(InputError, match=r"not a number in epoch 1, at a batch with the slices s\d+, s\d+, s\d+ and 13 more"):
        train_fold(slices, fold, 0, reader(hu), config(), seed=0)


FRESH = """
import sys; sys.path.insert(0, "tests")
from test_cnn_train import data, digest, full, reader, train_fold
slices, hu, fold = data()
result = train_fold(slices, fold, 1, reader(hu), full(), seed=3)
print(digest(result.state), digest({"p": __import__("torch").from_numpy(result.probs)}))
"""


def full():
    """Everything random at once: dropout, all augmentation, a shuffled order."""
    return config(epochs=2, dropout=0.3, neighbours=1, hu_shift=2, hu_noise=1)


def test_a_fold_is_the_same_bits_after_other_work_and_in_a_fresh_process():
    slices, hu, fold = data()
    other = train_fold(slices, fold, 0, reader(hu), full(), seed=3)
    torch.randn(100)
    torch.manual_seed(99)
    result = train_fold(slices, fold, 1, reader(hu), full(), seed=3)
    root = Path(__file__).resolve().parent.parent
    fresh = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True, check=True, cwd=root)
    assert fresh.stdout.split() == [digest(result.state), digest({"p": torch.from_numpy(result.probs)})]
    assert digest(other.state) != digest(result.state)
    assert digest(train_fold(slices, fold, 1, reader(hu), full(), seed=4).state) != digest(result.state)
