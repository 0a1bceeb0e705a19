"""The lower bound of a paired difference: against the likelihood itself, and how often it is wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from prunesearch.tasks.metrics.classes import Accuracy
from prunesearch.tasks.metrics.pairs import paired_lower_bound, score


@pytest.mark.parametrize("cells", [(3, 7, 200, -0.03), (10, 12, 500, -0.01), (0, 4, 150, -0.05), (30, 20, 400, 0.05)])
def test_the_score_is_that_of_the_likelihood_given_the_difference(cells):
    b, c, n, d = cells

    def unlikely(lost: float) -> float:
        return -(b * np.log(lost + d) + c * np.log(lost) + (n - b - c) * np.log(1 - 2 * lost - d))

    lost = minimize_scalar(unlikely, bounds=(max(0, -d) + 1e-9, (1 - d) / 2 - 1e-9), method="bounded").x
    assert score(*cells) == pytest.approx((b - c - n * d) / np.sqrt(n * (2 * lost + d - d * d)), abs=1e-3)


def test_where_no_pair_differs_it_is_nearly_the_rule_of_three():
    """No loss in n rows: at 95 % confidence fewer than 3 in n; the score says z^2 in n + z^2."""
    z2 = norm.ppf(0.95) ** 2
    assert paired_lower_bound(0, 0, 300) == pytest.approx(-z2 / (300 + z2), abs=1e-9)
    assert paired_lower_bound(0, 0, 100) < -0.02


@pytest.mark.parametrize(("gain", "lose"), [(0.0, 0.01), (0.005, 0.015), (0.03, 0.04), (0.1, 0.11)])
@pytest.mark.parametrize("rows", [300, 2000])
def test_it_is_above_the_truth_in_one_of_twenty(gain, lose, rows):
    random = np.random.default_rng(0)
    drawn = random.multinomial(rows, [gain, lose, 1 - gain - lose], size=20_000)
    wrong = (paired_lower_bound(drawn[:, 0], drawn[:, 1], rows) > gain - lose).mean()
    assert wrong < 0.075


def test_a_metric_of_right_and_wrong_uses_it():
    before, after = torch.ones(400, 1), torch.ones(400, 1)
    after[:3] = 0
    assert Accuracy().at_least(before, after) == pytest.approx(float(paired_lower_bound(0, 3, 400)))
    assert Accuracy().at_least(before, after) < -3 / 400
