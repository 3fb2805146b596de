"""The recurrent network over series: it reads both ways and never past a series' end, and starts
from the given logits.
"""

import numpy as np
import pytest
import torch
from safetensors.torch import load
from scipy.special import expit

from ct.labels import LABELS, WEIGHTS
from ct.metrics import log_loss
from stage2_stack.gru import GRU, PARAMS, Reader, SeriesView

QUICK = {**PARAMS, "batch": 8}
NAMES = [*LABELS, "gap_below_mm", "position_rel"]
SIZES = (1, 5, 12, 3, 9)


def series(seed=0, count=60, permuted=False):
    """Series of 1 to 16 slices with a run of positives in two thirds, and logits that show it
    dimly.

    Returns X (n, 8), of which the last but one is a distance that is NaN in each series' first
    slice and the last one nothing but NaN; starts; y (6, n). permuted: each label's slices are
    exchanged, over all series; nothing around tells of it
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


def view_of(X, starts, y):
    return SeriesView(X, NAMES, starts, X[:, :6].T.astype(np.float64), y, 1)


def fit(view, rows, epochs=5, seed=1, valid=(), params=QUICK):
    platts = view.start(rows)
    asked = [view.data(platts, v) for v in valid]
    return platts, *GRU().fit(view.data(platts, rows), params, epochs, seed, 1, asked)


def loss(view, rows, logits):
    return log_loss(view.y[:, rows].T, expit(logits.T)).mean(axis=0) @ WEIGHTS


@pytest.fixture(scope="module")
def fitted():
    """A network fitted on the first 40 of 60 series."""
    X, starts, y = series()
    view, cut = view_of(X, starts, y), starts[40]
    rows, rest = np.arange(cut), np.arange(cut, len(X))
    return view, rows, rest, *fit(view, rows, valid=[rest])


def test_it_learns_from_the_neighbours(fitted):
    view, _, rest, platts, model, curves = fitted
    before, after = (
        loss(view, rest, view.base(platts, rest)),
        loss(view, rest, view.logits([model], platts, rest)),
    )
    assert after < before - 0.025 and curves.shape == (1, 5) and curves[0, -1] < curves[0, 0]


def test_there_is_nothing_to_learn_where_slices_are_exchanged():
    X, starts, y = series(1, permuted=True)
    view, cut = view_of(X, starts, y), starts[40]
    rest = np.arange(cut, len(X))
    platts, _, curves = fit(view, np.arange(cut), valid=[rest])
    assert curves.min() > loss(view, rest, view.base(platts, rest)) - 0.005


def test_the_curve_is_the_loss_from_the_calibrated_start(fitted):
    view, _, rest, platts, model, curves = fitted
    for epochs in (1, 3, 5):
        assert curves[0, epochs - 1] == pytest.approx(
            loss(view, rest, view.logits([model], platts, rest, epochs))
        )


def test_a_network_that_has_learned_nothing_adds_nothing():
    X, starts, y = series(2)
    view = view_of(X, starts, y)
    platts = view.start(np.arange(len(X)))
    model = [Reader(1, 2, 32).state_dict()]
    np.testing.assert_array_equal(
        view.logits([model], platts, np.arange(len(X))), view.base(platts, np.arange(len(X)))
    )


def test_it_reads_both_ways_and_no_series_hears_another(fitted):
    view, _, _, platts, model, _ = fitted
    rows, number = np.arange(len(view.x)), np.argmax(view.lengths)
    first, last = view.starts[number], view.starts[number] + view.lengths[number] - 1
    for changed in (first, last):
        other = view.x.copy()
        other[changed, :6] += 2
        moved = SeriesView(other, NAMES, view.starts, view.raw, None, 1).logits(
            [model], platts, rows
        )
        apart = (moved != view.logits([model], platts, rows)).any(axis=0)
        assert apart[first] and apart[last]
        assert not apart[:first].any() and not apart[last + 1 :].any()


def test_a_series_is_said_the_same_of_alone_as_among_others(fitted):
    view, _, rest, platts, model, _ = fitted
    together = view.logits([model], platts, rest)
    for number in (40, 50, 59):
        rows = np.arange(view.starts[number], view.starts[number] + view.lengths[number])
        np.testing.assert_allclose(
            view.logits([model], platts, rows), together[:, rows - rest[0]], atol=1e-5
        )
    some = rest[::3]
    np.testing.assert_allclose(view.logits([model], platts, some), together[:, ::3], atol=1e-5)


def test_rows_that_are_not_learned_from_teach_nothing_but_what_they_show():
    X, starts, y = series(3)
    cut = starts[40]
    rows = np.setdiff1d(np.arange(cut), np.arange(0, len(X), 5))
    lost = np.setdiff1d(np.arange(len(X)), rows)
    one, two = y.copy(), y.copy()
    one[:, lost], two[:, lost] = np.nan, 1 - y[:, lost]
    models = [
        GRU().dump(fit(view_of(X, starts, labels), rows, epochs=2)[1]) for labels in (one, two)
    ]
    assert models[0] == models[1]
    shown = X.copy()
    shown[lost[lost < cut], :6] += 1
    view = view_of(X, starts, y)
    seen = SeriesView(shown, NAMES, starts, view.raw, y, 1)
    assert GRU().dump(fit(seen, rows, epochs=2)[1]) != models[0]


def test_a_longer_training_begins_as_a_shorter_one(fitted):
    view, rows, rest, platts, model, _ = fitted
    _, short, _ = fit(view, rows, epochs=3)
    np.testing.assert_array_equal(
        view.logits([short], platts, rest), view.logits([model], platts, rest, 3)
    )
    assert (view.logits([short], platts, rest) != view.logits([model], platts, rest)).any()


def test_the_same_seed_gives_the_same_bytes_and_torch_is_left_as_it_was(fitted):
    view, rows, rest, platts, model, _ = fitted
    kept, state, threads = GRU().dump(model), torch.get_rng_state(), torch.get_num_threads()
    assert (
        GRU().dump(fit(view, rows, valid=[rest])[1]) == kept
        and GRU().dump(fit(view, rows, seed=2)[1]) != kept
    )
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads
    back = GRU().load(kept)
    np.testing.assert_array_equal(
        view.logits([back], platts, rest), view.logits([model], platts, rest)
    )
    assert {"said_scale", "leave.weight"} <= set(load(kept)) and GRU().gain(model) is None


def test_no_rows_to_ask(fitted):
    _, _, _, platts, model, _ = fitted
    empty = SeriesView(
        np.empty((0, 8), np.float32), NAMES, np.empty(0, int), np.empty((6, 0)), None, 1
    )
    assert empty.logits([model], platts, np.arange(0)).shape == (len(LABELS), 0)


def test_labels_that_look_alike_are_said_the_same_of_but_for_which_they_are():
    """Two subtypes exchange their logits: so does what is added, where the network can not tell
    which is which.
    """
    net = Reader(1, 2, 8)
    with torch.no_grad():
        net.leave.weight.normal_(generator=torch.Generator().manual_seed(0))
        net.enter.weight[:, -6:] = 0  # the columns that tell the label
    x = torch.from_numpy(series(4, count=1)[0])[None]
    exchanged = x.clone()
    exchanged[:, :, [2, 5]] = x[:, :, [5, 2]]
    before, after = (net.eval()(values, torch.tensor([x.shape[1]])) for values in (x, exchanged))
    assert before.abs().max() > 0.1
    torch.testing.assert_close(after, before[:, :, [0, 1, 5, 3, 4, 2]])


def test_what_a_label_sees_of_a_slice():
    x = torch.tensor([[[-1.0, 4, 2, 0, 3, 1, 5, torch.nan]]])
    net = Reader(1, 2, 8)
    seen = net._seen(x)[0, 0]
    assert seen.shape == (6, 2 + 4 + 1 + 4 + 6)
    # own, any, the others, ...
    assert seen[3].tolist() == [0, -1, 4, 3, 2, 1, 0, 5, 0, 0, 1, 0, 0, 0, 1, 0, 0]
    assert seen[0, :6].tolist() == [-1, -1, 4, 3, 2, 1]  # `any` hears the largest of the five
    x[0, 0, 3] = torch.nan
    assert net._seen(x)[0, 0, 3, [0, 6]].tolist() == [0, 1]


def test_series_are_laid_out_from_bottom_to_top():
    starts = np.cumsum(SIZES) - SIZES
    view = SeriesView(
        np.zeros((30, 8), np.float32), NAMES, starts, np.zeros((6, 30)), np.zeros((6, 30)), 1
    )
    platts = view.start(np.arange(30))
    data = view.data(platts, np.array([2, 5, 18, 20]))
    assert data.at.tolist() == [[1, 2, 3, 4, 5], [18, 19, 20, -1, -1]]
    assert data.at[data.use].tolist() == [2, 5, 18, 20]
