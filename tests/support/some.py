"""Loops that check something at least once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def some(items: Iterable[T]) -> list[T]:
    """The items, of which there must be one at least: a loop over none checks nothing, and passes."""
    found = list(items)
    assert found, "there is nothing to check"
    return found
