"""The equal error rate, judged by the ROC of scikit-learn."""

import numpy as np
import pytest
import torch
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.metrics import roc_curve
from torch import Tensor

from prunesearch.tasks.metrics.equal_error import equal_error_rates
from prunesearch.tasks.metrics.metric import RESAMPLES, find_metric, resampling_weights

METRIC = find_metric("eer_accuracy")


def judged(target: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The EER as it is computed for VoxCeleb: where scikit-learn's ROC meets `1 - tpr = fpr`."""
    fpr, tpr, _ = roc_curve(target, scores, sample_weight=weights)
    return float(brentq(lambda x: 1.0 - x - interp1d(fpr, tpr)(x), 0.0, 1.0))


def pairs(n: int, seed: int = 0, step: float = 0.0) -> tuple[Tensor, Tensor]:
    """Scores that are higher for targets; with a `step`, many are equal."""
    random = np.random.default_rng(seed)
    same = random.random(n) < 0.4
    scores = random.normal(0, 0.5, n) + same
    return torch.from_numpy(np.round(scores / step) * step if step else scores), torch.from_numpy(same).float()


def classes(n: int, k: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits with an offset of their own in every row."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(k, (n,), generator=random)
    logits = torch.randn(n, k, generator=random)
    logits[torch.arange(n), labels] += 1.5
    return logits + 5 * torch.randn(n, 1, generator=random), labels


@pytest.mark.parametrize("step", [0.0, 0.25, 1.0], ids=["distinct", "ties", "mostly ties"])
@pytest.mark.parametrize("n", [7, 100, 3000])
@pytest.mark.parametrize("seed", range(3))
def test_scikit_learn_agrees_on_pairs(n: int, step: float, seed: int):
    scores, same = pairs(n, seed, step)
    same[:2] = torch.tensor([0.0, 1.0])
    rows = torch.cat([METRIC.statistics(a, b) for a, b in zip(scores.split(64), same.split(64), strict=True)])
    assert METRIC.value(rows) == pytest.approx(1 - judged(same.numpy(), scores.float().numpy()), abs=1e-9)


@pytest.mark.parametrize("k", [2, 5, 40])
def test_scikit_learn_agrees_on_classes_by_their_log_probabilities(k: int):
    logits, labels = classes(200, k)
    target = torch.nn.functional.one_hot(labels, k).flatten().numpy()
    want = judged(target, torch.log_softmax(logits, -1).flatten().numpy())
    assert METRIC.value(METRIC.statistics(logits, labels)) == pytest.approx(1 - want, abs=1e-9)
    raw = judged(target, logits.flatten().numpy())
    assert raw > want + 0.02  # what the offsets of rows would do


def test_every_resample_is_scikit_learns_rate_of_the_weighted_trials():
    for rows in (METRIC.statistics(*classes(60, 4)), METRIC.statistics(*pairs(150, step=0.1))):
        (drawn,) = METRIC.resampled(rows)
        (weights,) = resampling_weights(len(rows))
        assert drawn.shape == (RESAMPLES,)
        scores = rows[:, 1:].double().numpy()
        target = np.arange(scores.shape[1]) == rows[:, :1].numpy()
        for k in range(0, RESAMPLES, 53):
            counted = np.repeat(weights[k], scores.shape[1])
            there = counted > 0
            want = judged(target.ravel()[there], scores.ravel()[there], counted[there])
            assert drawn[k] == pytest.approx(1 - want, abs=1e-9)


def test_by_hand():
    """Two of four targets pass before the first of two others does: then half are missed, and half are false."""
    scores, same = torch.tensor([0.9, 0.8, 0.7, 0.3, 0.2, 0.1]), torch.tensor([1.0, 1, 0, 1, 1, 0])
    assert METRIC.value(METRIC.statistics(scores, same)) == pytest.approx(0.5)
    assert METRIC.value(METRIC.statistics(same * 2 - 1, same)) == 1
    assert METRIC.value(METRIC.statistics(1 - same, same)) == 0
    assert METRIC.value(METRIC.statistics(torch.zeros(6), same)) == pytest.approx(0.5)


def test_without_targets_or_without_others_it_is_that_of_guessing():
    scores = torch.tensor([0.9, 0.1, 0.5])
    for same in (torch.ones(3), torch.zeros(3)):
        rows = METRIC.statistics(scores, same)
        assert METRIC.value(rows) == 0.5
        assert METRIC.interval(rows) == (0.5, 0.5, 0.5)


def test_the_interval_holds_the_value_and_pairs_are_closer_than_strangers():
    logits, labels = classes(300, 6)
    near = logits.clone()
    near[:20] = near[:20].roll(1, dims=1)
    before, after = METRIC.statistics(logits, labels), METRIC.statistics(near, labels)
    value, low, high = METRIC.interval(before)
    assert low < value < high
    change, least, most = METRIC.difference(before, after)
    assert least <= change <= most
    assert change < 0
    assert most - least < high - low
    assert METRIC.difference(before, before) == (0, 0, 0)


def test_scores_that_are_no_numbers_are_last():
    scores, same = pairs(50)
    scores[3] = float("nan")
    rates = equal_error_rates(METRIC.statistics(scores, same).double().numpy(), np.ones((1, 50)))
    assert np.isfinite(rates).all()
