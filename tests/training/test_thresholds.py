"""Learnt thresholds: what a soft mask does, whose gradients it has, and what training makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import prunesearch as ps
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.stage import Stage
from prunesearch.pruning.apply import Handle, apply_
from prunesearch.tasks.base import Task
from prunesearch.training.settings import TrainingSettings
from prunesearch.training.thresholds import ThresholdLesson, ThresholdSchool, halves_behind
from tests.training.test_training import rows_of

EVERY = pytest.mark.parametrize("scorer", ["attention_received", "cls_attention", "cls_attention_value"])


def begun(task: Task, handle: Handle, scorer: str, shares: Sequence[float] = (0.6, 0.5)) -> list[Stage]:
    """Stages at the first blocks, whose thresholds are quantiles of the scores that rows have there."""
    (batch,), stages = rows_of(task).pick(rows_of(task).learnt), []
    for block, share in enumerate(shares):
        plan = Plan(ps.Schedule([*stages, Stage(block, ps.Threshold(0.0), scorer, "drop")]))
        with torch.no_grad(), handle.under(plan), handle.scoring() as seen:
            task.model(**batch.inputs)
        scores = seen[-1].score[seen[-1].reducible]
        stages.append(Stage(block, ps.Threshold(float(scores.quantile(1 - share))), scorer, "drop"))
    return stages


@pytest.fixture
def wide(task: Task) -> Task:
    """In float64, so that differences of losses are exact."""

    def doubled(split):  # type: ignore[no-untyped-def]
        batches = [replace(b, inputs={k: v.double() for k, v in b.inputs.items()}) for b in split.batches]
        return replace(split, batches=type(split.batches)(batches))

    return replace(
        task,
        model=task.model.double().requires_grad_(False),
        splits={name: doubled(split) for name, split in task.splits.items()},
    )


@EVERY
def test_a_mask_that_is_hard_does_what_the_stages_do(wide: Task, scorer: str) -> None:
    """Outside judge: the tokens really removed, by the plan as it runs."""
    with apply_(wide.model, Plan()) as handle, torch.no_grad():
        lesson = ThresholdLesson(wide, handle, rows_of(wide), begun(wide, handle, scorer), softness=1e-9)
        (batch,) = rows_of(wide).pick(rows_of(wide).learnt)
        lost, work = lesson.softly(batch)
        reference = wide.condensed(wide.outputs(wide.model, batch))
        with handle.under(lesson.plan), handle.observing() as blocks:
            outputs = wide.outputs(wide.model, batch)
            tokens = handle.tokens
        assert tokens is not None
        assert tokens.valid is not None
        torch.testing.assert_close(lost, wide.divergence(reference, outputs, batch), rtol=2e-3, atol=1e-7)
        assert len(set(tokens.valid.sum(1).tolist())) > 1  # rows have counts of their own
        # what blocks work on, counted row by row: the MLP of block 0 to the attention of block 1, and what is behind
        depth, n = handle.encoder.depth, blocks[0].shape[1]
        for row in range(len(batch)):
            with handle.under(lesson.plan), handle.observing() as alone:
                wide.model(**{k: v[row : row + 1] for k, v in batch.inputs.items()})
                last = handle.tokens
            counts = [x.shape[1] for x in alone]
            assert last is not None
            halves = [c for pair in zip(counts, [*counts[1:], last.n], strict=True) for c in pair]
            share = sum((c - 1) / (n - 1) for c in halves) / (2 * depth)
            assert float(work[row]) == pytest.approx(share, abs=1e-6)


@EVERY
def test_gradients_are_what_small_changes_do(wide: Task, scorer: str) -> None:
    with apply_(wide.model, Plan()) as handle:
        lesson = ThresholdLesson(wide, handle, rows_of(wide), begun(wide, handle, scorer)).double()
        lesson.aim *= 0.8  # so that the work is too much
        rows, (raw,) = rows_of(wide).learnt, lesson.student
        lesson(rows)["loss"].backward()
        for number in range(len(raw)):
            ends = []
            for step in (3e-4, -3e-4):
                with torch.no_grad():
                    raw[number] += step
                    ends.append(float(lesson(rows)["loss"]))
                    raw[number] -= step
            assert float(raw.grad[number]) == pytest.approx((ends[0] - ends[1]) / 6e-4, rel=5e-3, abs=1e-5)
            assert abs(float(raw.grad[number])) > 1e-6


def test_halves_of_blocks_behind_stages() -> None:
    assert halves_behind([1], 4) == [5]  # the MLP of block 1, and both halves of two more
    assert halves_behind([0, 3], 4) == [6, 1]


def test_training_loses_less_at_no_more_work_and_leaves_the_model(wide: Task, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in wide.model.state_dict().items()}
    with apply_(wide.model, Plan()) as handle:
        first = begun(wide, handle, "cls_attention")
        first[1] = first[1].replace(keep=ps.Threshold(3 * first[1].amount.number))  # far too much goes at block 1
        rows = replace(rows_of(wide), stopping=rows_of(wide).learnt)
        lesson = ThresholdLesson(wide, handle, rows, first)
        with torch.no_grad():
            lost, work = lesson._on(rows.stopping)
    settings = TrainingSettings(batch_size=10, epochs=40, rate=0.05)
    school = ThresholdSchool(wide, rows, settings, tmp_path)
    plan, trained = school.learn(first, "key", "thresholds")
    assert [stage.layer for stage in plan] == [0, 1]
    assert trained.steps == 40
    with apply_(wide.model, Plan()) as handle, torch.no_grad():
        after = ThresholdLesson(wide, handle, rows, list(plan), aim=float(work))
        now, does = after._on(rows.stopping)
    assert float(now) < 0.9 * float(lost)
    assert float(does) < 1.1 * float(work)
    assert all(torch.equal(value, before[name]) for name, value in wide.model.state_dict().items())
    again, _ = school.learn(first, "key", "thresholds")  # goes on: it is done
    assert again == plan
