"""What a trained CNN says about slices."""

import numpy as np
import pytest
import torch
from cnn_slices import make_slices, reader

from stage1_cnn.config import CnnConfig
from stage1_cnn.model import build_model
from stage1_cnn.predict import predict, torch_as_set


def config(**values):
    """A small CnnConfig."""
    return CnnConfig(**({"name": "a", "backbone": "test_resnet", "threads": 1, "batch": 8} | values))


@pytest.fixture(scope="module")
def model():
    """A CNN of one neighbour on each side, with norms that have seen something."""
    model = build_model(config(neighbours=1), seed=1)
    with torch.no_grad():
        model.train()(torch.randn(16, 9, 32, 32))
    return model


def test_rows_come_back_in_their_order_whatever_the_batch(model):
    slices, hu = make_slices(3, 6)
    rows = np.array([11, 2, 7, 3, 17])
    probs, embeddings = predict(model, slices, rows, reader(hu), config(neighbours=1))
    assert probs.shape == (5, 6)
    assert probs.dtype == np.float32
    assert embeddings.shape == (5, model.width)
    assert embeddings.dtype == np.float16
    assert ((probs >= 0) & (probs <= 1)).all()
    everything, _ = predict(model, slices, np.arange(18), reader(hu), config(neighbours=1))
    singly, _ = predict(model, slices, rows, reader(hu), config(neighbours=1, batch=2))
    np.testing.assert_allclose(probs, everything[rows], atol=1e-5)
    np.testing.assert_allclose(probs, singly, atol=1e-5)
    assert len(np.unique(probs[:, 0])) == 5


def test_neighbours_reach_the_prediction_and_stay_in_the_series(model):
    slices, hu = make_slices(2, 4)
    before, _ = predict(model, slices, np.arange(8), reader(hu), config(neighbours=1))
    hu = hu.copy()
    hu[3] = 80
    after, _ = predict(model, slices, np.arange(8), reader(hu), config(neighbours=1))
    assert np.flatnonzero((before != after).any(axis=1)).tolist() == [2, 3]


def test_unreadable_slices_are_nan_and_never_read(model):
    slices, hu = make_slices(2, 4)
    slices.iloc[[1, 4], slices.columns.get_loc("readable")] = False
    calls, steps = [], []
    probs, embeddings = predict(
        model, slices, np.arange(8), reader(hu, calls), config(neighbours=1, batch=4), lambda *at: steps.append(at)
    )
    assert np.flatnonzero(np.isnan(probs).all(axis=1)).tolist() == [1, 4]
    assert np.isnan(embeddings[[1, 4]]).all()
    assert np.isfinite(probs[[0, 2, 3, 5, 6, 7]]).all()
    assert not {1, 4} & {number for call in calls for number in call}
    assert steps == [(1, 2), (2, 2)]


def test_nothing_to_predict_gives_empty_arrays(model):
    slices, hu = make_slices(1, 4)
    probs, embeddings = predict(model, slices, np.array([], int), reader(hu), config(neighbours=1))
    assert probs.shape == (0, 6)
    assert embeddings.shape == (0, model.width)


def test_torch_is_left_as_it_was():
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with pytest.raises(KeyError), torch_as_set(config(threads=before[0] + 1)):
        assert torch.get_num_threads() == before[0] + 1
        assert torch.are_deterministic_algorithms_enabled()
        raise KeyError
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before
