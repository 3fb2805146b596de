"""Manufacturers are known words, whatever the tag holds."""

import pytest

from ct.privacy.manufacturers import WORDS, manufacturer_term


@pytest.mark.parametrize(
    ("text", "term"),
    [
        ("GE MEDICAL SYSTEMS", "GE"),
        ("G.E. Medical Systems", "GE"),
        ("SIEMENS", "SIEMENS"),
        ("Siemens Healthineers", "SIEMENS"),
        ("Philips Medical Systems ", "PHILIPS"),
        ("TOSHIBA_MEC", "CANON"),
        ("Canon Medical Systems", "CANON"),
        ("Hitachi Medical Corporation", "FUJIFILM"),
        ("NeuroLogica", "NEUROLOGICA"),
        ("UIH", "UNITED IMAGING"),
        ("", ""),
        (" \0", ""),
        ("Dr Jane Doe", "?"),
        ("GEORGE SMITH", "?"),
    ],
)
def test_the_known_word(text, term):
    assert manufacturer_term(text) == term
    assert term in {*WORDS, "?", ""}
