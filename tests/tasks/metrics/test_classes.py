"""Metrics of classifiers, judged by scikit-learn; and what every metric must keep."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, matthews_corrcoef, top_k_accuracy_score
from torch import Tensor

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.metrics.metric import Metric, OfRows, OfSums, RowMean, find_metric
from prunesearch.tasks.table import METRICS, TASKS, choose_metric


def data(classes: int, n: int = 300, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits that are right more often than not, and uneven classes of which some may never occur."""
    random = torch.Generator().manual_seed(seed)
    shares = torch.rand(classes, generator=random) ** 2 + 0.01
    labels = torch.multinomial(shares, n, replacement=True, generator=random)
    logits = torch.randn(n, classes, generator=random)
    logits[torch.arange(n), labels] += 1.0
    return logits, labels


def value(name: str, logits: Tensor, labels: Tensor) -> float:
    metric = find_metric(name)
    parts = [metric.statistics(a, b) for a, b in zip(logits.split(64), labels.split(64), strict=True)]
    return metric.value(torch.cat(parts))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("classes", [2, 3, 40])
def test_scikit_learn_agrees(classes: int, seed: int):
    logits, labels = data(classes, seed=seed)
    said = logits.argmax(-1)
    assert value("macro_f1", logits, labels) == pytest.approx(f1_score(labels, said, average="macro"), abs=1e-9)
    assert value("mcc", logits, labels) == pytest.approx(matthews_corrcoef(labels, said), abs=1e-9)
    assert value("accuracy", logits, labels) == pytest.approx(float((said == labels).double().mean()))
    if classes == 2:
        assert value("f1", logits, labels) == pytest.approx(f1_score(labels, said), abs=1e-9)
    if classes > 5:
        wanted = top_k_accuracy_score(labels, logits, k=5, labels=range(classes))
        assert value("top5", logits, labels) == pytest.approx(wanted)


def test_what_is_undefined_is_nothing():
    logits, labels = torch.tensor([[1.0, 0.0]] * 4), torch.zeros(4, dtype=torch.long)
    assert value("f1", logits, labels) == 0
    assert value("mcc", logits, labels) == 0
    assert value("macro_f1", logits, labels) == 1


@pytest.mark.parametrize("name", ["accuracy", "f1", "macro_f1", "mcc"])
def test_intervals_hold_the_value_and_pairs_are_closer_than_strangers(name: str):
    metric = find_metric(name)
    logits, labels = data(2, n=400)
    near = logits.clone()
    near[:8] = near[:8].flip(1)
    before, after = (metric.statistics(x, labels) for x in (logits, near))
    found, low, high = metric.interval(before)
    assert low < found < high
    change, least, most = metric.difference(before, after)
    assert change == pytest.approx(metric.value(after) - metric.value(before))
    assert least <= change <= most
    assert most - least < (high - low) / 2
    assert metric.difference(before, before)[0] == 0
    assert metric.interval(before) == (found, low, high)  # seeded


@pytest.mark.parametrize("name", ["f1", "mcc"])
def test_the_bootstrap_covers_the_truth_about_95_percent(name: str):
    metric = find_metric(name)
    truth = metric.value(metric.statistics(*data(2, n=100_000, seed=99)))
    covered = 0
    for k in range(60):
        logits, labels = data(2, n=100_060, seed=99)
        some = slice(k * 1600, (k + 1) * 1600)
        _, low, high = metric.interval(metric.statistics(logits[some], labels[some])[:300])
        covered += low <= truth <= high
    assert covered >= 52


def test_sums_and_rows_are_resampled_alike():
    """The same bootstrap by weights and by index has the same spread."""
    logits, labels = data(2, n=500)
    sums = find_metric("f1").resampled(find_metric("f1").statistics(logits, labels))[0]

    class Slow(OfRows):
        name = "slow"

        def statistics(self, answers: Tensor, wanted: Tensor) -> Tensor:
            return find_metric("f1").statistics(answers, wanted)

        def of_rows(self, rows: np.ndarray) -> float:
            return float(find_metric("f1").of_sums(rows.sum(axis=0)))

    rows = Slow().resampled(Slow().statistics(logits, labels))[0]
    assert sums.mean() == pytest.approx(rows.mean(), abs=0.005)
    assert sums.std() == pytest.approx(rows.std(), rel=0.1)


def test_the_winners_curse_has_the_same_spread_by_bootstrap_and_in_closed_form():
    metric = find_metric("accuracy")
    logits, labels = data(4, n=600)
    others = [logits + torch.randn(600, 4, generator=torch.Generator().manual_seed(k)) for k in (1, 2, 3)]
    before, *after = (metric.statistics(x, labels) for x in (logits, *others))
    value, spread = metric.mean_contrast(before, after)
    found = Metric.mean_contrast(metric, before, after)
    assert found[0] == pytest.approx(value)
    assert found[1] == pytest.approx(spread, rel=0.1)


def test_every_metric_of_the_table_is_there_under_its_name_and_every_task_has_one():
    for name in METRICS:
        metric = find_metric(name)
        assert metric.name == name
        assert isinstance(metric, RowMean | OfSums | OfRows)
    for kind in TASKS.entries().values():
        assert kind.metrics
        assert all(name in METRICS for name in kind.metrics)


def test_a_metric_that_is_unknown_or_of_another_task_is_one_line():
    assert choose_metric("text-classification", None) == "accuracy"
    with pytest.raises(PruneSearchError, match="unknown metric 'mccc': did you mean 'mcc'"):
        choose_metric("text-classification", "mccc")
    with pytest.raises(PruneSearchError, match=r"metric .bleu. is not one of task text-classification: .*accuracy, f1"):
        choose_metric("text-classification", "bleu")
