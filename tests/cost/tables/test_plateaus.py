import itertools
import math
import random
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunesearch.core.errors import PruneSearchError
from prunesearch.cost.tables.plateaus import CurvePoint, Plateau, block_curve, plateaus, right_edges, standard_error_ms
from prunesearch.cost.tables.table_records import Cell
from tests.support.known_machine import COUNTS, true_ms
from tests.support.some import some

GRID = range(8, 200, 4)


def staircase(n: int) -> float:
    """Steps of 32 tokens, 15 % high and more."""
    return 1.0 * 1.25 ** math.ceil(n / 32)


EDGES = [32, 64, 96, 128, 160, 192, 196]  # 196 is the end of the grid, on the last step


def noisy(curve, relative_error: float, seed: int) -> list[CurvePoint]:
    rng = random.Random(seed)
    points = []
    for n in GRID:
        error = relative_error * curve(n)
        points.append(CurvePoint(n, curve(n) + rng.gauss(0, error), error))
    return points


@pytest.mark.parametrize("relative_error", [0.0, 0.001, 0.005, 0.01, 0.02])
@pytest.mark.parametrize("seed", range(20))
def test_a_staircase_keeps_exactly_its_right_edges_under_noise(relative_error, seed):
    assert right_edges(noisy(staircase, relative_error, seed)) == EDGES


@pytest.mark.parametrize("seed", range(10))
def test_edges_hold_when_the_error_itself_is_estimated_from_samples(seed):
    """As in a table: medians of skewed samples, their error from p10 and p90."""
    rng, points = np.random.default_rng(seed), []
    for n in GRID:
        samples = staircase(n) * (1 + rng.gamma(2.0, 0.03, 150))
        low, high = np.quantile(samples, [0.1, 0.9])
        cell = Cell(ms=np.median(samples), median_ms=np.median(samples), p10_ms=low, p90_ms=high, samples=150)
        points.append(CurvePoint(n, cell.ms, standard_error_ms(cell)))
    assert right_edges(points) == EDGES


def test_steps_that_drown_in_the_noise_are_not_claimed():
    clear = noisy(staircase, 0.0, 0)
    blurred = [CurvePoint(p.tokens, p.ms, 0.2 * p.ms) for p in clear]
    kept = right_edges(blurred)
    assert set(kept) < set(EDGES)
    assert max(GRID) in kept


def test_a_smooth_curve_keeps_all_its_points():
    curve = [CurvePoint(n, 0.2 + 0.01 * n + 2e-5 * n * n) for n in GRID]
    assert right_edges(curve) == list(GRID)


def test_a_smooth_curve_with_noise_keeps_nearly_all_of_them():
    """Steps of 8 tokens cost 4 % and more; medians of hundreds of samples are known to 0.3 %."""
    for seed in range(10):
        curve = noisy(lambda n: 0.01 * n + 2e-5 * n * n, 0.003, seed)[::2]
        assert len(right_edges(curve)) >= len(curve) - 1


def test_counts_closer_than_what_matters_are_thinned_not_lost():
    """At one token a point, a neighbour saves 0.5 %: every second or third count stays, over the whole range."""
    curve = [CurvePoint(n, 0.01 * n) for n in range(50, 201)]
    kept = right_edges(curve)
    gains = [1 - a / b for a, b in itertools.pairwise(kept)]
    assert min(gains) > 0.0098
    assert max(gains) < 0.025
    assert kept[-1] == 200


def test_a_count_that_is_slower_than_a_larger_one_is_dropped():
    curve = [CurvePoint(n, ms) for n, ms in ((48, 0.8), (64, 0.95), (65, 1.3), (72, 1.1), (80, 1.4))]
    assert right_edges(curve) == [48, 64, 72, 80]
    assert plateaus(curve) == [Plateau(48, 48, 0.8), Plateau(64, 64, 0.95), Plateau(65, 72, 1.1), Plateau(80, 80, 1.4)]


def test_a_flat_curve_offers_its_largest_count_alone():
    assert plateaus([CurvePoint(n, 3.0) for n in GRID]) == [Plateau(GRID[0], GRID[-1], 3.0)]
    assert plateaus([]) == []


def test_tiles_and_waves_of_a_gpu():
    """Rows of a batch of 8 in tiles of 128, three column tiles, in waves over 20 multiprocessors."""

    def waves(n: int) -> int:
        return math.ceil(math.ceil(8 * n / 128) * 3 / 20)

    curve = [CurvePoint(n, 0.01 + 0.02 * waves(n), 1e-5) for n in range(8, 400)]
    expected = [max(p.tokens for p in group) for _, group in itertools.groupby(curve, key=lambda p: waves(p.tokens))]
    assert len(expected) == 4
    assert right_edges(curve) == expected


# -- what must hold for every curve ------------------------------------------------------------------

points = st.builds(
    lambda counts, costs: [CurvePoint(n, ms, error) for n, (ms, error) in zip(counts, costs, strict=False)],
    st.lists(st.integers(1, 400), min_size=1, max_size=30, unique=True),
    st.lists(st.tuples(st.floats(0.01, 100), st.floats(0, 5)), min_size=30, max_size=30),
)


@given(points)
def test_nothing_is_left_out_without_a_larger_count_that_costs_no_more(curve):
    kept = right_edges(curve)
    cost = {p.tokens: p for p in curve}
    assert kept == sorted(set(kept))
    assert kept[-1] == max(cost)

    def clearly_less(a, b):
        return b.ms - a.ms > max(4 * math.hypot(a.error_ms, b.error_ms), 0.01 * a.ms)

    for n, point in some(cost.items()):
        beaten = any(not clearly_less(point, cost[m]) for m in kept if m > n)
        assert beaten == (n not in kept)


@given(points)
def test_plateaus_hold_every_count_once_and_end_at_the_edges(curve):
    found = plateaus(curve)
    assert [p.last for p in found] == right_edges(curve)
    assert all(a.last < b.first for a, b in itertools.pairwise(found))  # there may be one alone
    for point in some(curve):
        assert sum(p.first <= point.tokens <= p.last for p in found) == 1
    assert {p.first for p in found} <= {p.tokens for p in curve}


@settings(max_examples=50)
@given(points, st.randoms(), st.sampled_from([0.125, 8.0]))
def test_neither_the_order_nor_the_unit_matters(curve, rng, unit):
    shuffled = [CurvePoint(p.tokens, p.ms * unit, p.error_ms * unit) for p in curve]
    rng.shuffle(shuffled)
    assert right_edges(shuffled) == right_edges(curve)


@given(st.lists(st.integers(1, 8), min_size=1, max_size=8), st.integers(1, 16))
def test_any_noise_free_staircase_gives_back_its_edges(lengths, tile):
    counts = [n * tile for n in range(1, sum(lengths) + 1)]
    level = list(itertools.chain.from_iterable([i] * length for i, length in enumerate(lengths, start=1)))
    curve = [CurvePoint(n, 0.5 * step) for n, step in zip(counts, level, strict=True)]
    assert right_edges(curve) == [n * tile for n in itertools.accumulate(lengths)]


# -- tables --------------------------------------------------------------------------------------------


def test_a_blocks_curve_is_the_sum_of_its_halves(table):
    plain, sized = block_curve(table, biased=False), block_curve(table, biased=True)
    assert [p.tokens for p in plain] == [*COUNTS, 65]
    assert [p.tokens for p in sized] == COUNTS
    for curve, biased in ((plain, False), (sized, True)):
        for p in curve:
            expected = true_ms(("attention", p.tokens, biased, "")) + true_ms(("mlp", p.tokens, ""))
            assert p.ms == pytest.approx(expected, rel=1e-6)
            assert p.error_ms == pytest.approx(0, abs=1e-9)
    assert right_edges(plain) == [*COUNTS, 65]


def test_the_standard_error_of_a_median_matches_resampling():
    rng = np.random.default_rng(0)
    medians, guesses = [], []
    for _ in range(400):
        samples = rng.normal(10, 1, 100)
        low, middle, high = np.quantile(samples, [0.1, 0.5, 0.9])
        medians.append(middle)
        guesses.append(standard_error_ms(Cell(ms=middle, median_ms=middle, p10_ms=low, p90_ms=high, samples=100)))
    assert statistics.median(guesses) == pytest.approx(statistics.stdev(medians), rel=0.1)


def test_errors_of_the_halves_add_in_quadrature(table):
    spread = {"p10_ms": 1.0, "p90_ms": 1.0 + 2.563, "samples": 4}
    cells = table.cells.model_copy(
        update={
            part: [cell.model_copy(update=spread) for cell in getattr(table.cells, part)]
            for part in ("attention", "mlp")
        }
    )
    for point in some(block_curve(table.model_copy(update={"cells": cells}), biased=False)):
        assert point.error_ms == pytest.approx(math.sqrt(2) * math.sqrt(math.pi / 2) / 2)


def test_an_estimate_has_no_noise():
    assert standard_error_ms(Cell(ms=1, median_ms=1, p10_ms=1, p90_ms=1, samples=0)) == 0.0


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ((0, 1.0, 0.0), "`tokens >= 1` must hold for a point of a curve, but got 0"),
        ((1, -1.0, 0.0), "`ms >= 0` must hold for a point of a curve, but got -1.0"),
        ((1, math.nan, 0.0), "`ms >= 0` must hold for a point of a curve, but got nan"),
        ((1, 1.0, math.inf), "`error_ms >= 0` must hold for a point of a curve, but got inf"),
    ],
)
def test_points_that_cannot_be_are_refused(point, message):
    with pytest.raises(PruneSearchError, match=message):
        CurvePoint(*point)


def test_a_count_that_comes_twice_is_refused():
    with pytest.raises(PruneSearchError, match="each token count must come once in a curve, but 8 comes twice"):
        right_edges([CurvePoint(8, 1.0), CurvePoint(9, 1.0), CurvePoint(8, 2.0)])
