from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from prunesearch.core.pareto import hypervolume_2d
from prunesearch.search.samplers.improvement import Staircase

REFERENCE = (1.0, 0.5)


@pytest.mark.parametrize("seed", range(5))
def test_gain_is_the_growth_of_the_hypervolume(seed: int) -> None:
    rng = np.random.default_rng(seed)
    front = rng.random((seed * 3, 2)) * [1.1, 0.6]
    stairs = Staircase(front, REFERENCE)
    cost, loss = rng.random(20) * 1.1, rng.random(20) * 0.6
    found = stairs.gain(cost, loss)
    before = hypervolume_2d(front, REFERENCE)
    for k in range(20):
        with_it = hypervolume_2d(np.vstack([front, [[cost[k], loss[k]]]]), REFERENCE)
        assert found[k] == pytest.approx(with_it - before, abs=1e-12)


def test_expected_gain_is_the_integral_over_the_loss() -> None:
    front = np.array([[0.4, 0.3], [0.7, 0.05], [0.9, 0.01]])
    stairs = Staircase(front, REFERENCE)
    for cost, mean, sd in ((0.5, np.log(0.2), 0.4), (0.3, np.log(0.4), 0.3), (0.8, np.log(0.03), 0.6)):
        normal = stats.norm(mean, sd)

        def integrand(x: float, cost: float = cost, normal: object = normal) -> float:
            gained = stairs.gain(np.array([cost]), np.array([np.exp(x)]))[0]
            return float(gained * normal.pdf(x))  # type: ignore[attr-defined]

        exact, _ = integrate.quad(integrand, mean - 6 * sd, mean + 6 * sd, limit=200)
        found = stairs.expected_gain(np.array([cost]), np.array([mean]), np.array([sd]))[0]
        assert found == pytest.approx(exact, rel=0.03)


def test_what_is_dominated_for_sure_gains_nothing() -> None:
    stairs = Staircase(np.array([[0.5, 0.1]]), REFERENCE)
    found = stairs.expected_gain(np.array([0.6, 1.2]), np.log([0.3, 0.01]), np.array([1e-3, 1e-3]))
    np.testing.assert_array_equal(found, 0.0)
