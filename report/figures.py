"""The page's drawings, by matplotlib: SVG that takes its inks and its font from the page's style
sheet.

A colour of the style sheet's day becomes that colour's name in the SVG, so that one drawing is
right by day and by night.
"""

import functools
import io
import re
from pathlib import Path

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from sklearn.metrics import precision_recall_curve, roc_curve

from ct.metrics import reliability

WIDTH, HEIGHT = 320, 250  # of a panel, in its own units; the page scales it
ROW = 26  # of a row of dots
# probability under which slices are one dot of the reliability curve: most slices are there
LOW = 0.02
POINTS = 120  # of a curve at most
CSS = (Path(__file__).parent / "templates" / "page.css").read_text(encoding="utf-8")
PALETTE = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", CSS.partition("@media")[0]))
STYLE = {
    "svg.fonttype": "none",  # text stays text, in the page's own font
    "font.size": 11,
    "axes.edgecolor": PALETTE["faint"],
    "axes.linewidth": 1,
    "axes.labelcolor": PALETTE["soft"],
    "axes.labelsize": 11,
    "axes.titlesize": 11,
    "axes.titlecolor": PALETTE["soft"],
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PALETTE["line"],
    "grid.linewidth": 1,
    "xtick.color": PALETTE["faint"],
    "ytick.color": PALETTE["faint"],
    "xtick.major.size": 0,
    "xtick.major.pad": 5,
    "ytick.major.size": 0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
}
LINES = {  # how each kind of curve looks; the page's legends say the same by its style sheet
    "raw": {
        "color": PALETTE["stage-one"],
        "linewidth": 1.5,
        "linestyle": (0, (1.3, 3)),
        "markersize": 3.2,
    },
    "calibrated": {"color": PALETTE["stage-one"], "linewidth": 1.8, "markersize": 5},
    "final": {"color": PALETTE["accent"], "linewidth": 2.4, "markersize": 5},
    "train": {"color": PALETTE["stage-one"], "linewidth": 1.3, "markersize": 3.2},
    "held-out": {"color": PALETTE["accent"], "linewidth": 1.8, "markersize": 4.4},
    "chance": {
        "color": PALETTE["faint"],
        "linewidth": 1,
        "linestyle": (0, (1, 4)),
        "dash_capstyle": "round",
    },
}
DOTS = {  # how each kind of dot of a row looks: face and edge
    "truth": (PALETTE["paper"], PALETTE["ink"]),
    "raw": (PALETTE["line"], PALETTE["stage-one"]),
    "calibrated": (PALETTE["stage-one"], PALETTE["stage-one"]),
    "final": (PALETTE["accent"], PALETTE["accent"]),
    "better": (PALETTE["accent"], PALETTE["accent"]),
    "worse": (PALETTE["warn"], PALETTE["warn"]),
    "unclear": (PALETTE["paper"], PALETTE["stage-one"]),
}


def drawing(function):
    """Make a function that returns (matplotlib figure, text alternative) return its SVG; None stays
    None.
    """

    @functools.wraps(function)
    def drawn(*args, **kwargs):
        with matplotlib.rc_context(STYLE):
            found = function(*args, **kwargs)
            return None if found is None else as_svg(*found)

    return drawn


def as_svg(figure, alt):
    """Return a figure as SVG for the page. Groups keep the names that artists were given, as
    classes.
    """
    buffer = io.StringIO()
    # ids that differ from figure to figure, not from run to run
    with matplotlib.rc_context({"svg.hashsalt": alt}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    body = buffer.getvalue().partition("<svg")[2].partition(">")[2]
    for pattern, instead in UNWANTED:
        body = re.sub(pattern, instead, body, flags=re.DOTALL)
    body = re.sub("|".join(NAMES), lambda found: f"var(--{NAMES[found[0]]})", body)
    width, height = figure.get_size_inches() * 72
    return Markup(
        f'<svg class="panel" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(alt)}">{body.strip()}'
    )


UNWANTED = (  # in matplotlib's SVG on a page of others
    (
        r"<metadata>.*?</metadata>|<style.*?</style>|<clipPath.*?</clipPath>| clip-path=\"[^\"]*\"",
        "",
    ),
    (r"font-family: [^;\"]*(; )?|(transform=\"rotate\(-0 [^\"]*\")", ""),
    (r'<g id="[\w.]+_\d+"', "<g"),  # the same names in each figure
    (r'<g id="', '<g class="'),
    (r"(?<![>−\d])(\d+\.\d\d)\d+", r"\1"),  # of places, not of ticks
    (r"\s*\n\s*", "\n"),
    (r'<path d="[^"]*" style="fill: none"/>\n', ""),  # the edges of nothing
    (r"<defs>\n</defs>\n|<g/>\n|<g>\n</g>\n", ""),
)
NAMES = {colour: name for name, colour in PALETTE.items()}


def new_axes(x, y, height=HEIGHT, left=34):
    """Return (figure, axes) of one panel, its captions at the ends of the axes."""
    figure = Figure(figsize=(WIDTH / 72, height / 72))
    FigureCanvasSVG(figure)
    axes = figure.add_axes(
        [left / WIDTH, 36 / height, (WIDTH - 4 - left) / WIDTH, (height - 60) / height]
    )
    axes.set_title(y, x=-left / (WIDTH - 4 - left), pad=9)
    axes.set_xlabel(x, loc="right")
    axes.grid(axis="x", visible=False)
    return figure, axes


def unit_axes(x, y, ticks, scale=None):
    """Return (figure, axes) of a panel whose axes both run from 0 to 1. scale: (function, inverse)
    of both, if not even
    """
    figure, axes = new_axes(x, y)
    if scale:
        axes.set_xscale("function", functions=scale)
        axes.set_yscale("function", functions=scale)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter("{x:g}")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    return figure, axes


@drawing
def reliability_panel(label, truth, opinions):
    """Draw the reliability curves of one label. truth: (n,); opinions: {kind: (n,)}, rows with NaN
    are left out.
    """
    figure, axes = unit_axes(
        "predicted", "observed", [0, 0.02, 0.1, 0.25, 0.5, 1], (np.sqrt, np.square)
    )
    axes.plot([0, 1], [0, 1], gid="chance", **LINES["chance"])
    said = []
    for kind, p in opinions.items():
        known = np.isfinite(p)
        if known.any():
            predicted, observed = groups(truth[known], p[known])
            axes.plot(predicted, observed, marker="o", gid=kind, **LINES[kind])
            said.append(
                f"{kind}: {predicted[-1]:.2f} predicted, {observed[-1]:.2f} observed in the highest group"
            )
    alt = f"Reliability of {label}: share of positive slices against predicted probability. {'; '.join(said)}"
    return figure, alt


def groups(truth, p):
    """Return mean prediction and share of positives of the slices under LOW together, and of equal
    groups of the others.
    """
    low = p < LOW
    bins = int(np.clip((~low).sum() // 40, 1, 8))  # of 40 slices at least: fewer are noise
    found = reliability(truth[low], p[low], bins=1), reliability(truth[~low], p[~low], bins)
    return [np.concatenate([part[i] for part in found]) for i in (0, 1)]


@drawing
def roc_panel(label, truth, opinions):
    """Draw the ROC curves of one label, or None where it has only one class. Arguments as of
    `reliability_panel`.
    """
    curves = _of_both_classes(truth, opinions)
    if not curves:
        return None
    figure, axes = unit_axes("false positive rate", "sensitivity", [0, 0.25, 0.5, 0.75, 1])
    axes.plot([0, 1], [0, 1], gid="chance", **LINES["chance"])
    said = []
    for kind, (y, p) in curves.items():
        false, true, _ = roc_curve(y, p)
        axes.plot(*_along(false, true), gid=kind, **LINES[kind])
        said.append(f"{kind}: {np.interp(0.1, false, true):.2f} at 0.1")
    return (
        figure,
        f"ROC curve of {label}: sensitivity against false positive rate. {'; '.join(said)}",
    )


@drawing
def precision_recall_panel(label, truth, opinions):
    """Draw precision against sensitivity of one label, or None where it has only one class.
    Arguments as of `roc_panel`.
    """
    curves = _of_both_classes(truth, opinions)
    if not curves:
        return None
    figure, axes = unit_axes("sensitivity", "precision", [0, 0.25, 0.5, 0.75, 1])
    said = []
    for kind, (y, p) in curves.items():
        # without its made-up end at 0
        precision, recall = (side[-2::-1] for side in precision_recall_curve(y, p)[:2])
        axes.plot([0, 1], [y.mean()] * 2, gid="chance", **LINES["chance"])
        axes.plot(*_along(recall, precision), gid=kind, **LINES[kind])
        said.append(f"{kind}: {np.interp(0.8, recall, precision):.2f} at 0.8")
    return figure, f"Precision of {label} against sensitivity. {'; '.join(said)}"


def _of_both_classes(truth, opinions):
    """Return {kind: (labels, probabilities)} without NaN, or {} where one of them has only one
    class.
    """
    known = {kind: np.isfinite(p) for kind, p in opinions.items()}
    if not all(0 < truth[k].sum() < k.sum() for k in known.values()):
        return {}
    return {kind: (truth[k], opinions[kind][k]) for kind, k in known.items()}


def _along(xs, ys):
    """Thin a curve evenly along its length, as its points crowd near the corners."""
    length = np.concatenate([[0], np.cumsum(np.abs(np.diff(xs)) + np.abs(np.diff(ys)))])
    keep = np.unique(
        np.searchsorted(length, np.linspace(0, length[-1], POINTS)).clip(0, len(length) - 1)
    )
    return xs[keep], ys[keep]


@drawing
def learning_panel(model, folds):
    """Draw the losses of one CNN along its epochs. folds: {fold: [{"epoch", "train_loss",
    "held_out_loss"}, ...]}
    """
    figure, axes = new_axes("epoch", "loss")
    said = []
    for fold, curve in folds.items():
        epochs = [row["epoch"] for row in curve]
        for kind, key in (("train", "train_loss"), ("held-out", "held_out_loss")):
            losses = np.array([row[key] for row in curve], np.float64)  # None becomes NaN
            axes.plot(epochs, losses, marker="o", gid=kind, **LINES[kind])
        said.append(f"fold {fold} ends at {losses[-1]:.3f} held out")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.margins(x=0.06, y=0.08)
    return (
        figure,
        f"Learning curves of {model}: training and held-out loss of each fold by epoch; {', '.join(said)}",
    )


@drawing
def history_panel(label, folds):
    """Draw the best gain of the trials so far, in thousandths. folds: {fold: (number of each trial,
    best gain up to it)}
    """
    figure, axes = new_axes("trial", "best gain so far, thousandths")
    for xs, ys in folds.values():
        axes.plot(
            xs,
            1000 * np.asarray(ys),
            drawstyle="steps-post",
            marker="o" * (len(xs) == 1),
            gid="held-out",
            **LINES["held-out"],
        )
    axes.axhline(0, color=PALETTE["faint"], linewidth=1, zorder=1)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    first, last = ([1000 * ys[at] for _, ys in folds.values()] for at in (0, -1))
    alt = f"Tuning of {label}: best gain on the inner folds so far, by trial, a line a fold; "
    return figure, alt + f"from {min(first):.2f} or more to {max(last):.2f} at most"


@drawing
def dots_panel(rows, x, alt, zero=False):
    """Draw a row of dots a name, with whiskers where there is an interval.

    rows: list of (name, [(value, kind of DOTS, (low, high) or None), ...]); x: caption of the axis;
    zero: mark 0
    """
    height = ROW * len(rows) + 44
    figure, axes = new_axes(x, "", height, left=112)
    axes.set_position([112 / WIDTH, 38 / height, (WIDTH - 124) / WIDTH, ROW * len(rows) / height])
    axes.grid(axis="x", visible=True)
    axes.grid(axis="y", visible=False)
    if zero:
        axes.axvline(0, color=PALETTE["faint"], linewidth=1)
    for at, (_, marks) in enumerate(rows):
        for value, kind, interval in marks:
            face, edge = DOTS[kind]
            if interval:
                axes.plot(interval, [at, at], color=edge, linewidth=2, gid="interval")
            axes.plot(
                [value],
                [at],
                "o",
                markersize=7.5,
                color=face,
                markeredgecolor=edge,
                markeredgewidth=1.6,
                gid=kind,
            )
    axes.set(
        ylim=(len(rows) - 0.5, -0.5),
        yticks=range(len(rows)),
        yticklabels=[name for name, _ in rows],
    )
    axes.tick_params(axis="y", labelcolor=PALETTE["soft"], pad=8)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.margins(x=0.06)
    return figure, alt
