"""Strip of a whole series: a row of thumbnails, and a lane of probabilities for each label.

Lanes are SVG written by hand, here and in study_browser.js: one unit a slice, which the page
stretches to the width of the thumbnails. The axes of a plotting library cannot do that.
"""

import base64
import io
from collections.abc import Iterable, Mapping

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

SHOWN_SLICES = 64  # of a series; of a longer one every second, third, ... slice is shown
SUSPECTED = 0.25  # probability from which a label gets a lane
THUMBNAIL = 104  # pixels wide: twice the width on the page, for dense screens
LANE_HEIGHT = 40


def has_lane(truth: NDArray[np.floating], predictions: Iterable[NDArray[np.floating]]) -> bool:
    """Return whether some slice is labelled, or predicted at SUSPECTED or more.

    truth: (n,); predictions: probabilities (n,) of each kind; NaN counts as no
    """
    return bool((truth == 1).any() or any((p >= SUSPECTED).any() for p in predictions))


def lane(
    label: str, truth: NDArray[np.floating], predictions: Mapping[str, NDArray[np.floating]]
) -> Markup:
    """Return the lane of one label: labelled slices shaded, probabilities as lines from 0 to 1.

    truth: (n,), NaN where unknown; predictions: {CSS class: probabilities (n,)}, a gap where NaN
    """
    bars = "".join(
        f'<rect x="{i}" y="0" width="1" height="{LANE_HEIGHT}"/>'
        for i in np.flatnonzero(truth == 1)
    )
    lines = "".join(f'<path class="{kind}" d="{_path(p)}"/>' for kind, p in predictions.items())
    return Markup(
        f'<svg class="lane c-{label}" viewBox="0 0 {len(truth)} {LANE_HEIGHT}" '
        'preserveAspectRatio="none" role="img" '
        f'aria-label="{label}: labels and probabilities along the study">'
        f'<g class="bars">{bars}</g>'
        f'<path class="base" d="M0 {LANE_HEIGHT}H{len(truth)}"/>{lines}</svg>'
    )


def _path(p: NDArray[np.floating]) -> str:
    """Return SVG path data of probabilities (n,): a gap where NaN, a dot for a lone point."""
    parts, connected = [], False
    for i, value in enumerate(p):
        if np.isfinite(value):
            y = LANE_HEIGHT - 2 - value * (LANE_HEIGHT - 4)
            parts.append(f"L{i + 0.5} {y:.1f}" if connected else f"M{i + 0.5} {y:.1f}h0")
        connected = bool(np.isfinite(value))
    return "".join(parts)


def montage(pictures: NDArray[np.floating]) -> str:
    """Return a JPEG data URI of pictures (n, size, size) in [0, 1], side by side.

    The air around the heads is cropped, the same rows and columns in all pictures.
    """
    rows = bright_range(pictures.max(axis=(0, 2)))
    cols = bright_range(pictures.max(axis=(0, 1)))
    height = round(THUMBNAIL * (rows.stop - rows.start) / (cols.stop - cols.start))
    thumbnails = []
    for picture in pictures:
        image = Image.fromarray((picture[rows, cols] * 255).astype(np.uint8))
        thumbnails.append(image.resize((THUMBNAIL, height), Image.Resampling.LANCZOS))
    buffer = io.BytesIO()
    whole = Image.fromarray(np.hstack([np.asarray(image) for image in thumbnails]))
    whole.save(buffer, "JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def bright_range(profile: NDArray[np.floating]) -> slice:
    """Return the bright range of a profile (size,), with a margin.

    It is the whole profile where less than a third is bright.
    """
    bright = np.flatnonzero(profile > 0.5)
    margin = len(profile) // 32
    if not len(bright) or bright[-1] - bright[0] < len(profile) // 3:
        return slice(0, len(profile))
    return slice(max(0, bright[0] - margin), min(len(profile), bright[-1] + 1 + margin))
