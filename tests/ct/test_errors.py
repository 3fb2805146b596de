"""Texts of messages: a count agrees with its noun."""

import pytest

from ct.errors import number_of


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (1, "patient", "1 patient"),
        (0, "patient", "0 patients"),
        (2, "train slice", "2 train slices"),
        (1, "study", "1 study"),
        (3, "study", "3 studies"),
        (2, "series", "2 series"),
        (752_803, "epoch", "752,803 epochs"),
    ],
)
def test_a_count_agrees_with_its_noun(count, noun, text):
    assert number_of(count, noun) == text
