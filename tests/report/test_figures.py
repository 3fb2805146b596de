"""Drawings: values at their coordinates, colours of the style sheet, no styles of matplotlib."""

import re

import numpy as np
import pytest
from matplotlib.textpath import TextPath
from sklearn.metrics import precision_recall_curve, roc_curve

from report.figures.dot_plot import ROW_HEIGHT, Dot, dot_plot_panel
from report.figures.probability_curves import (
    precision_recall_panel,
    reliability_dots,
    reliability_panel,
    roc_panel,
)
from report.figures.training_curves import learning_panel, search_panel

X0, X1, Y0, Y1 = 34, 316, 214, 24  # the corners of a panel's axes, in its units


def lines(picture, kind):
    """The points (n, 2) of each line of a kind, in shares of the axes from 0 to 1."""
    paths = re.findall(rf'<g class="{kind}">\n<path d="([^"]+)"', picture)
    points = [
        np.array([float(n) for n in re.findall(r"-?[\d.]+", path)]).reshape(-1, 2) for path in paths
    ]
    return [(p - (X0, Y0)) / (X1 - X0, Y1 - Y0) for p in points]


@pytest.fixture
def predictions():
    rng = np.random.default_rng(0)
    truth = (rng.random(400) < 0.2).astype(float)
    p = 1 / (1 + np.exp(-(3 * truth - 2 + rng.normal(0, 1, 400))))
    p[7] = np.nan
    return truth, {"calibrated": np.clip(p * 0.8, 0, 1), "final": p}


def test_colours_are_variables_of_the_style_sheet(predictions):
    """No colour, font or style of matplotlib, and no id that two figures share."""
    for draw in (reliability_panel, roc_panel, precision_recall_panel):
        picture = draw("any <b>", *predictions)
        assert picture.count("<svg") == picture.count("</svg>") == 1 and "any &lt;b&gt;" in picture
        assert not re.search(r"#[0-9a-f]{6}|font-family|<style|clip|metadata|url\(|http", picture)
        assert "var(--accent)" in picture and "var(--stage-one)" in picture
        assert picture == draw("any <b>", *predictions)
    ids = [
        set(re.findall(r' id="([^"]+)"', reliability_panel(label, *predictions)))
        for label in ("any", "subdural")
    ]
    assert ids[0] and not ids[0] & ids[1]


def test_ticks_keep_their_digits():
    picture = dot_plot_panel([("a", [Dot(0.131, "final", (0.1305, 0.1315))])], "loss", "alt")
    assert re.findall(r">(0\.13\d+)<", picture)


def test_roc_is_where_scikit_learn_has_it(predictions):
    truth, of_label = predictions
    picture = roc_panel("any", truth, of_label)
    known = np.isfinite(of_label["final"])
    false_positive, true_positive, _ = roc_curve(truth[known], of_label["final"][known])
    (line,) = lines(picture, "final")
    assert len(line) > 20 and np.abs(line[[0, -1]] - [[0, 0], [1, 1]]).max() < 0.001
    corners = np.array([false_positive, true_positive]).T
    assert max(np.abs(corners - point).sum(axis=1).min() for point in line) < 0.001
    np.testing.assert_allclose(lines(picture, "chance")[0], [[0, 0], [1, 1]], atol=1e-4)


def test_precision_is_where_scikit_learn_has_it(predictions):
    truth, of_label = predictions
    picture = precision_recall_panel("any", truth, of_label)
    known = np.isfinite(of_label["final"])
    precision, recall, _ = precision_recall_curve(truth[known], of_label["final"][known])
    (line,) = lines(picture, "final")
    corners = np.array([recall, precision]).T
    assert max(np.abs(corners - point).sum(axis=1).min() for point in line) < 0.001
    assert line[-1][0] == pytest.approx(1, abs=1e-3) and line[0][0] > 0
    chance = lines(picture, "chance")[0]
    np.testing.assert_allclose(chance[:, 1], truth[known].mean(), atol=1e-3)


@pytest.mark.parametrize("draw", [roc_panel, precision_recall_panel])
def test_slices_of_one_class_are_not_drawn(draw):
    assert draw("any", np.zeros(4), {"final": np.linspace(0, 1, 4)}) is None
    assert "<svg" in draw("any", np.array([0, 1, 0, 1]), {"final": np.linspace(0, 1, 4)})


def test_reliability_groups():
    """Slices below LOW are one dot, the others equal groups. Both axes are square roots."""
    p = np.concatenate([np.full(60, 0.01), np.full(40, 0.6), np.full(40, 0.8)])
    y = np.concatenate([np.zeros(57), np.ones(3), np.ones(20), np.zeros(20), np.ones(40)])
    predicted, observed = reliability_dots(y, p)
    np.testing.assert_allclose(predicted, [0.01, 0.6, 0.8])
    np.testing.assert_allclose(observed, [0.05, 0.5, 1.0])
    (line,) = lines(reliability_panel("any", y, {"final": p}), "final")
    np.testing.assert_allclose(line, np.sqrt([[0.01, 0.05], [0.6, 0.5], [0.8, 1.0]]), atol=1e-3)


def test_the_best_so_far_rises():
    picture = search_panel(
        "any", {0: ([0, 1, 2], [0.001, 0.001, 0.004]), 1: ([0, 1], [-0.002, 0.002])}
    )
    first, second = (line[:, 1] for line in lines(picture, "held-out"))
    assert first[0] < first[-1] and second[0] < first[0] and list(first) == sorted(first)
    assert search_panel("any", {0: ([0], [0.001])}).count("<use") == 1


def test_learning_curves_have_a_line_a_fold_and_kind_and_a_gap():
    curve = [
        {"epoch": e, "train_loss": 1 / e, "held_out_loss": None if e == 2 else 2 / e}
        for e in (1, 2, 3, 4)
    ]
    picture = learning_panel("resnet", {0: curve, 1: curve})
    train, held_out = lines(picture, "train"), lines(picture, "held-out")
    assert len(train) == len(held_out) == 2 and "fold 0 ends at 0.500 held out" in picture
    assert len(train[0]) == 4 and train[0][0, 1] > train[0][-1, 1]
    assert len(held_out[0]) == 3  # one epoch was not scored


def test_long_names_stay_in_the_picture():
    """The margin grows with them up to a limit, then they lose their middle but keep a title."""
    dots = [Dot(0.1, "raw"), Dot(0.2, "raw")]
    long = [
        "convnext_small_in22k_384_windows3_a alone",
        "convnext_small_in22k_512_windows3_a alone",
    ]

    def names(picture):
        texts = re.findall(
            r'<text [^>]*text-anchor: end[^>]*x="([\d.]+)"[^>]*>(.*?)</text>', picture
        )
        texts = [(float(right), text) for right, text in texts if text != "loss"]
        return [right for right, _ in texts], [text for _, text in texts]

    def axis(picture):
        return min(
            float(x) for x in re.findall(r'<g class="raw">.*?<use [^>]*x="([\d.]+)"', picture, re.S)
        )

    usual = dot_plot_panel([("intraparenchymal", dots)], "loss", "alt")
    longer = dot_plot_panel([("intraparenchymal+any", dots)], "loss", "alt")
    longest = dot_plot_panel([(name, dots) for name in [*long, "b"]], "loss", "alt")
    assert names(usual)[1] == ["intraparenchymal"] and "<title>" not in usual
    assert names(longer)[1] == ["intraparenchymal+any"] and "<title>" not in longer
    assert axis(usual) < axis(longer) < axis(longest) < 200
    right, texts = names(longest)
    assert texts[2] == "b"
    for whole, end, text in zip(long, right, texts[:2], strict=False):
        title, shown = re.fullmatch(r"<title>(.*)</title>(.*)", text).groups()
        first, last = shown.split("…")
        assert title == whole and whole.startswith(first) and whole.endswith(last)
        assert len(shown) > 20 and TextPath((0, 0), shown, size=11).get_extents().width < end


def test_dots_lie_in_their_rows():
    """The first row on top, the whisker through its dot, larger values further right."""
    rows = [
        ("worse", [Dot(-0.1, "worse", (-0.2, -0.05))]),
        ("better", [Dot(0.3, "better", (0.1, 0.5))]),
    ]
    picture = dot_plot_panel(rows, "gain", "alt", zero=True)
    at = {
        kind: re.search(
            rf'<g class="{kind}">.*?<use [^>]*x="([\d.]+)" y="([\d.]+)"', picture, re.DOTALL
        ).groups()
        for kind in ("worse", "better")
    }
    (left, top), (right, below) = (tuple(map(float, at[kind])) for kind in ("worse", "better"))
    assert left < right and below - top == pytest.approx(ROW_HEIGHT)
    whisker = re.search(
        r'<g class="interval">\n<path d="M ([\d.]+) ([\d.]+)\nL ([\d.]+) ([\d.]+)', picture
    ).groups()
    start, high, stop, low = map(float, whisker)
    assert start < left < stop and high == low == pytest.approx(top)
