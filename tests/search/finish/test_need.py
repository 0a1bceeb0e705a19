"""Rows of the holdout split by need: what may come to be recommended is read in full, the rest as far as it needs."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch

from prunesearch.search.finish.need import InTurn, Prospect, is_lost, prospect_of, rows_at_least, rows_needed
from prunesearch.search.trials.evaluate import Evaluation
from prunesearch.search.trials.incumbents import pack_rows
from prunesearch.tasks.metrics.classes import Accuracy

LIMIT, INTERVAL, TOTAL = -0.0083, 0.0166, 4000


def rows(change: float, spread: float, of: int = 1024) -> int:
    return rows_needed([Prospect(change, spread, of)], LIMIT, INTERVAL, TOTAL)[0]


def test_a_candidate_near_the_border_takes_all_rows():
    for change in (LIMIT - 0.003, LIMIT, LIMIT + 0.005):
        assert rows(change, 0.2) == TOTAL


def test_one_that_nothing_is_known_of_takes_all_rows_and_so_do_all_without_a_limit():
    assert rows_needed([None, Prospect(-0.3, 0.4, 1024)], LIMIT, INTERVAL, TOTAL) == [TOTAL, rows(-0.3, 0.4)]
    assert rows_needed([Prospect(-0.3, 0.4, 1024)], None, INTERVAL, TOTAL) == [TOTAL]


@pytest.mark.parametrize("spread", [0.02, 0.05, 0.08])
def test_one_that_is_surely_good_enough_takes_as_many_as_show_it(spread: float):
    """On these rows a one-sided test at 5 % finds it 99 times in 100, were its change a standard error worse."""
    n, change = rows(0.0, spread), 0.0 - spread / 32
    assert 128 <= n < TOTAL
    if n > 128:
        bound = NormalDist(change - NormalDist().inv_cdf(0.95) * spread / math.sqrt(n), spread / math.sqrt(n))
        assert 1 - bound.cdf(LIMIT) == pytest.approx(0.99, abs=0.001)


def test_one_that_is_surely_not_takes_as_many_as_its_interval_needs():
    for change, spread in ((-0.03, 0.2), (-0.08, 0.3), (-0.3, 0.5)):
        n = rows(change, spread)
        assert 128 <= n < TOTAL
        half = 1.96 * spread / math.sqrt(n)
        assert half <= max(INTERVAL, 0.25 * abs(change)) * 1.001


def test_a_prospect_is_the_paired_change_on_the_rows_of_the_search():
    random = np.random.default_rng(0)
    before, after = (torch.from_numpy(random.random((500, 1)) < share).float() for share in (0.8, 0.7))
    kl, agrees = torch.rand(500), torch.ones(500, dtype=torch.bool)
    unpruned, pruned = (Evaluation(rows, kl, agrees, Accuracy()) for rows in (before, after))
    found = prospect_of(pack_rows(pruned), unpruned)
    assert found is not None
    assert found.rows == 500
    assert found.change == pytest.approx(float((after - before).mean()))
    assert found.spread == pytest.approx(float((after - before).std()), rel=0.02)
    assert prospect_of(None, unpruned) is None
    assert prospect_of(pack_rows(pruned.first(100)), unpruned) is None


def drawn(change: float, rows: int = 4000, seed: int = 0) -> tuple[Evaluation, Evaluation]:
    """An unpruned model that is right on 80 of 100 rows, and one whose quality is another by `change`."""
    random = np.random.default_rng(seed)
    right = random.random(rows) < 0.8
    flipped = random.random(rows) < np.where(right, max(0.02, 0.02 - change / 0.8), 0.02 * 4)
    kl, agrees = torch.zeros(rows), torch.ones(rows, dtype=torch.bool)
    both = (torch.from_numpy(x).float()[:, None] for x in (right, right ^ flipped))
    before, after = (Evaluation(x, kl, agrees, Accuracy()) for x in both)
    return before, after


def read_on(turn: InTurn, found: Evaluation, most: int, least: int) -> int:
    """The rows after which reading ends, 50 at a time."""
    ends = turn.ends(most, least)
    return next((n for n in range(50, most, 50) if ends(found.statistics[:n])), most)


def test_what_has_lost_is_read_no_further_and_what_may_win_is():
    before, bad = drawn(-0.08)
    turn = InTurn(before, LIMIT)
    assert 500 <= read_on(turn, bad, TOTAL, 500) < 1000
    for change in (0.0, -0.005):
        assert read_on(turn, drawn(change)[1], TOTAL, 500) == TOTAL
    assert read_on(InTurn(before, None), bad, TOTAL, 500) == TOTAL


def test_behind_one_that_failed_nothing_takes_more_than_it_needs_of_itself():
    before, bad = drawn(-0.08)
    turn = InTurn(before, LIMIT)
    assert turn.rows(1.0, TOTAL, 500) == TOTAL
    turn.read(1.0, before)
    assert turn.rows(0.9, TOTAL, 500) == TOTAL
    turn.read(0.9, bad.first(1000))
    assert turn.rows(0.89, TOTAL, 500) == TOTAL  # may come before it when both are measured
    assert turn.rows(0.8, TOTAL, 500) == 500
    assert turn.rows(0.8, 300, 500) == 300


def test_a_candidate_is_lost_where_its_chance_is_next_to_none():
    """Of candidates of one true change, as many as that come to pass in spite of what is said of them half-way."""
    random, error, limit = np.random.default_rng(0), 1.0, 0.0
    enough, spread = limit + 1.645 * error / math.sqrt(2), error / math.sqrt(2)
    whole = random.normal(enough, spread, 200_000)  # half of these pass on all rows
    half = whole + random.normal(0, spread, len(whole))
    lost = is_lost(half, np.full(len(half), error), limit, 0.5)
    assert 0.03 < lost.mean() < 0.1
    assert 0 < (lost & (whole > enough)).mean() < 0.01


def test_rows_at_least_are_those_of_no_contender():
    prospects = [Prospect(-0.3, 0.4, 1024), Prospect(LIMIT, 0.2, 1024), None]
    assert rows_at_least(prospects, INTERVAL, TOTAL)[0] == rows_needed(prospects, LIMIT, INTERVAL, TOTAL)[0]
    assert rows_at_least(prospects, INTERVAL, TOTAL)[1] < TOTAL
    assert rows_at_least(prospects, INTERVAL, TOTAL)[2] == TOTAL
