"""Qualities over views of rows: intervals that hold as often as they say, whatever the views of one row have in common.

The outside judge is a simulation whose true values are integrals of the normal distribution, and rows drawn one by one.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from torch import Tensor

from prunesearch.tasks.metrics.classes import Accuracy, BinaryF1, MacroF1
from prunesearch.tasks.metrics.metric import Metric, find_metric, paired_difference, wilson
from prunesearch.tasks.metrics.pairs import paired_lower_bound
from prunesearch.tasks.views.by_row import OverViews

NORMAL = NormalDist()
LOST, GAINED = -2.0, 1.8  # standard deviations past which a row changes


def some_rows(
    random: np.random.Generator, rows: int, ease: list[float], alike: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """View, row, and what is right before and after; `alike` is the correlation of a row with itself in other views."""
    views = len(ease)
    view, row = np.repeat(np.arange(views), rows), np.tile(np.arange(rows), views)

    def drawn() -> np.ndarray:
        own, shared = random.normal(size=len(row)), random.normal(size=rows)
        return math.sqrt(alike) * shared[row] + math.sqrt(1 - alike) * own

    before, change = drawn() < np.array(ease)[view], drawn()
    after = np.where(before, change > LOST, change > GAINED)
    found = (torch.from_numpy(x) for x in (view, row))
    right = (torch.from_numpy(x.astype(np.float32))[:, None] for x in (before, after))
    return (*found, *right)  # type: ignore[return-value]


def true_values(ease: list[float]) -> tuple[np.ndarray, np.ndarray]:
    before = np.array([NORMAL.cdf(x) for x in ease])
    return before, before * NORMAL.cdf(-LOST) + (1 - before) * NORMAL.cdf(-GAINED)


@pytest.mark.parametrize("alike", [0.0, 0.6, 0.98])
@pytest.mark.parametrize("mean", [True, False])
def test_an_interval_holds_its_promise_however_alike_the_views_of_a_row_are(alike: float, mean: bool) -> None:
    random, ease = np.random.default_rng(5), [0.2, 0.7, 1.2]
    before, after = true_values(ease)
    quality, change = (after.mean(), (after - before).mean()) if mean else (after.min(), after.min() - before.min())
    held, tries = np.zeros(4), 200 if mean else 60
    for _ in range(tries):
        view, row, first, last = some_rows(random, 100, ease, alike)
        over = OverViews(Accuracy(), view, row, mean)
        (_, low, high), at_least = over.interval(last)
        (_, least, most), bound = over.difference(first, last)
        held += [low <= quality <= high, at_least <= quality, least <= change <= most, bound <= change]
    few = 2.6 * math.sqrt(0.05 * 0.95 / tries)  # what luck may take, one in two hundred
    assert (held / tries >= 0.95 - few).all(), held / tries


def test_rows_taken_for_independent_would_promise_too_much() -> None:
    random, ease = np.random.default_rng(7), [0.9, 0.9, 0.9, 0.9]
    before, after = true_values(ease)
    change, held, mine = (after - before).mean(), 0, 0
    for _ in range(200):
        view, row, first, last = some_rows(random, 60, ease, 0.98)
        _, low, high = paired_difference(first.flatten(), last.flatten())
        held += low <= change <= high
        (_, low, high), _ = OverViews(Accuracy(), view, row, True).difference(first, last)
        mine += low <= change <= high
    assert held < 170
    assert mine > 180


def test_one_view_is_what_it_is_without_views() -> None:
    random = np.random.default_rng(3)
    view, row, first, last = some_rows(random, 400, [0.8], 0.0)
    over = OverViews(Accuracy(), view, row, True)
    assert over.interval(last)[0] == pytest.approx(wilson(int(last.sum()), 400), abs=1e-3)
    (value, low, high), bound = over.difference(first, last)
    assert (value, low, high) == pytest.approx(paired_difference(first.flatten(), last.flatten()), abs=1e-3)
    gained, lost = (int((x > 0).sum()) for x in (last - first, first - last))
    assert bound == pytest.approx(float(paired_lower_bound(gained, lost, 400)), abs=1e-3)


def test_views_that_are_copies_say_no_more_than_one_of_them() -> None:
    random = np.random.default_rng(4)
    _, row, first, last = some_rows(random, 300, [0.5], 0.0)
    one = OverViews(Accuracy(), torch.zeros_like(row), row, True)
    many = OverViews(Accuracy(), torch.arange(5).repeat_interleave(300), row.repeat(5), True)
    assert many.interval(last.repeat(5, 1))[0] == pytest.approx(one.interval(last)[0], abs=2e-3)
    both = many.difference(first.repeat(5, 1), last.repeat(5, 1)), one.difference(first, last)
    assert both[0][0] == pytest.approx(both[1][0], abs=2e-3)
    same = many.difference(first.repeat(5, 1), first.repeat(5, 1))  # where nothing differs: as of so many rows, no more
    assert same[0] == pytest.approx(paired_difference(first.flatten(), first.flatten()))


@pytest.mark.parametrize("metric", [BinaryF1(), MacroF1(), Accuracy()])
@pytest.mark.parametrize("mean", [True, False])
def test_the_bootstrap_draws_rows_with_all_their_views(metric: Metric, mean: bool) -> None:
    random = np.random.default_rng(6)
    view, row = torch.arange(3).repeat_interleave(80), torch.arange(80).repeat(3)
    wanted = torch.from_numpy(random.integers(2, size=80)).repeat(3)
    logits = torch.from_numpy(random.normal(size=(240, 2))) + 1.5 * torch.nn.functional.one_hot(wanted)
    rows = metric.statistics(logits, wanted)
    low, high = OverViews(metric, view, row, mean).interval(rows)[0][1:]
    found = []
    for _ in range(300):  # row by row
        chosen = random.integers(80, size=80)
        each = [metric.value(rows[torch.from_numpy(chosen) + 80 * number]) for number in range(3)]
        found.append(sum(each) / 3 if mean else min(each))
    ends = np.quantile(found, [0.025, 0.975])
    wide = ends[1] - ends[0]
    assert low <= ends[0] + 0.2 * wide
    assert high >= ends[1] - 0.2 * wide
    assert high - low < 1.5 * wide


def test_numbers_that_are_no_shares_have_a_normal_interval_by_row() -> None:
    random = np.random.default_rng(8)
    shared = torch.from_numpy(random.normal(size=(50, 1))) / 10 + 0.5
    rows = torch.cat([shared, shared + 0.1])  # both views say the same but for a constant
    over = OverViews(find_metric("rouge_l"), torch.arange(2).repeat_interleave(50), torch.arange(50).repeat(2), True)
    (value, low, high), _ = over.interval(rows)
    assert value == pytest.approx(float(shared.mean()) + 0.05)
    assert (high - low) / 2 == pytest.approx(1.959964 * float(shared.std()) / math.sqrt(50), rel=1e-6)
    change = over.difference(rows, rows + torch.cat([shared, shared]))[0]
    assert change[2] - change[1] == pytest.approx(high - low, rel=1e-6)
