from datetime import timedelta

import pytest

from prunesearch.core.duration import seconds_of
from prunesearch.core.errors import PruneSearchError


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("10 min", 600),
        ("2h", 7200),
        ("1.5H", 5400),
        ("500ms", 0.5),
        ("10\u00b5s", 1e-5),
        ("10 \u03bcs", 1e-5),
        ("10us", 1e-5),
        ("1e2s", 100),
        (7, 7),
        (0.5, 0.5),
        (timedelta(minutes=2), 120),
    ],
)
def test_durations_are_read(duration, seconds):
    assert seconds_of(duration) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["soon", "10", "", "m", "10x", "-3s", "1h30m", "infs", "nans"])
def test_what_is_no_duration_is_one_line(text):
    with pytest.raises(PruneSearchError) as error:
        seconds_of(text)
    assert str(error.value) == f"a time is written 90s, 10m or 2h, but got '{text}'"
