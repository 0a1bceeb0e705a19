"""Cells that lean on their neighbours, and a table under a busy neighbour, on machines whose costs are known."""

from __future__ import annotations

import random

import numpy as np
import pytest

from prunesearch.cost.tables.smooth import smooth, smooth_form
from prunesearch.cost.tables.table_records import PROMISED
from prunesearch.cost.timing.build import pace_of
from prunesearch.cost.timing.unseen import unseen_schedules
from tests.support.known_machine import METHODS, synthetic_walks, table_of, true_total
from tests.support.some import some

COUNTS = (16, 64, 200, 500, 900, 1400, 2000, 2600, 3300, 4096)


def true(n: int) -> float:
    return 0.4 + 2e-3 * n + 1e-6 * n * n


def test_what_is_known_exactly_stays_as_it_is_steps_and_all():
    steps = {n: (true(n) * (1.3 if n > 1000 else 1.0), 0.0) for n in COUNTS}
    assert smooth(steps) == {n: ms for n, (ms, _) in steps.items()}
    nearly = smooth({n: (ms, 1e-3 * ms) for n, (ms, _) in steps.items()})
    assert [nearly[n] for n in COUNTS] == pytest.approx([steps[n][0] for n in COUNTS], rel=2e-3)


def test_noisy_cells_come_nearer_to_the_truth():
    rng, before, after = np.random.default_rng(0), [], []
    for _ in range(200):
        seen = {n: true(n) * float(rng.normal(1, 0.15)) for n in COUNTS}
        told = smooth({n: (ms, 0.15 * true(n)) for n, ms in seen.items()})
        before += [abs(seen[n] / true(n) - 1) for n in COUNTS]
        after += [abs(told[n] / true(n) - 1) for n in COUNTS]
    assert np.mean(after) < 0.65 * np.mean(before)


def test_few_points_are_left_alone():
    points = {n: (true(n), 0.2) for n in COUNTS[:4]}
    assert smooth(points) == {n: ms for n, (ms, _) in points.items()}


def test_a_smaller_half_leans_on_the_whole_one():
    """Of a few timings that are long now and then, as where cores are shared; one of them lies far off."""
    rng, before, after = np.random.default_rng(0), [], []
    whole = {n: true(n) * (1.2 if n > 1000 else 1.0) for n in COUNTS}
    form = {n: 0.05 + 0.5 * whole[n] for n in COUNTS}
    for _ in range(100):
        seen = {n: form[n] * float(rng.normal(1, 0.3) if n > 16 else 6.0) for n in COUNTS}
        told = smooth_form({n: (ms, 0.3 * ms) for n, ms in seen.items()}, whole)
        before += [abs(seen[n] / form[n] - 1) for n in COUNTS[1:]]
        after += [abs(told[n] / form[n] - 1) for n in COUNTS]
    assert np.mean(after) < 0.6 * np.mean(before)


def test_a_smaller_half_that_is_known_well_stays_as_it_is():
    whole = {n: true(n) for n in COUNTS}
    steps = {n: 0.5 * true(n) * (1.3 if n > 1000 else 1.0) for n in COUNTS}
    told = smooth_form({n: (ms, 1e-3 * ms) for n, ms in steps.items()}, whole)
    assert [told[n] for n in COUNTS] == pytest.approx([steps[n] for n in COUNTS], rel=0.01)
    exact = smooth_form({n: (0.5 * true(n), 0.0) for n in COUNTS}, whole)
    assert [exact[n] for n in COUNTS] == pytest.approx([0.5 * true(n) for n in COUNTS])
    nothing = smooth_form(dict.fromkeys(COUNTS, (0.0, 0.0)), whole)
    assert set(nothing.values()) == {0.0}


def test_a_pace_is_taken_from_a_few_walks_where_the_machine_wanders_and_from_all_where_each_is_disturbed_by_itself():
    rng = np.random.default_rng(0)
    apart = np.exp(rng.normal(0, 0.3, 200))
    assert (pace_of(apart) == 1).all()
    wandering = 1 + 0.5 * np.sin(np.linspace(0, np.pi, 200))
    found = pace_of(wandering * rng.normal(1, 0.01, 200))
    assert found == pytest.approx(wandering / np.median(wandering), rel=0.03)


@pytest.mark.parametrize("walks", [155, 600])
def test_a_table_beside_a_busy_process_keeps_its_promise(walks: int):
    """A neighbour holds up two pieces in five for as long again, or longer, as one on half of the cores does."""

    def held_up(rng: random.Random) -> float:
        return rng.expovariate(2.0) if rng.random() < 0.4 else 0.0

    table, rng = table_of(synthetic_walks(walks, held_up)), random.Random(5)
    errors = []
    for schedule in some(unseen_schedules(table, METHODS, count=20)):
        pieces = len(schedule.flow(table.geometry)) * 3 + 2
        forwards = [true_total(schedule) + sum(held_up(rng) for _ in range(pieces)) for _ in range(400)]
        errors.append(abs(table.predict(schedule) / float(np.median(forwards)) - 1))
    assert np.mean(errors) < PROMISED
