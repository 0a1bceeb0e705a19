"""Fronts and hypervolumes against the definitions, written out."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunesearch.core.pareto import hypervolume_2d, non_dominated

CLOSED = {"deadline": None, "derandomize": True, "database": None, "max_examples": 200}
GRID = st.integers(0, 6).map(float)  # small, so that ties and twins happen


def brute(points: list[tuple[float, ...]]) -> list[bool]:
    out = []
    for i, p in enumerate(points):
        beaten = any(math.isnan(v) for v in p)
        for j, q in enumerate(points):
            if any(math.isnan(v) for v in q):
                continue
            no_worse = all(b <= a for a, b in zip(p, q, strict=True))
            beaten |= no_worse and (q != p or j < i)
        out.append(not beaten)
    return out


@settings(**CLOSED)
@given(points=st.lists(st.tuples(GRID, GRID), max_size=12))
def test_two_objectives(points: list[tuple[float, float]]) -> None:
    assert non_dominated(points).tolist() == brute(points)


@settings(**CLOSED)
@given(points=st.lists(st.tuples(GRID, GRID | st.just(math.nan), GRID), min_size=1, max_size=10))
def test_three_objectives_with_holes(points: list[tuple[float, float, float]]) -> None:
    assert non_dominated(np.array(points)).tolist() == brute(points)


def test_infinities_and_nothing() -> None:
    assert non_dominated([(1.0, math.inf), (math.inf, 1.0), (math.inf, math.inf)]).tolist() == [True, True, False]
    assert non_dominated([]).tolist() == []
    assert non_dominated(np.zeros((0, 2))).tolist() == []
    assert non_dominated([(math.nan, 0.0)]).tolist() == [False]


@settings(**CLOSED)
@given(points=st.lists(st.tuples(GRID, GRID), max_size=8), reference=st.tuples(GRID, GRID))
def test_hypervolume_counts_unit_squares(points: list[tuple[float, float]], reference: tuple[float, float]) -> None:
    squares = itertools.product(range(int(reference[0])), range(int(reference[1])))
    area = sum(any(x <= i and y <= j for x, y in points) for i, j in squares)
    assert hypervolume_2d(points, reference) == pytest.approx(area)


@settings(**CLOSED)
@given(points=st.lists(st.tuples(GRID, GRID), min_size=1, max_size=8), extra=st.tuples(GRID, GRID))
def test_hypervolume_never_falls_and_counts_only_the_front(
    points: list[tuple[float, float]], extra: tuple[float, float]
) -> None:
    reference = (7.0, 7.0)
    front = [p for p, on in zip(points, non_dominated(points), strict=True) if on]
    assert hypervolume_2d(front, reference) == pytest.approx(hypervolume_2d(points, reference))
    assert hypervolume_2d([*points, extra], reference) >= hypervolume_2d(points, reference)
