"""Rows of the holdout split by need: what may come to be recommended is read in full, the rest as far as it needs."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch

from prunesearch.search.finish.need import Prospect, prospect_of, rows_needed
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
