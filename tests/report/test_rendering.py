"""Numbers as the pages print them: rounded before the unit is chosen."""

import pytest

from report.rendering import duration, size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0.4 s"),
        (59.94, "59.9 s"),
        (59.97, "1 min 00 s"),
        (119.7, "2 min 00 s"),
        (200, "3 min 20 s"),
        (3599.4, "59 min 59 s"),
        (3599.9, "1 h 00 min"),
        (7195, "2 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("gigabytes", "text"),
    [
        (0.0002, "0.2 MB"),
        (0.00996, "10 MB"),
        (0.045, "45 MB"),
        (0.9994, "999 MB"),
        (0.9999, "1.0 GB"),
        (12.34, "12.3 GB"),
    ],
)
def test_sizes(gigabytes, text):
    assert size(gigabytes) == text
