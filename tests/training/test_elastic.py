"""Elastic training: what a step trains, which schedules it draws, and what learns from what."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

import prunesearch as ps
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.pruning.forward.artefacts import loaded
from prunesearch.tasks.base import Task
from prunesearch.training.distillation import LABELS, Distillation, LearntFits, student_of
from prunesearch.training.elastic import drawn, looked_at, near_the_front, nested, sandwich, shared
from prunesearch.training.recover import School
from prunesearch.training.settings import TrainingSettings
from tests.training.test_training import rows_of, seen_rows

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


# -- widths ----------------------------------------------------------------------------------------------------------


def test_the_fewer_are_among_the_more() -> None:
    kept = {2: torch.tensor([5, 7]), 4: torch.tensor([0, 1, 2, 7]), 6: torch.tensor([0, 1, 2, 3, 4, 5])}
    found = nested(kept)
    assert {keep: len(groups) for keep, groups in found.items()} == {2: 2, 4: 4, 6: 6}
    assert set(found[2].tolist()) == {5, 7}
    assert set(found[2].tolist()) < set(found[4].tolist()) < set(found[6].tolist())
    assert set(found[4].tolist()) - {5} < set(kept[4].tolist())


def test_what_cannot_be_shared_is_not_drawn() -> None:
    plan = Plan.parse("2:0.50 cls_attention+drop | int8 | 0:width(mlp=8) | 1:skip(part=mlp) | 1:rank(attention=2)")
    assert drawn(plan) == Plan.parse("2:0.50 cls_attention+drop | 0:width(mlp=8) | 1:skip(part=mlp)")


WIDE, NARROW = Plan.parse("unpruned | 1:width(mlp=16) | 0:width(heads=1)"), Plan.parse("unpruned | 1:width(mlp=8)")


def test_all_widths_learn_in_the_same_layers(task: Task) -> None:
    """By hand: layers of the student with the rows and columns that stay; the loss, and where its gradient goes."""
    student = student_of(task.model).requires_grad_(True)
    fits = shared([WIDE, NARROW], fits_of(task))
    assert {tuple(own) for own in fits.values()} == {("kept",)}
    distilled = Distillation(
        task, student, rows_of(task), lambda: [NARROW], augment=False, fits=LearntFits(fits, torch.device("cpu"))
    ).eval()
    rows = rows_of(task).learnt[:4]
    distilled(rows)["loss"].backward()
    kept = fits[str(NARROW.changes[0])]["kept"]
    into, out = (m for m in student.vit.layers[1].mlp.modules() if isinstance(m, torch.nn.Linear))
    gone = [row for row in range(into.out_features) if row not in kept.tolist()]
    assert into.weight.grad is not None
    assert out.weight.grad is not None
    assert (into.weight.grad[kept].abs().sum(1) > 0).all()
    assert not into.weight.grad[gone].any()
    assert not out.weight.grad[:, gone].any()
    by_hand = copy.deepcopy(task.model)
    a, b = (m for m in by_hand.vit.layers[1].mlp.modules() if isinstance(m, torch.nn.Linear))
    a.weight.data[gone], a.bias.data[gone], b.weight.data[:, gone] = 0.0, 0.0, 0.0
    (batch,) = rows_of(task).pick(rows)
    with torch.no_grad():
        logp = by_hand(**batch.inputs).logits.log_softmax(-1)
        want = task.model(**batch.inputs).logits.log_softmax(-1)
        loss = (want.exp() * (want - logp)).sum(-1).mean() - LABELS * logp[torch.arange(4), batch.labels].mean()
        assert distilled(rows)["loss"].item() == pytest.approx(loss.item(), rel=1e-5)


def fits_of(task: Task) -> dict[str, dict[str, torch.Tensor]]:
    """Each change fitted by itself, as a search has them."""
    batches = [dict(batch.inputs) for batch in task.calibration.batches]
    return ps.fit_plan(task.model, WIDE, batches) | ps.fit_plan(task.model, NARROW, batches)


def test_weights_for_all_widths_are_parts_of_the_models_own(task: Task, tmp_path: Path) -> None:
    """What a training leaves: the model's parameters, and which groups stay; a run has nothing more to fit."""
    fits = shared([WIDE, NARROW], fits_of(task))
    settings = TrainingSettings(epochs=2, batch_size=5, rate=1e-3, augment=False)
    near = [WIDE, NARROW]
    school = School(task, seen_rows(task), settings, tmp_path / "weights", tmp_path / "scratch")
    learnt = school.learn(sandwich(near), "one", "a test", looks=looked_at(near), fits=fits)
    assert {name for name in learnt.weights if "/" in name} == {f"fits/{change}/kept" for change in fits}
    (batch,) = rows_of(task).pick(rows_of(task).learnt[:4])
    with torch.no_grad(), loaded(task.model, learnt.weights):
        by_hand = copy.deepcopy(task.model)
        with ps.apply_(task.model, NARROW):
            found = task.model(**batch.inputs).logits
    a, b = (m for m in by_hand.vit.layers[1].mlp.modules() if isinstance(m, torch.nn.Linear))
    gone = [row for row in range(a.out_features) if row not in fits[str(NARROW.changes[0])]["kept"].tolist()]
    a.weight.data[gone], a.bias.data[gone], b.weight.data[:, gone] = 0.0, 0.0, 0.0
    with torch.no_grad():
        torch.testing.assert_close(found, by_hand(**batch.inputs).logits)


def test_what_was_learnt_is_in_fewer_bits_at_once(task: Task, tmp_path: Path) -> None:
    """Weights of a training that has just ended run as those that are read from its file."""
    plan = Plan.parse("unpruned | bfloat16 | 1:width(mlp=8) | 0:rank(attention=2)")
    fits = fits_of(task) | ps.fit_plan(task.model, plan, [dict(batch.inputs) for batch in task.calibration.batches])
    settings = TrainingSettings(epochs=1, batch_size=5, rate=1e-3, augment=False)
    school = School(task, seen_rows(task), settings, tmp_path / "weights", tmp_path / "scratch")
    own = {str(change): fits[str(change)] for change in plan.shaped.changes}
    found = []
    for _ in range(2):  # the second one is read
        learnt = school.learn(lambda: [plan.shaped], "one", "a test", fits=own)
        (batch,) = rows_of(task).pick(rows_of(task).learnt[:4])
        with torch.no_grad(), loaded(task.model, learnt.weights), ps.apply_(task.model, plan):
            found.append(task.model(**batch.inputs).logits)
    assert torch.equal(*found)
