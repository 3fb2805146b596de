"""Strips of series: lanes of labels and probabilities, cropped thumbnails."""

import numpy as np

from report.figures.series_strip import bright_range, lane, montage


def test_lane_draws_labels_and_probabilities_in_place():
    """The labelled slice is shaded, a gap breaks the line, and 1 is above 0."""
    picture = lane("any", np.array([0, 1, np.nan, 0]), {"final": np.array([0.0, 1.0, np.nan, 0.5])})
    assert picture.count("<rect") == 1 and '<rect x="1" y="0" width="1"' in picture
    assert '<path class="final" d="M0.5 38.0h0L1.5 2.0M3.5 20.0h0"/>' in picture


def test_montage_crops_the_air_around():
    """A bright disc is cut out; a dark picture stays whole."""
    grid = np.hypot(*np.mgrid[-32:32, -32:32])
    assert bright_range((grid < 16).max(axis=0)) == slice(15, 50)
    assert bright_range(np.zeros(64)) == slice(0, 64)
    assert montage(np.zeros((2, 64, 64))).startswith("data:image/jpeg;base64,")
