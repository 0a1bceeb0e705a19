"""Metrics of numbers and of several labels, judged by scipy and scikit-learn; and what a constant answer has."""

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import average_precision_score, f1_score, hamming_loss, ndcg_score, r2_score

from prunesearch.tasks.metrics.metric import find_metric, resampling_weights


def drawn(n: int = 200, k: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    wanted = torch.randn(n, k, generator=random).double().mul(4).round() / 4  # with ties
    return wanted + torch.randn(n, k, generator=random), wanted


def value(name: str, answers, wanted) -> float:
    metric = find_metric(name)
    return metric.value(metric.statistics(answers, wanted))


@pytest.mark.parametrize("seed", range(3))
def test_numbers_are_as_scipy_and_scikit_learn_have_them(seed: int):
    said, true = drawn(seed=seed)
    judges = {"pearson": lambda a, b: pearsonr(a, b)[0], "spearman": lambda a, b: spearmanr(a, b)[0]}
    for name, judge in {**judges, "r2": lambda a, b: r2_score(b, a)}.items():
        assert value(name, said[:, :1], true[:, 0]) == pytest.approx(judge(said[:, 0], true[:, 0]), abs=1e-12)
        every = np.mean([judge(said[:, i], true[:, i]) for i in range(4)])
        assert value(name, said, true) == pytest.approx(every, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_several_labels_are_as_scikit_learn_has_them(seed: int):
    said, numbers = drawn(seed=seed)
    true = (numbers > 0.8).long()
    on = (said > 0).numpy()
    assert value("micro_f1", said, true) == pytest.approx(f1_score(true, on, average="micro"))
    assert value("macro_f1", said, true) == pytest.approx(f1_score(true, on, average="macro", zero_division=np.nan))
    tied = said.mul(2).round()
    assert value("mean_ap", tied, true) == pytest.approx(average_precision_score(true, tied, average="macro"))
    assert value("label_accuracy", said, true) == pytest.approx(1 - hamming_loss(true, on))


def test_resampled_precisions_are_those_of_the_rows_drawn():
    said, numbers = drawn(60)
    metric = find_metric("mean_ap")
    rows = metric.statistics(said, (numbers > 0.5).long())
    weights = next(resampling_weights(60))
    found = metric.resampled(rows)[0]
    for i in range(5):
        again = rows[torch.from_numpy(np.repeat(np.arange(60), weights[i].astype(int)))]
        assert found[i] == pytest.approx(metric.value(again))


@pytest.mark.parametrize("name", ["pearson", "spearman", "r2", "micro_f1", "macro_f1", "mean_ap", "label_accuracy"])
def test_intervals_hold_the_value_and_pairs_are_closer_than_strangers(name: str):
    said, numbers = drawn(150)
    wanted = numbers if name in ("pearson", "spearman", "r2") else (numbers > 0).long()
    metric = find_metric(name)
    before, after = (metric.statistics(x, wanted) for x in (said, said + 0.05 * drawn(150, seed=9)[0]))
    found, low, high = metric.interval(before)
    assert low < found < high
    change, least, most = metric.difference(before, after)
    assert least <= change <= most
    assert most - least < high - low
    assert metric.at_least(before, before) == 0


def test_documents_of_equal_score_share_their_places():
    random = np.random.default_rng(0)
    for _ in range(30):
        gains = random.integers(0, 3, 14).astype(float)
        gains[0] = 2
        scores = random.integers(0, 4, 14).astype(float)
        wanted = ndcg_score([gains], [scores], k=10)
        assert value("ndcg10", [scores.tolist()], [gains.tolist()]) == pytest.approx(wanted, abs=1e-6)


CLASSES = torch.tensor([0] * 6 + [1] * 3 + [2])
FLAGS = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 1], [1, 0, 0]])
NUMBERS = torch.tensor([1.0, 2.0, 4.0])
EVERY = torch.eye(3) * 10
SETS = torch.tensor([[i & 1, i >> 1 & 1, i >> 2 & 1] for i in range(8)]) * 2.0 - 1


def best(name: str, wanted, answers) -> float:
    """The most that any of the answers has, given for every row."""
    return max(value(name, answer.expand(len(wanted), -1), wanted) for answer in answers)


@pytest.mark.parametrize(
    ("name", "wanted", "answers"),
    [
        *((name, CLASSES, EVERY) for name in ("accuracy", "macro_f1", "mcc", "agreement")),
        ("f1", CLASSES.clamp(max=1), EVERY[:2, :2]),
        *((name, FLAGS, SETS) for name in ("micro_f1", "macro_f1", "label_accuracy", "agreement")),
        ("mean_ap", FLAGS, torch.zeros(1, 3)),
        *((name, NUMBERS, torch.tensor([[2.0], [7 / 3]])) for name in ("pearson", "spearman", "r2")),
    ],
)
def test_what_a_constant_answer_has_is_the_most_that_one_can_have(name: str, wanted, answers):
    assert find_metric(name).constant(wanted) == pytest.approx(best(name, wanted, answers), abs=1e-6)


def test_other_constants_by_hand():
    labels = torch.arange(10).repeat(2)
    assert find_metric("top5").constant(labels) == pytest.approx(0.5)
    states = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert find_metric("cosine").constant(states) == pytest.approx(0.5**0.5)
    assert find_metric("token_accuracy").constant([["O", "O", "B-X"], ["O"]]) == 0.75
    assert find_metric("ndcg10").constant([[1.0, 0.0]]) == pytest.approx(ndcg_score([[1, 0]], [[0, 0]]))
    assert find_metric("exact_match").constant([["x", "y"], ["x"], ["z"], [""]]) == 0.5
    assert find_metric("answer_f1").constant([["one two"], ["one two"], ["one"], ["three"]]) == pytest.approx(
        (2 + 2 / 3) / 4
    )
    for name in ("bleu", "rouge_l"):  # of texts that have nothing in common, one is right on its own rows
        assert find_metric(name).constant(["one two three four five", "six"]) == 0
    assert find_metric("rouge_l").constant(["one two", "one two", "six"]) == pytest.approx(2 / 3)
    # keywords, nearly all of them one: of four words three are right
    assert find_metric("word_accuracy").constant(["yes", "yes", "yes", "no"]) == 0.75
    assert find_metric("word_accuracy").constant(["all of them", "differ"]) == 0


@pytest.mark.parametrize(
    ("name", "fixed", "free"),
    [
        ("pearson", torch.ones(4), torch.tensor([1.0, 2.0])),
        ("spearman", torch.ones(4), torch.tensor([1.0, 2.0])),
        ("r2", torch.ones(4, 2), torch.tensor([[1.0, 2.0], [3.0, 1.0]])),
        ("mcc", torch.ones(4).long(), torch.tensor([0, 1])),
        ("f1", torch.zeros(4).long(), torch.tensor([0, 1])),
        ("micro_f1", torch.zeros(4, 2).long(), FLAGS),
        ("macro_f1", torch.zeros(4, 2).long(), FLAGS),
        ("mean_ap", torch.ones(4, 2).long(), FLAGS),
        ("ndcg10", [[1.0], [2.0, 2.0]], [[1.0, 0.0]]),
        ("seqeval_f1", [["O", "O"]], [["B-X"]]),
    ],
)
def test_a_metric_that_no_answer_changes_says_why(name: str, fixed, free):
    assert find_metric(name).fixed(fixed)
    assert not find_metric(name).fixed(free)
