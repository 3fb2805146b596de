"""The page of `score`: which studies it shows, and of how many slices."""

import numpy as np
import pandas as pd

from ct.labels import LABELS
from report.scored_studies_page import ScoredStudies, write_scored_page


def page(path, counts, scored=None):
    """Write the page of studies of so many slices, the likeliest first, and return it."""
    names = [name for name, count in counts.items() for _ in range(count)]
    slices = pd.DataFrame(
        {"study_id": names, "series_id": "s", "readable": False, "position_mm": np.nan},
        pd.Index([f"slice-{i}" for i in range(len(names))], name="slice_id"),
    ).assign(**dict.fromkeys(LABELS, 0.5))
    studies = pd.DataFrame({"slices": counts, "status": "scored", "series": 1})
    studies["scored_slices"] = pd.Series(counts | (scored or {}))
    for label in LABELS:
        studies[label] = np.linspace(0.9, 0.1, len(studies))
    remarks = pd.DataFrame(columns=["study_id", "series_id", "refuses", "what", "means"])
    content = ScoredStudies(
        studies, slices, slices, remarks, lambda numbers: np.zeros((len(numbers), 8, 8), np.int16)
    )
    write_scored_page(path, "micro", content)
    return path.read_text()


def test_the_browser_has_the_likeliest_studies_without_a_gap(tmp_path):
    text = page(tmp_path / "page.html", {"A": 400, "B": 300, "C": 150, "D": 40})
    assert "The 1 of 4 studies with the highest probabilities." in text
    text = page(tmp_path / "page.html", {"A": 400, "B": 150, "C": 300, "D": 40})
    assert "The 2 of 4 studies with the highest probabilities." in text
    shown = ['<a href="#study=A">', '<a href="#study=B">', "<code>C</code>", "<code>D</code>"]
    assert all(each in text for each in shown)


def test_a_study_too_large_for_the_browser_is_shown_alone(tmp_path):
    text = page(tmp_path / "page.html", {"A": 700, "B": 10})
    assert "The 1 of 2 studies with the highest probabilities." in text


def test_slices_that_were_not_scored_are_not_counted_with_those_that_were(tmp_path):
    text = page(tmp_path / "page.html", {"A": 61, "B": 30}, scored={"A": 30})
    assert '<td class="num">30 of 61</td>' in text and '<td class="num">30</td>' in text
