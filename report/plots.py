"""Small pictures of the page: SVG drawn by hand, coloured by the page's own style sheet, and JPEG thumbnails.

By hand, because a drawing of the page takes the page's ink: it is right by day and by night, and the same bytes every time.
"""

import base64
import io

import numpy as np
from markupsafe import Markup, escape
from PIL import Image
from sklearn.metrics import roc_curve

from ct.metrics import reliability

WIDTH, HEIGHT = 320, 250  # of a panel, in its own units; the page scales it
LEFT, RIGHT, TOP, BOTTOM = 34, 316, 24, 214  # of the axes in it
LOW = 0.02  # probability under which slices are one dot of the reliability curve: most slices are there
POINTS = 120  # of a curve at most
SUSPECTED = 0.25  # probability from which a label gets a lane in a study's strip
THUMBNAIL = 104  # pixels wide: twice what the page shows, for dense screens


def panel(curves, alt, x, y, diagonal=False):
    """Return an SVG with two axes.

    curves: list of (xs, ys, CSS class, with dots); x, y: (caption, low, high, scale function, list of ticks) of the axes
    """
    across = _axis(x, LEFT, RIGHT)
    up = _axis(y, BOTTOM, TOP)
    parts = [f'<svg class="panel" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(alt)}">']
    for tick in y[4]:
        parts.append(f'<path class="grid" d="M{LEFT} {up(tick):.1f}H{RIGHT}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{up(tick) + 3.5:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in x[4]:
        parts.append(f'<text class="tick" x="{across(tick):.1f}" y="{BOTTOM + 15}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {BOTTOM}H{RIGHT}"/>')
    if diagonal:
        parts.append(f'<path class="diagonal" d="M{LEFT} {BOTTOM}L{RIGHT} {TOP}"/>')
    for xs, ys, kind, dots in curves:
        parts.append(_curve([(across(a), up(b)) for a, b in zip(xs, ys, strict=True)], kind, dots))
    parts.append(f'<text class="caption" x="{RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{escape(x[0])}</text>')
    parts.append(f'<text class="caption" x="0" y="10">{escape(y[0])}</text></svg>')
    return Markup("".join(parts))


def _axis(axis, start, stop):
    _, low, high, scale, _ = axis
    span = (scale(high) - scale(low)) or 1
    return lambda value: start + (scale(value) - scale(low)) / span * (stop - start)


def _curve(points, kind, dots):
    line = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    marks = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>' for x, y in points) if dots else ""
    return f'<g class="{kind}"><path d="M{line}"/>{marks}</g>' if points else ""


def reliability_panel(label, truth, opinions):
    """Return the reliability curves of one label. truth: (n,); opinions: {CSS class: (n,)}, rows with NaN are left out."""
    ticks = [0, 0.02, 0.1, 0.25, 0.5, 1]
    curves = []
    for kind, p in opinions.items():
        known = np.isfinite(p)
        if known.any():
            curves.append((*_groups(truth[known], p[known]), kind, True))
    alt = f"Reliability of {label}: share of positive slices against predicted probability"
    return panel(curves, alt, ("predicted", 0, 1, np.sqrt, ticks), ("observed", 0, 1, np.sqrt, ticks), diagonal=True)


def _groups(truth, p):
    """Return mean prediction and share of positives of the slices under LOW together, and of equal groups of the others."""
    low = p < LOW
    bins = int(np.clip((~low).sum() // 40, 1, 8))  # of 40 slices at least: fewer are noise
    found = reliability(truth[low], p[low], bins=1), reliability(truth[~low], p[~low], bins)
    return [np.concatenate([part[i] for part in found]) for i in (0, 1)]


def roc_panel(label, truth, opinions):
    """Return the ROC curves of one label, or None where it has only one class. Arguments as of `reliability_panel`."""
    curves = []
    for kind, p in opinions.items():
        known = np.isfinite(p)
        if not 0 < truth[known].sum() < known.sum():
            return None
        false, true, _ = roc_curve(truth[known], p[known])
        # evenly along the curve's length, as its points crowd near the corner
        length = np.concatenate([[0], np.cumsum(np.abs(np.diff(false)) + np.abs(np.diff(true)))])
        keep = np.unique(np.searchsorted(length, np.linspace(0, length[-1], POINTS)).clip(0, len(length) - 1))
        curves.append((false[keep], true[keep], kind, False))
    ticks = [0, 0.25, 0.5, 0.75, 1]
    x, y = ("false positive rate", 0, 1, float, ticks), ("sensitivity", 0, 1, float, ticks)
    return panel(curves, f"ROC curve of {label}", x, y, diagonal=True)


def learning_panel(model, folds):
    """Return the losses of one CNN along its epochs. folds: {fold: [{"epoch", "train_loss", "held_out_loss"}, ...]}"""
    losses = {key: [[row[key] for row in curve] for curve in folds.values()] for key in ("train_loss", "held_out_loss")}
    epochs = [[row["epoch"] for row in curve] for curve in folds.values()]
    curves = [
        (*_finite(xs, ys), kind, True)
        for kind, key in (("train", "train_loss"), ("held-out", "held_out_loss"))
        for xs, ys in zip(epochs, losses[key], strict=True)
    ]
    values = [v for _, ys, _, _ in curves for v in ys] or [0, 1]
    y_ticks = nice_ticks(min(values), max(values))
    first, last = min(map(min, epochs)), max(map(max, epochs))
    x_ticks = [t for t in nice_ticks(first, last) if t == int(t) and first <= t <= last] or [first]
    x = ("epoch", first - 0.3, last + 0.3, float, x_ticks)
    y = ("loss", min(y_ticks[0], *values), max(y_ticks[-1], *values), float, y_ticks)
    return panel(curves, f"Learning curves of {model}: training and held-out loss of each fold by epoch", x, y)


def history_panel(label, folds):
    """Return the best gain of the trials so far, in thousandths. folds: {fold: (number of each trial, best gain up to it)}"""
    steps = [(np.repeat(xs, 2)[1:], 1000 * np.repeat(ys, 2)[:-1]) for xs, ys in folds.values()]
    curves = [(xs, ys, "held-out", len(xs) == 1) for xs, ys in steps]
    last, values = max(xs[-1] for xs, _ in steps), [y for _, ys in steps for y in ys]
    ticks = nice_ticks(min(0, *values), max(0, *values))
    x_ticks = [tick for tick in nice_ticks(0, max(last, 1)) if tick == int(tick) and tick <= last]
    alt = f"Tuning of {label}: best gain on the inner folds so far, by trial, a line a fold; from "
    alt += f"{min(ys[0] for _, ys in steps):.2f} or more to {max(ys[-1] for _, ys in steps):.2f} at most"
    x = ("trial", 0, max(last, 1), float, x_ticks)
    return panel(curves, alt, x, ("best gain so far, thousandths", ticks[0], ticks[-1], float, ticks))


def _finite(xs, ys):
    pairs = [(x, y) for x, y in zip(xs, ys, strict=True) if y is not None and np.isfinite(y)]
    return [x for x, _ in pairs], [y for _, y in pairs]


def nice_ticks(low, high, count=4):
    """Return about `count` round numbers that reach from below `low` to above `high`."""
    span = (high - low) or abs(high) or 1
    raw = span / count
    unit = 10.0 ** np.floor(np.log10(raw))
    step = unit * next(m for m in (1, 2, 5, 10) if m * unit >= raw * 0.999)
    return [round(k * step, 12) for k in range(int(np.floor(low / step)), int(np.ceil(high / step)) + 1)]


def whisker(gain, low, high, start, stop):
    """Return a line from `low` to `high` with a dot at `gain` and a mark at 0, on an axis from `start` to `stop`."""
    zero, *at = [8 + 144 * (v - start) / ((stop - start) or 1) for v in (0, low, gain, high)]
    kind = "better" if low > 0 else "worse" if high < 0 else "unclear"
    return Markup(
        f'<svg class="whisker {kind}" viewBox="0 0 160 18" aria-hidden="true"><path class="zero" d="M{zero:.1f} 0V18"/>'
        f'<path class="span" d="M{at[0]:.1f} 9H{at[2]:.1f}"/><circle cx="{at[1]:.1f}" cy="9" r="4"/></svg>'
    )


def dumbbell(marks, reach):
    """Return dots on one line from 0 to `reach`, joined. marks: list of (value, CSS class)."""
    at = [(4 + 232 * value / (reach or 1), kind) for value, kind in marks]
    low, high = min(x for x, _ in at), max(x for x, _ in at)
    dots = "".join(f'<circle class="{kind}" cx="{x:.1f}" cy="9" r="4"/>' for x, kind in at)
    return Markup(
        f'<svg class="dumbbell" viewBox="0 0 240 18" aria-hidden="true"><path class="rail" d="M4 9H236"/>'
        f'<path class="join" d="M{low:.1f} 9H{high:.1f}"/>{dots}</svg>'
    )


def lane(label, truth, opinions):
    """Return the strip of one label under a row of thumbnails, one unit wide a slice.

    truth: (n,), NaN where unknown; opinions: {CSS class: (n,)}, a gap where NaN
    """
    height = 40
    bars = "".join(f'<rect x="{i}" y="0" width="1" height="{height}"/>' for i in np.flatnonzero(truth == 1))
    lines = "".join(f'<path class="{kind}" d="{_along(p, height)}"/>' for kind, p in opinions.items())
    return Markup(
        f'<svg class="lane c-{label}" viewBox="0 0 {len(truth)} {height}" preserveAspectRatio="none" role="img" '
        f'aria-label="{label}: labels and probabilities along the study"><g class="bars">{bars}</g>'
        f'<path class="base" d="M0 {height}H{len(truth)}"/>{lines}</svg>'
    )


def _along(p, height):
    """Path data of the probabilities p (n,), one unit apart, broken where NaN; a lone point becomes a dot."""
    parts, drawing = [], False
    for i, value in enumerate(p):
        if np.isfinite(value):
            y = height - 2 - value * (height - 4)
            parts.append(f"L{i + 0.5} {y:.1f}" if drawing else f"M{i + 0.5} {y:.1f}h0")
        drawing = bool(np.isfinite(value))
    return "".join(parts)


def montage(pictures):
    """Return a JPEG data URI of pictures (n, size, size) in [0, 1], side by side, without the air around all of them."""
    rows, cols = (_extent(pictures.max(axis=(0, axis))) for axis in (2, 1))
    height = round(THUMBNAIL * (rows.stop - rows.start) / (cols.stop - cols.start))
    small = [
        Image.fromarray((p[rows, cols] * 255).astype(np.uint8)).resize((THUMBNAIL, height), Image.Resampling.LANCZOS)
        for p in pictures
    ]
    buffer = io.BytesIO()
    Image.fromarray(np.hstack([np.asarray(s) for s in small])).save(buffer, "JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _extent(profile):
    """Return the slice of a profile (size,) that is bright, with a margin; all of it where nothing or little is."""
    bright = np.flatnonzero(profile > 0.5)
    margin = len(profile) // 32
    if not len(bright) or bright[-1] - bright[0] < len(profile) // 3:
        return slice(0, len(profile))
    return slice(max(0, bright[0] - margin), min(len(profile), bright[-1] + 1 + margin))


def worth_a_lane(truth, opinions):
    """Say whether a label is labelled or suspected on some slice. truth: (n,); opinions: list of (n,); NaN counts as no."""
    return (truth == 1).any() or any((p >= SUSPECTED).any() for p in opinions)
