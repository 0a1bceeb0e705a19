"""Quality class by class, against counting answers one by one."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.pruning.apply import apply_
from prunesearch.search.finish.robustness import (
    by_parts,
    class_note,
    classes_of,
    groups_of,
    part_notes,
    with_worst_class,
    worst_class,
)
from prunesearch.search.trials.evaluate import Evaluation, Evaluator, InViews
from prunesearch.study.front_records import Verdict
from prunesearch.tasks.base import Task
from prunesearch.tasks.batching.batches import Batch, EvalSet, Held
from prunesearch.tasks.metrics.classes import Accuracy
from tests.search.finish.test_verdict import point

NAMES = ["cat", "dog", "owl"]


def task(names: list[str] = NAMES, *, binary: bool = True) -> Any:
    return SimpleNamespace(label_names=names, scoring=SimpleNamespace(binary=binary), groups={})


def split_of(labels: Any) -> EvalSet:
    """All rows in one batch, which is evaluated in the rows' own order."""
    return EvalSet("holdout", Held([Batch({}, labels, torch.arange(len(labels)))]))


def evaluation(right: torch.Tensor, views: InViews | None = None) -> Evaluation:
    n = len(right)
    return Evaluation(right.float()[:, None], torch.zeros(n), torch.ones(n, dtype=torch.bool), Accuracy(), views)


def some(n: int = 120) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 3
    before = torch.rand(n, generator=generator) < 0.9
    after = before & (torch.rand(n, generator=generator) < torch.tensor([0.95, 0.5, 0.9])[labels])
    return labels, before, after


def test_every_class_is_counted_and_the_one_that_lost_most_is_first() -> None:
    labels, before, after = some()
    found = classes_of(task(), evaluation(before), evaluation(after[:90]), split_of(labels))
    assert [one.change for one in found] == sorted(one.change for one in found)
    assert found[0].name == "dog"
    assert {one.name for one in found} == set(NAMES)
    for one in found:
        rows = [row for row in range(90) if NAMES[int(labels[row])] == one.name]
        right = sum(bool(after[row]) for row in rows) / len(rows)
        was = sum(bool(before[row]) for row in rows) / len(rows)
        assert (one.rows, one.quality, one.change) == (len(rows), pytest.approx(right), pytest.approx(right - was))
        assert one.low is not None
        assert one.high is not None
        assert one.low < one.change < one.high


def test_of_rows_in_several_views_those_count_that_are_as_they_were() -> None:
    labels, before, after = some()
    views = InViews(("clean", "fog"), torch.tensor([0, 1]).repeat(120), torch.arange(120).repeat_interleave(2), "mean")
    both = [torch.stack([right, torch.zeros_like(right)], 1).flatten() for right in (before, after)]
    found = classes_of(task(), *(evaluation(right, views) for right in both), split_of(labels.repeat_interleave(2)))
    assert found == classes_of(task(), evaluation(before), evaluation(after), split_of(labels))


def test_what_has_no_classes_says_nothing() -> None:
    labels, before, after = some()
    both = evaluation(before), evaluation(after)
    assert classes_of(task([]), *both, split_of(labels)) == []
    assert classes_of(task(binary=False), *both, split_of(labels)) == []
    assert classes_of(task(), *both, split_of(torch.zeros(120, 2))) == []
    assert classes_of(task(), *both, split_of([str(label) for label in labels])) == []
    assert (
        classes_of(task(), evaluation(before[:30]), evaluation(after[:30]), split_of(labels[:30])) == []
    )  # ten rows each
    many = torch.arange(2400) % 80
    right = torch.ones(2400, dtype=torch.bool)
    assert (
        len(classes_of(task([f"c{i}" for i in range(80)]), evaluation(right), evaluation(right), split_of(many))) == 20
    )


def test_verdict_and_note_have_the_worst_class() -> None:
    labels, before, after = some()
    points = [point("p1", 15.0, 0.8), point("p2", 10.0, 0.7)]
    both = [evaluation(before), evaluation(after)]
    made = by_parts(points, task(), both[0], both, split_of(labels))
    said = with_worst_class(Verdict(text="Take p2.", point="p2"), made).text
    assert said == f"Take p2. Class by class it costs {worst_class(made[1].classes)}."
    assert "most of 3 classes" in said
    assert "40 rows" in said
    assert with_worst_class(Verdict(text="Take p1.", point="p1"), made).text == "Take p1."  # it lost nowhere
    assert with_worst_class(Verdict(text="None."), made).text == "None."
    note = class_note(made)
    assert note is not None
    assert "p1 cat +0.0, p2 dog -" in note
    assert class_note(points) is None


def test_every_group_is_counted_by_its_rows_numbers_and_told_in_verdict_and_note() -> None:
    """Rows come in an order of their own, as texts that are sorted by length do."""
    labels, before, after = some()
    order = torch.randperm(120, generator=torch.Generator().manual_seed(1))
    held = Held([Batch({}, labels[order], order)])
    whole = task([], binary=False)
    whole.groups = {"holdout": [NAMES[int(label)] for label in labels]}
    both = evaluation(before[order]), evaluation(after[order])
    found = groups_of(whole, *both, EvalSet("holdout", held))
    assert found == classes_of(task(), evaluation(before), evaluation(after), split_of(labels))
    assert groups_of(SimpleNamespace(groups={}), *both, EvalSet("holdout", held)) == []  # type: ignore[arg-type]
    points = [point("p1", 15.0, 0.8), point("p2", 10.0, 0.7)]
    made = by_parts(points, whole, both[0], both, EvalSet("holdout", held))
    said = with_worst_class(Verdict(text="Take p2.", point="p2"), made).text
    assert said == f"Take p2. Group by group it costs {worst_class(found, 'groups')}."
    assert "most of 3 groups" in said
    (note,) = part_notes(made)
    assert note.startswith("group that loses most, points of rows as they are: p1 cat +0.0, p2 dog -")


def test_classes_and_groups_are_those_of_rows_that_are_evaluated_in_many_batches(vit_task: Task) -> None:
    """Batches are evaluated in an order of their own; counted here row by row, in the rows' order."""
    torch.manual_seed(1)
    pixels, labels, schedule = (
        torch.randn(200, 3, 16, 16).double(),
        torch.arange(200) % 5,
        Schedule([Stage(0, 0.3, "value_norm", "drop")]),
    )
    parts = torch.arange(200).split(16)
    split = EvalSet("holdout", Held([Batch({"pixel_values": pixels[i]}, labels[i], i) for i in parts]))
    mine = [f"g{row // 50}" for row in range(200)]
    whole = replace(vit_task, splits={**vit_task.splits, "holdout": split}, groups={"holdout": mine})
    with apply_(vit_task.model, Schedule()) as handle:
        evaluator = Evaluator(whole, handle, split)
        both = evaluator.unpruned(), evaluator.evaluate(schedule)
        right = []
        for under in (Schedule(), schedule):
            with handle.under(under), torch.inference_mode():
                said = [int(vit_task.model(pixel_values=x[None]).logits.argmax()) for x in pixels]
            right.append([one == y for one, y in zip(said, labels.tolist(), strict=True)])
    classes = {one.name: one for one in classes_of(whole, *both, split)}
    groups = {one.name: one for one in groups_of(whole, *both, split)}
    for found, names in ((classes, [str(int(y)) for y in labels]), (groups, mine)):
        assert set(found) == set(names)
        for name, one in found.items():
            was, now = (sum(r for r, other in zip(rows, names, strict=True) if other == name) for rows in right)
            assert one.rows == names.count(name)
            assert one.quality == pytest.approx(now / one.rows)
            assert one.change == pytest.approx((now - was) / one.rows)
    assert len({one.quality for one in classes.values()}) > 1
