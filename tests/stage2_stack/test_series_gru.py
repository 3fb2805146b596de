"""The recurrent network over series: it reads both ways, and never past a series' end."""

import numpy as np
import pytest
import torch
from safetensors.torch import load
from scipy.special import expit

from ct.labels import LABELS, WEIGHTS
from ct.metrics import log_loss
from stage2_stack.components.series_gru import PARAMS, SeriesInput
from stage2_stack.learners.gru_network import GRU, SeriesNetwork

QUICK = {**PARAMS, "batch": 8}
NAMES = [*LABELS, "gap_below_mm", "position_rel"]
SIZES = (1, 5, 12, 3, 9)


def series(seed=0, count=60, permuted=False):
    """Series of 1 to 16 slices with a run of positives in two thirds, and noisy logits of it.

    Returns X (n, 8), starts, y (6, n). Column 6 of X is a distance that is NaN in the first slice
    of each series, column 7 is all NaN. permuted: each label's slices are exchanged over all
    series, so that the neighbours do not help
    """
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 17, count)
    starts, n = np.cumsum(sizes) - sizes, sizes.sum()
    y = np.zeros((6, n))
    for start, size in zip(starts, sizes, strict=True):
        if size > 4 and rng.random() < 0.8:
            first = rng.integers(0, size - 3)
            y[rng.integers(0, 2, 6) == 1, start + first : start + first + 4] = 1
    x = (2.5 * y - 2 + rng.normal(0, 1.6, y.shape)).T
    if permuted:
        for j, order in enumerate(rng.permuted(np.tile(np.arange(n), (6, 1)), axis=1)):
            x[:, j], y[j] = x[order, j], y[j, order]
    gap = np.full(n, 5.0)
    gap[starts] = np.nan
    return np.column_stack([x, gap, np.full(n, np.nan)]).astype(np.float32), starts, y


def input_of(X, starts, y):
    return SeriesInput(X, NAMES, starts, X[:, :6].T.astype(np.float64), y, 1)


def fit(source, rows, epochs=5, seed=1, valid=(), params=QUICK):
    platts = source.calibrate(rows)
    held_out = [source.training_data(platts, v) for v in valid]
    data = source.training_data(platts, rows)
    return platts, *GRU().fit(data, params, epochs, seed, 1, held_out)


def loss(source, rows, logits):
    return log_loss(source.y[:, rows].T, expit(logits.T)).mean(axis=0) @ WEIGHTS


@pytest.fixture(scope="module")
def fitted():
    """A network fitted on the first 40 of 60 series."""
    X, starts, y = series()
    source, cut = input_of(X, starts, y), starts[40]
    rows, rest = np.arange(cut), np.arange(cut, len(X))
    return source, rows, rest, *fit(source, rows, valid=[rest])


def test_it_learns_from_the_neighbours(fitted):
    source, _, rest, platts, model, curves = fitted
    before = loss(source, rest, source.starting_logits(platts, rest))
    after = loss(source, rest, source.predict([model], platts, rest))
    assert after < before - 0.025 and curves.shape == (1, 5) and curves[0, -1] < curves[0, 0]


def test_there_is_nothing_to_learn_where_slices_are_exchanged():
    X, starts, y = series(1, permuted=True)
    source, cut = input_of(X, starts, y), starts[40]
    rest = np.arange(cut, len(X))
    platts, _, curves = fit(source, np.arange(cut), valid=[rest])
    assert curves.min() > loss(source, rest, source.starting_logits(platts, rest)) - 0.005


def test_the_curve_is_the_loss_from_the_calibrated_start(fitted):
    source, _, rest, platts, model, curves = fitted
    for epochs in (1, 3, 5):
        assert curves[0, epochs - 1] == pytest.approx(
            loss(source, rest, source.predict([model], platts, rest, epochs))
        )


def test_an_untrained_network_adds_nothing():
    X, starts, y = series(2)
    source = input_of(X, starts, y)
    platts = source.calibrate(np.arange(len(X)))
    model = [SeriesNetwork(1, 2, 32).state_dict()]
    np.testing.assert_array_equal(
        source.predict([model], platts, np.arange(len(X))),
        source.starting_logits(platts, np.arange(len(X))),
    )


def test_it_reads_both_ways_and_no_series_reads_another(fitted):
    source, _, _, platts, model, _ = fitted
    rows, number = np.arange(len(source.x)), np.argmax(source.lengths)
    first, last = source.starts[number], source.starts[number] + source.lengths[number] - 1
    for changed in (first, last):
        other = source.x.copy()
        other[changed, :6] += 2
        moved = SeriesInput(other, NAMES, source.starts, source.cnn_logits, None, 1).predict(
            [model], platts, rows
        )
        apart = (moved != source.predict([model], platts, rows)).any(axis=0)
        assert apart[first] and apart[last]
        assert not apart[:first].any() and not apart[last + 1 :].any()


def test_a_series_is_predicted_the_same_alone_as_among_others(fitted):
    source, _, rest, platts, model, _ = fitted
    together = source.predict([model], platts, rest)
    for number in (40, 50, 59):
        rows = np.arange(source.starts[number], source.starts[number] + source.lengths[number])
        np.testing.assert_allclose(
            source.predict([model], platts, rows), together[:, rows - rest[0]], atol=1e-5
        )
    some = rest[::3]
    np.testing.assert_allclose(source.predict([model], platts, some), together[:, ::3], atol=1e-5)


def test_only_the_inputs_of_rows_that_are_not_fitted_matter():
    X, starts, y = series(3)
    cut = starts[40]
    rows = np.setdiff1d(np.arange(cut), np.arange(0, len(X), 5))
    lost = np.setdiff1d(np.arange(len(X)), rows)
    one, two = y.copy(), y.copy()
    one[:, lost], two[:, lost] = np.nan, 1 - y[:, lost]
    models = [
        GRU().save(fit(input_of(X, starts, labels), rows, epochs=2)[1]) for labels in (one, two)
    ]
    assert models[0] == models[1]
    changed = X.copy()
    changed[lost[lost < cut], :6] += 1
    source = input_of(X, starts, y)
    other = SeriesInput(changed, NAMES, starts, source.cnn_logits, y, 1)
    assert GRU().save(fit(other, rows, epochs=2)[1]) != models[0]


def test_a_longer_training_begins_as_a_shorter_one(fitted):
    source, rows, rest, platts, model, _ = fitted
    _, short, _ = fit(source, rows, epochs=3)
    np.testing.assert_array_equal(
        source.predict([short], platts, rest), source.predict([model], platts, rest, 3)
    )
    assert (source.predict([short], platts, rest) != source.predict([model], platts, rest)).any()


def test_the_same_seed_gives_the_same_bytes_and_torch_is_left_as_it_was(fitted):
    source, rows, rest, platts, model, _ = fitted
    raw, state, threads = GRU().save(model), torch.get_rng_state(), torch.get_num_threads()
    assert (
        GRU().save(fit(source, rows, valid=[rest])[1]) == raw
        and GRU().save(fit(source, rows, seed=2)[1]) != raw
    )
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads
    back = GRU().load(raw)
    np.testing.assert_array_equal(
        source.predict([back], platts, rest), source.predict([model], platts, rest)
    )
    assert {"said_scale", "leave.weight"} <= set(load(raw)) and GRU().gain(model) is None


def test_no_rows_to_predict(fitted):
    _, _, _, platts, model, _ = fitted
    empty = SeriesInput(
        np.empty((0, 8), np.float32), NAMES, np.empty(0, int), np.empty((6, 0)), None, 1
    )
    assert empty.predict([model], platts, np.arange(0)).shape == (len(LABELS), 0)


def test_labels_differ_only_by_their_inputs_and_their_one_hot_code():
    """Without the one-hot code, exchanging two subtypes' logits exchanges their added logits."""
    net = SeriesNetwork(1, 2, 8)
    with torch.no_grad():
        net.leave.weight.normal_(generator=torch.Generator().manual_seed(0))
        net.enter.weight[:, -6:] = 0  # the one-hot code of the label
    x = torch.from_numpy(series(4, count=1)[0])[None]
    exchanged = x.clone()
    exchanged[:, :, [2, 5]] = x[:, :, [5, 2]]
    before, after = (net.eval()(values, torch.tensor([x.shape[1]])) for values in (x, exchanged))
    assert before.abs().max() > 0.1
    torch.testing.assert_close(after, before[:, :, [0, 1, 5, 3, 4, 2]])


def test_the_inputs_of_a_label_at_a_slice():
    x = torch.tensor([[[-1.0, 4, 2, 0, 3, 1, 5, torch.nan]]])
    net = SeriesNetwork(1, 2, 8)
    inputs = net.inputs(x)[0, 0]
    assert inputs.shape == (6, 2 + 4 + 1 + 4 + 6)
    # own, any, the others, ...
    assert inputs[3].tolist() == [0, -1, 4, 3, 2, 1, 0, 5, 0, 0, 1, 0, 0, 0, 1, 0, 0]
    # `any` reads the largest four of the five
    assert inputs[0, :6].tolist() == [-1, -1, 4, 3, 2, 1]
    x[0, 0, 3] = torch.nan
    assert net.inputs(x)[0, 0, 3, [0, 6]].tolist() == [0, 1]


def test_series_are_laid_out_from_bottom_to_top():
    starts = np.cumsum(SIZES) - SIZES
    source = SeriesInput(
        np.zeros((30, 8), np.float32), NAMES, starts, np.zeros((6, 30)), np.zeros((6, 30)), 1
    )
    platts = source.calibrate(np.arange(30))
    data = source.training_data(platts, np.array([2, 5, 18, 20]))
    assert data.at.tolist() == [[1, 2, 3, 4, 5], [18, 19, 20, -1, -1]]
    assert data.at[data.use].tolist() == [2, 5, 18, 20]
