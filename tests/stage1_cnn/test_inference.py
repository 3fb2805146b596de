"""Predictions of a CNN: order, neighbours, unreadable slices, views, batch size, precision."""

import numpy as np
import pytest
import torch
from cnn_slices import make_slices, reader
from scipy.special import expit

from ct.errors import InputError
from stage1_cnn.batches.dataset import neighbour_rows
from stage1_cnn.config import CnnConfig
from stage1_cnn.device import autocast_type, pick_device, torch_settings
from stage1_cnn.inference import predict
from stage1_cnn.model import build_model


def config(**values):
    """Return a small CnnConfig."""
    return CnnConfig(
        **({"name": "a", "backbone": "test_resnet", "threads": 1, "batch": 8} | values)
    )


@pytest.fixture(scope="module")
def model():
    """Return a CNN of one neighbour on each side, whose batch norms have statistics."""
    model = build_model(config(neighbours=1), seed=1)
    with torch.no_grad():
        model.train()(torch.randn(16, 9, 32, 32))
    return model


def predict_rows(model, slices, rows, read_hu, config, progress=None):
    """Predict rows of a slice table."""
    rows = np.asarray(rows, int)
    readable = slices["readable"].to_numpy(bool)[rows]
    return predict(
        model, neighbour_rows(slices, config.neighbours)[rows], readable, read_hu, config, progress
    )


def test_rows_come_back_in_their_order_whatever_the_batch(model):
    slices, hu = make_slices(3, 6)
    rows = np.array([11, 2, 7, 3, 17])
    logits, embeddings = predict_rows(model, slices, rows, reader(hu), config(neighbours=1))
    assert logits.shape == (5, 6)
    assert logits.dtype == np.float32
    assert embeddings.shape == (5, model.width)
    assert embeddings.dtype == np.float16
    older = predict_rows(
        model, slices, rows, reader(hu), config(neighbours=1, outputs="probabilities")
    )[0]
    np.testing.assert_allclose(older, expit(logits), atol=1e-6)  # as older versions kept them
    everything, _ = predict_rows(model, slices, np.arange(18), reader(hu), config(neighbours=1))
    singly, _ = predict_rows(model, slices, rows, reader(hu), config(neighbours=1, batch=2))
    np.testing.assert_allclose(logits, everything[rows], atol=1e-5)
    np.testing.assert_allclose(logits, singly, atol=1e-5)
    assert len(np.unique(logits[:, 0])) == 5


def test_neighbours_change_the_prediction_and_stay_in_the_series(model):
    slices, hu = make_slices(2, 4)
    before, _ = predict_rows(model, slices, np.arange(8), reader(hu), config(neighbours=1))
    hu = hu.copy()
    hu[3] = 80
    after, _ = predict_rows(model, slices, np.arange(8), reader(hu), config(neighbours=1))
    assert np.flatnonzero((before != after).any(axis=1)).tolist() == [2, 3]


def test_unreadable_slices_are_nan_and_never_read(model):
    slices, hu = make_slices(2, 4)
    slices.iloc[[1, 4], slices.columns.get_loc("readable")] = False
    calls, steps = [], []
    logits, embeddings = predict_rows(
        model, slices, np.arange(8), reader(hu, calls), config(neighbours=1, batch=4), steps.append
    )
    assert np.flatnonzero(np.isnan(logits).all(axis=1)).tolist() == [1, 4]
    assert np.isnan(embeddings[[1, 4]]).all()
    assert np.isfinite(logits[[0, 2, 3, 5, 6, 7]]).all()
    assert not {1, 4} & {number for call in calls for number in call}
    assert steps == [4, 2]


def test_nothing_to_predict_gives_empty_arrays(model):
    slices, hu = make_slices(1, 4)
    logits, embeddings = predict_rows(
        model, slices, np.array([], int), reader(hu), config(neighbours=1)
    )
    assert logits.shape == (0, 6)
    assert embeddings.shape == (0, model.width)


def test_the_torch_settings_are_restored():
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with pytest.raises(KeyError), torch_settings(config(threads=before[0] + 1)):
        assert torch.get_num_threads() == before[0] + 1
        assert torch.are_deterministic_algorithms_enabled()
        raise KeyError
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before


def test_the_device_is_the_chosen_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [pick_device(choice).type for choice in ("auto", "cpu")] == ["cpu", "cpu"]
    with pytest.raises(InputError, match="torch finds no CUDA device here"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [pick_device(choice).type for choice in ("auto", "cpu", "cuda")] == [
        "cuda",
        "cpu",
        "cuda",
    ]


def test_views_are_averaged_as_logits(model):
    slices, hu = make_slices(2, 4)
    rows = np.arange(8)

    def logit(**values):
        logits, embeddings = predict_rows(
            model, slices, rows, reader(values.pop("hu", hu)), config(neighbours=1, **values)
        )
        return logits, embeddings.astype(np.float32)

    plain, mirrored = logit(), logit(hu=np.ascontiguousarray(hu[:, :, ::-1]))
    back = slices.assign(place=[3, 2, 1, 0] * 2)  # the same neighbours, in reverse
    logits, embeddings = predict_rows(model, back, rows, reader(hu), config(neighbours=1))
    reversed_ = logits, embeddings.astype(np.float32)
    got = logit(tta=("flip", "reverse"))
    for part in (0, 1):
        np.testing.assert_allclose(
            got[part], (plain[part] + mirrored[part] + reversed_[part]) / 3, atol=2e-3
        )
    assert np.abs(got[0] - plain[0]).max() > 1e-3


class Small(torch.nn.Module):
    """A CNN on a device whose memory holds `most` slices."""

    def __init__(self, model, most):
        super().__init__()
        self.model, self.most, self.width, self.batches = model, most, model.width, []

    def forward(self, images):
        if len(images) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        self.batches.append(len(images))
        return self.model(images)


def test_too_large_a_batch_is_halved_until_it_fits(model):
    slices, hu = make_slices(2, 5)
    small = Small(model, 3)
    logits, _ = predict_rows(small, slices, np.arange(10), reader(hu), config(neighbours=1))
    assert small.batches == [2] * 5
    np.testing.assert_allclose(
        logits,
        predict_rows(model, slices, np.arange(10), reader(hu), config(neighbours=1))[0],
        atol=1e-5,
    )
    with pytest.raises(InputError, match="one slice does not fit"):
        predict_rows(Small(model, 0), slices, np.arange(10), reader(hu), config(neighbours=1))


@pytest.mark.parametrize(
    ("precision", "kind"),
    [("auto", None), ("fp32", None), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_precision_on_the_cpu(model, precision, kind):
    assert autocast_type(config(precision=precision), torch.device("cpu")) == kind
    slices, hu = make_slices(1, 4)
    full, _ = predict_rows(model, slices, np.arange(4), reader(hu), config(neighbours=1))
    got, _ = predict_rows(
        model, slices, np.arange(4), reader(hu), config(neighbours=1, precision=precision)
    )
    np.testing.assert_allclose(got, full, atol=0.05)
    assert (kind is None) == np.array_equal(got, full)
