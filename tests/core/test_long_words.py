"""However long what is typed is, it is refused at once: what takes a time that grows with its square would not end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from prunesearch.core.budget import Budget
from prunesearch.core.constraint import Constraint
from prunesearch.core.duration import seconds_of
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule_text import parse_schedule
from prunesearch.core.plans.stage import read_method
from prunesearch.tasks.data.readers.delimited import NUMBER

LONG = 10**6
WORDS = ["1" * LONG + "ms0", "." + "1" * LONG + ":", " " * LONG + "?", "1" + " " * LONG + "?", "a" * LONG + "?"]


@pytest.mark.parametrize("read", [Budget.parse, Constraint.parse, seconds_of, parse_schedule, read_method])
@pytest.mark.parametrize("text", [*WORDS, "quality >= 1" + " " * LONG + "?", "3:" + "1" * LONG, "3:0.5," * (LONG // 6)])
def test_long_words_are_refused_at_once(read: Callable[[str], object], text: str) -> None:
    with pytest.raises(PruneSearchError):
        read(text)


def test_long_cells_are_no_numbers() -> None:
    assert not NUMBER.fullmatch("1" * LONG + "x")
    assert [bool(NUMBER.fullmatch(cell)) for cell in ("1", "1.", ".5", "-1.5e3", ".", "1.5.2")] == [True] * 4 + [
        False
    ] * 2
