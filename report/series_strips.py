"""Strips of whole series: which are worth a look, their thumbnails, and lanes of labels and
probabilities below them.

Lanes are drawn by hand, here and in the study browser's script, in the same units: one a slice,
which the page stretches to the width of the pictures above, as no plotting library's axes can be.
"""

import base64
import io

import numpy as np
from markupsafe import Markup
from PIL import Image

from ct.labels import LABELS, SUBTYPES, WEIGHTS
from ct.metrics import log_loss

SHOWN_SLICES = 64  # of a study; a longer one shows every second, third, ...
SUSPECTED = 0.25  # probability from which a label gets a lane in a study's strip
THUMBNAIL = 104  # pixels wide: twice what the page shows, for dense screens


def typical_series(art):
    """Choose up to six series of train worth looking at.

    Returns a list of (reason, ids): the ids of the series' slices in their order. First the series
    with most slices of each of the three commonest subtypes, then one without a bleed and of
    middling loss, the one on which the stages differ most, and the one with the greatest loss.
    """
    shown = art.final if art.final is not None else art.raw
    if shown is None:
        return []
    rows = art.labelled.join(shown.add_prefix("p_"))
    rows = rows[rows[[f"p_{label}" for label in LABELS]].notna().all(axis=1)]
    if rows.empty:
        return []
    truth = rows[list(LABELS)].to_numpy()
    rows = rows.assign(
        loss=log_loss(truth, shown.loc[rows.index, list(LABELS)].to_numpy()) @ WEIGHTS
    )
    if art.final is not None and art.calibrated is not None:
        apart = np.abs(
            art.final.loc[rows.index, list(LABELS)] - art.calibrated.loc[rows.index, list(LABELS)]
        )
        rows = rows.assign(apart=apart.to_numpy() @ WEIGHTS)
    picks = _pick(rows)
    places = art.slices[art.slices["series_id"].isin(picks)].groupby("series_id", sort=False)
    return [(reason, list(places.get_group(series).index)) for series, reason in picks.items()]


def _pick(rows):
    """Return {series: reason} of up to six series."""
    groups = rows.groupby("series_id", sort=True)
    positives, loss = groups[list(LABELS)].sum(), groups["loss"].mean()
    picks = {}

    def add(place, candidates, reason):
        left = candidates[~candidates.index.isin(picks)]
        if len(left):
            picks[left.index[0]] = (place, reason)

    worst = loss.sort_values(ascending=False, kind="stable")
    add(6, worst, f"the greatest loss of all: {worst.iloc[0]:.3f} on average")
    if "apart" in rows:
        add(
            5,
            groups["apart"].mean().sort_values(ascending=False, kind="stable"),
            "the two stages differ most here",
        )
    common = positives[list(SUBTYPES)].sum().sort_values(ascending=False, kind="stable")
    for place, label in enumerate(common[common > 0].index[:3]):
        most = positives[label].sort_values(ascending=False, kind="stable")
        add(place, most[most > 0], f"many slices with {label} bleeding")
    calm = loss[positives["any"] == 0].sort_values(kind="stable")
    add(4, calm.iloc[len(calm) // 2 :], "no bleeding")
    return {
        series: reason for series, (_, reason) in sorted(picks.items(), key=lambda item: item[1][0])
    }


def studies(art, pictures):
    """Return the strips of the studies worth a look. pictures: a function from slice ids to
    pictures, or None.
    """
    return [_strip(art, reason, ids, pictures) for reason, ids in typical_series(art)]


def _strip(art, reason, ids, pictures):
    """Return one strip: why it was chosen, its thumbnails, and a lane for each label that matters
    in it.
    """
    step = -(-len(ids) // SHOWN_SLICES)
    rows = art.slices.loc[ids[::step]]
    truth, found = art.opinions(art.compared, rows)
    lanes = [
        (label, lane(label, truth[:, j], {kind: p[:, j] for kind, p in found.items()}))
        for j, label in enumerate(LABELS)
        if label == "any" or worth_a_lane(truth[:, j], [p[:, j] for p in found.values()])
    ]
    return {
        "study": rows["study_id"].iloc[0],
        "reason": reason,
        "fold": rows["fold"].iloc[0],
        "step": step,
        "slices": len(ids),
        "width": len(rows),
        "lanes": lanes,
        "found": [label for j, label in enumerate(LABELS) if j and (truth[:, j] == 1).any()],
        "picture": montage(pictures(rows.index)) if pictures else None,
    }


def lane(label, truth, opinions):
    """Return the strip of one label under a row of thumbnails, one unit wide a slice.

    truth: (n,), NaN where unknown; opinions: {CSS class: (n,)}, a gap where NaN
    """
    height = 40
    bars = "".join(
        f'<rect x="{i}" y="0" width="1" height="{height}"/>' for i in np.flatnonzero(truth == 1)
    )
    lines = "".join(
        f'<path class="{kind}" d="{_along(p, height)}"/>' for kind, p in opinions.items()
    )
    return Markup(
        f'<svg class="lane c-{label}" viewBox="0 0 {len(truth)} {height}" preserveAspectRatio="none" role="img" '
        f'aria-label="{label}: labels and probabilities along the study"><g class="bars">{bars}</g>'
        f'<path class="base" d="M0 {height}H{len(truth)}"/>{lines}</svg>'
    )


def _along(p, height):
    """Path data of the probabilities p (n,), one unit apart, broken where NaN; a lone point becomes
    a dot.
    """
    parts, drawing = [], False
    for i, value in enumerate(p):
        if np.isfinite(value):
            y = height - 2 - value * (height - 4)
            parts.append(f"L{i + 0.5} {y:.1f}" if drawing else f"M{i + 0.5} {y:.1f}h0")
        drawing = bool(np.isfinite(value))
    return "".join(parts)


def montage(pictures):
    """Return a JPEG data URI of pictures (n, size, size) in [0, 1], side by side, without the air
    around all of them.
    """
    rows, cols = (_extent(pictures.max(axis=(0, axis))) for axis in (2, 1))
    height = round(THUMBNAIL * (rows.stop - rows.start) / (cols.stop - cols.start))
    small = [
        Image.fromarray((p[rows, cols] * 255).astype(np.uint8)).resize(
            (THUMBNAIL, height), Image.Resampling.LANCZOS
        )
        for p in pictures
    ]
    buffer = io.BytesIO()
    Image.fromarray(np.hstack([np.asarray(s) for s in small])).save(
        buffer, "JPEG", quality=82, optimize=True
    )
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _extent(profile):
    """Return the slice of a profile (size,) that is bright, with a margin; all of it where nothing
    or little is.
    """
    bright = np.flatnonzero(profile > 0.5)
    margin = len(profile) // 32
    if not len(bright) or bright[-1] - bright[0] < len(profile) // 3:
        return slice(0, len(profile))
    return slice(max(0, bright[0] - margin), min(len(profile), bright[-1] + 1 + margin))


def worth_a_lane(truth, opinions):
    """Say whether a label is labelled or suspected on some slice. truth: (n,); opinions: list of
    (n,); NaN counts as no.
    """
    return (truth == 1).any() or any((p >= SUSPECTED).any() for p in opinions)
