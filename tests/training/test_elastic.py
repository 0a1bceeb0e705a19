"""Elastic training: what a step trains, which schedules it draws, and what learns from what."""

from __future__ import annotations

import copy

import pytest
import torch

import prunesearch as ps
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.tasks.base import Task
from prunesearch.training.distillation import LABELS, Distillation, student_of
from prunesearch.training.elastic import looked_at, near_the_front, sandwich
from tests.training.test_training import rows_of

NEAR = [Schedule([ps.Stage(2, keep, "cls_attention", "drop")]) for keep in (0.9, 0.7, 0.5, 0.3)]


def test_every_step_has_the_unpruned_model_first_the_smallest_and_two_others() -> None:
    draw = sandwich(NEAR)
    torch.manual_seed(0)
    steps = [draw() for _ in range(40)]
    assert all(plans[:2] == [Plan(), Plan(NEAR[-1])] and len(plans) == 4 for plans in steps)
    assert {plan.schedule for plans in steps for plan in plans[2:]} == set(NEAR[:-1])
    torch.manual_seed(0)
    assert [draw() for _ in range(40)] == steps


def test_one_schedule_alone_is_drawn_too() -> None:
    assert sandwich(NEAR[:1])() == [Plan(), *[Plan(NEAR[0])] * 3]
    assert looked_at(NEAR[:1]) == [Plan(), Plan(NEAR[0])]


def test_schedules_near_the_front_are_those_of_the_first_fronts() -> None:
    """A grid of costs and losses: the front is its lower left edge, the next one stands a step behind it."""
    grid = [(Schedule([ps.Stage(1, (1 + i) / 100)]), float(i % 9), float(i // 9 + (8 - i % 9))) for i in range(90)]
    found = near_the_front([(Schedule(), 0.0, 0.0), *grid])
    assert 32 <= len(found) < 32 + 9
    ranks = {schedule: int(loss - (8 - cost)) for schedule, cost, loss in grid}
    assert {ranks[schedule] for schedule in found} == set(range(4))
    costs = {schedule: cost for schedule, cost, _ in grid}
    assert [costs[schedule] for schedule in found] == sorted((costs[s] for s in found), reverse=True)
    assert near_the_front([(Schedule(), 1.0, 0.0)]) == []


def made(task: Task, **changes: bool) -> Distillation:
    plans = [Plan(), Plan(NEAR[2])]
    student = student_of(task.model).requires_grad_(True)
    with torch.no_grad():
        for value in student.parameters():
            value.add_(0.05 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1)))
    return Distillation(task, student, rows_of(task), lambda: plans, augment=False, looks=plans, **changes)


@pytest.mark.parametrize("in_place", [False, True])
def test_reduced_passes_learn_from_the_steps_own_unpruned_pass(task: Task, in_place: bool) -> None:
    """By hand: KL of the reduced student to the unpruned student in place, else to the teacher."""
    distilled = made(task, in_place=in_place)
    numbers = rows_of(task).learnt
    (batch,) = rows_of(task).pick(numbers)
    student = copy.deepcopy(distilled.student)
    ps.handle_of(student).remove()
    with torch.no_grad():
        teacher, whole = task.model(**batch.inputs).logits, student(**batch.inputs).logits
        with ps.apply_(student, NEAR[2]):
            reduced = student(**batch.inputs).logits
    own = torch.nn.functional.cross_entropy

    def kl(target: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
        return (target.softmax(-1) * (target.log_softmax(-1) - found.log_softmax(-1))).sum(-1).mean()

    labels = torch.as_tensor(batch.labels)
    first = kl(teacher, whole) + LABELS * own(whole, labels)
    second = kl(whole if in_place else teacher, reduced) + LABELS * own(reduced, labels)
    assert distilled.train()(numbers)["loss"].item() == pytest.approx(float(first + second) / 2, rel=1e-4)
    looked = kl(teacher, reduced) + LABELS * own(reduced, labels)  # one target at every look
    assert distilled.eval()(numbers)["loss"].item() == pytest.approx(float(first + looked) / 2, rel=1e-4)


def test_in_place_the_unpruned_pass_gets_no_gradient_from_those_that_learn_from_it(task: Task) -> None:
    distilled = made(task, in_place=True).train()
    numbers = rows_of(task).learnt[:4]
    distilled(numbers)["loss"].backward()
    assert not distilled.student.training  # no dropout in what teaches
    assert all(value.grad is None for value in task.model.parameters())
