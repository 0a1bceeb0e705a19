import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, norm

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.metrics.metric import agreement, correct, kl_divergence, paired_difference, wilson


def test_correct_and_agreement_by_hand():
    a = torch.tensor([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]])
    b = torch.tensor([[0.0, 1.0], [0.0, 1.0], [5.0, 0.0]])
    assert correct(a, torch.tensor([0, 0, 0])).tolist() == [True, False, True]
    assert agreement(a, b).tolist() == [False, True, True]


def test_kl_by_hand_and_in_this_direction():
    p, q = [0.5, 0.5], [0.9, 0.1]
    logs = [torch.tensor([p]).log() + 7.0, torch.tensor([q]).log()]  # a shift changes no probability
    expected = sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
    reverse = sum(y * math.log(y / x) for x, y in zip(p, q, strict=True))
    assert kl_divergence(*logs).item() == pytest.approx(expected, abs=1e-6)
    assert abs(expected - reverse) > 0.1


def test_kl_is_zero_on_itself_non_negative_and_float32_for_half():
    torch.manual_seed(0)
    logits = torch.randn(200, 7) * 10
    other = logits + torch.randn(200, 7) * 1e-4
    assert kl_divergence(logits, logits).abs().max() < 1e-6
    assert kl_divergence(logits, other).min() > -1e-6
    half = kl_divergence(logits.half(), (logits + 1).half())
    assert half.dtype == torch.float32
    assert half.shape == (200,)


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (3, 7), (3890, 4000)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_equals_scipy(k: int, n: int, level: float):
    expected = binomtest(k, n).proportion_ci(level, method="wilson")
    value, low, high = wilson(k, n, level)
    assert (value, low, high) == pytest.approx((k / n, expected.low, expected.high), abs=1e-12)


def test_paired_difference_equals_moments_of_the_adjusted_table():
    # 2x2 table: both right 60, only a 12, only b 5, neither 23
    a = torch.tensor([True] * 60 + [True] * 12 + [False] * 5 + [False] * 23)
    b = torch.tensor([True] * 60 + [False] * 12 + [True] * 5 + [False] * 23)
    differences, weights = np.array([0.0, -1.0, 1.0, 0.0]), np.array([60.5, 12.5, 5.5, 23.5])
    mean = np.average(differences, weights=weights)
    variance = np.average((differences - mean) ** 2, weights=weights) / weights.sum()
    half = norm.ppf(0.975) * math.sqrt(variance)
    value, low, high = paired_difference(a, b)
    assert value == pytest.approx(-0.07)
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=1e-12)
    assert low < value < high


def test_paired_interval_is_open_even_when_nothing_differs_and_is_antisymmetric():
    same = torch.ones(50, dtype=torch.bool)
    value, low, high = paired_difference(same, same)
    assert value == 0
    assert low == pytest.approx(-high)
    assert high > 0
    other = same.clone()
    other[:9] = False
    forth, back = paired_difference(same, other), paired_difference(other, same)
    assert forth == pytest.approx((-back[0], -back[2], -back[1]))


def test_paired_interval_covers_the_true_difference_about_95_percent():
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        cell = random.choice(4, size=80, p=[0.7, 0.1, 0.05, 0.15])  # both, a only, b only, none
        a, b = torch.from_numpy(cell <= 1), torch.from_numpy((cell == 0) | (cell == 2))
        _, low, high = paired_difference(a, b)
        covered += low <= -0.05 <= high
    assert 0.92 <= covered / 400 <= 0.985


def test_bad_arguments():
    with pytest.raises(PruneSearchError, match="0 <= successes"):
        wilson(3, 2)
    with pytest.raises(PruneSearchError, match="level"):
        wilson(1, 2, level=95)
    with pytest.raises(PruneSearchError, match="same rows"):
        paired_difference(torch.ones(3), torch.ones(4))
