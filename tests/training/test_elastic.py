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
from prunesearch.training.elastic import looked_at, near_the_front, sandwich
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


WIDE, NARROW = Plan.parse("unpruned | 1:width(mlp=16) | 0:width(heads=1)"), Plan.parse("unpruned | 1:width(mlp=8)")


def fits_of(task: Task) -> dict[str, dict[str, torch.Tensor]]:
    """Each change fitted by itself, as a search has them."""
    batches = [dict(batch.inputs) for batch in task.calibration.batches]
    return ps.fit_plan(task.model, WIDE, batches) | ps.fit_plan(task.model, NARROW, batches)


def narrowed(model: torch.nn.Module, fit: dict[str, torch.Tensor]) -> torch.nn.Module:
    """By hand: a copy whose neurons of block 1 that went answer nothing, the last layer as it was fitted."""
    made = copy.deepcopy(model)
    into, out = (m for m in made.vit.layers[1].mlp.modules() if isinstance(m, torch.nn.Linear))
    into.weight.data, into.bias.data = into.weight.data[fit["kept"]], into.bias.data[fit["kept"]]
    out.weight.data, out.bias.data = fit["weight"].clone(), fit["bias"].clone()
    return made


def test_all_widths_learn_in_the_same_rows(task: Task) -> None:
    """The loss by hand, and where its gradient goes: rows of the whole layer, and that width's own last layer."""
    student, fits = student_of(task.model).requires_grad_(True), fits_of(task)
    own = LearntFits(fits, torch.device("cpu"))
    for value in own.parameters():
        value.requires_grad_(value.is_floating_point())
    distilled = Distillation(task, student, rows_of(task), lambda: [NARROW], augment=False, fits=own).eval()
    rows = rows_of(task).learnt[:4]
    distilled(rows)["loss"].backward()
    fit, learnt = fits[str(NARROW.changes[0])], own.by_change()
    into, out = (m for m in student.vit.layers[1].mlp.modules() if isinstance(m, torch.nn.Linear))
    gone = [row for row in range(into.out_features) if row not in fit["kept"].tolist()]
    assert into.weight.grad is not None
    assert (into.weight.grad[fit["kept"]].abs().sum(1) > 0).all()
    assert not into.weight.grad[gone].any()
    assert out.weight.grad is None
    assert learnt[str(NARROW.changes[0])]["weight"].grad.any()
    assert learnt[str(WIDE.changes[0])]["weight"].grad is None
    (batch,) = rows_of(task).pick(rows)
    with torch.no_grad():
        logp = narrowed(task.model, fit)(**batch.inputs).logits.log_softmax(-1)
        want = task.model(**batch.inputs).logits.log_softmax(-1)
        loss = (want.exp() * (want - logp)).sum(-1).mean() - LABELS * logp[torch.arange(4), batch.labels].mean()
        assert distilled(rows)["loss"].item() == pytest.approx(loss.item(), rel=1e-5)


def test_one_file_of_weights_serves_all_widths(task: Task, tmp_path: Path) -> None:
    fits, near = fits_of(task), [WIDE, NARROW]
    settings = TrainingSettings(epochs=2, batch_size=5, rate=1e-3, augment=False)
    school = School(task, seen_rows(task), settings, tmp_path / "weights", tmp_path / "scratch")
    learnt = school.learn(sandwich(near), "one", "a test", looks=looked_at(near), fits=fits)
    fit = {name: learnt.weights[f"fits/{NARROW.changes[0]}/{name}"] for name in ("kept", "weight", "bias")}
    (batch,) = rows_of(task).pick(rows_of(task).learnt[:4])
    with torch.no_grad(), loaded(task.model, learnt.weights):
        by_hand = narrowed(task.model, fit)
        for plan in near:
            with ps.apply_(task.model, plan):
                found = task.model(**batch.inputs).logits
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
