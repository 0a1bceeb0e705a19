"""What all trainings share: rows, augmentation, the loss, which parameters move, and going on after a kill."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prunesearch as ps
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.pruning.forward.artefacts import changed_weights
from prunesearch.tasks.base import Task
from prunesearch.tasks.batching.batches import Batch, EvalSet, Held
from prunesearch.training.augment import augmented
from prunesearch.training.distillation import LABELS, Distillation, LearntFits, fixed, student_of, teacher_of
from prunesearch.training.recover import School
from prunesearch.training.settings import TrainingSettings
from prunesearch.training.trainer import TrainingLength, last_checkpoint, train
from prunesearch.training.training_rows import TrainingRows, row_digests

STAGES = ps.Schedule([ps.Stage(1, 0.5, "cls_attention", "fuse")])


def rows_of(task: Task, *, labelled: bool = True) -> TrainingRows:
    """The rows of the tiny task, as if they were to be trained on."""
    numbers = torch.tensor([(0, n) for n in range(task.calibration.n)])
    return TrainingRows((task.calibration,), numbers[2:], numbers[:2], labelled, "these", "a test")


def seen_rows(task: Task) -> TrainingRows:
    """The same, stopped by what is trained on, so that every step is a better one."""
    rows = rows_of(task)
    return replace(rows, stopping=rows.learnt)


def distillation(task: Task, schedule: ps.Schedule | Plan = STAGES, **changes: Any) -> Distillation:
    rows = rows_of(task, labelled=changes.pop("labelled", True))
    return Distillation(task, student_of(task.model).requires_grad_(True), rows, fixed(schedule), **changes)


# -- rows ------------------------------------------------------------------------------------------------------------


def test_rows_are_picked_by_number_whatever_batch_they_are_in(task: Task) -> None:
    split = task.calibration
    whole = {int(n): (b.inputs["pixel_values"][i], b.labels[i]) for b in split.batches for i, n in enumerate(b.index)}
    picked = split.batches.pick([7, 0, 11], split.padding)
    assert [batch.index.tolist() for batch in picked] == [[7, 0, 11]]
    for place, number in enumerate([7, 0, 11]):
        assert torch.equal(picked[0].inputs["pixel_values"][place], whole[number][0])
        assert picked[0].labels[place] == whole[number][1]


def test_short_texts_are_padded_to_the_longest_that_was_picked() -> None:
    ids = [torch.tensor([[5, 6, 7, 8]]), torch.tensor([[5, 6]]), torch.tensor([[9, 9, 9]])]
    batches = [
        Batch({"input_ids": x, "attention_mask": torch.ones_like(x)}, torch.tensor([i]), torch.tensor([i]))
        for i, x in enumerate(ids)
    ]
    held = Held(batches)
    (found,) = held.pick([1, 2], {"input_ids": 3, "attention_mask": 0})
    assert found.inputs["input_ids"].tolist() == [[5, 6, 3], [9, 9, 9]]
    assert found.inputs["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]


def test_a_digest_is_of_the_row_and_of_no_padding(task: Task) -> None:
    ids, mask = torch.tensor([[5, 6, 0, 0]]), torch.tensor([[1, 1, 0, 0]])
    padding = {"input_ids": 0, "attention_mask": 0}

    def digest(inputs: dict[str, torch.Tensor]) -> bytes:
        batch = Batch(inputs, torch.tensor([0]), torch.tensor([0]))
        return next(iter(row_digests(EvalSet("x", Held([batch]), padding), task)))

    long = digest({"input_ids": ids, "attention_mask": mask})
    assert long == digest({"input_ids": ids[:, :2], "attention_mask": mask[:, :2]})
    assert long != digest({"input_ids": ids[:, :3], "attention_mask": torch.ones(1, 3, dtype=torch.int64)})


# -- augmentation ----------------------------------------------------------------------------------------------------


def test_pictures_are_mirrored_and_moved_and_nothing_else_is() -> None:
    picture = torch.arange(16 * 16.0).reshape(1, 1, 16, 16)
    batch = Batch({"pixel_values": picture.expand(200, -1, -1, -1)}, torch.arange(200), torch.arange(200))
    torch.manual_seed(0)
    found = augmented(batch).inputs["pixel_values"]
    assert found.shape == (200, 1, 16, 16)
    allowed = set()
    for start in (picture, picture.flip(-1)):
        wide = nn.functional.pad(start, (2, 2, 2, 2), mode="reflect")
        allowed |= {wide[0, :, y : y + 16, x : x + 16].numpy().tobytes() for y in range(5) for x in range(5)}
    seen = {row.contiguous().numpy().tobytes() for row in found}
    assert seen <= allowed
    assert len(seen) > 40  # of 50
    masked = Batch({"pixel_values": picture, "pixel_mask": picture}, torch.zeros(1), torch.zeros(1))
    assert augmented(masked) is masked


# -- the loss --------------------------------------------------------------------------------------------------------


def test_the_loss_by_hand(task: Task) -> None:
    """KL to the untouched model plus half the cross-entropy, on really fewer tokens."""
    made = distillation(task, augment=False).eval()
    rows = made._rows.learnt[:4]
    loss = made(rows)["loss"]
    (batch,) = made._rows.pick(rows)
    with torch.no_grad():
        teacher = task.model(**batch.inputs).logits
        with ps.apply_(task.model, STAGES):
            student = task.model(**batch.inputs).logits
    logp, want = student.log_softmax(-1), teacher.log_softmax(-1)
    kl = (want.exp() * (want - logp)).sum(-1).mean()
    entropy = -logp[torch.arange(4), batch.labels].mean()
    assert loss.item() == pytest.approx((kl + LABELS * entropy).item(), rel=1e-5)
    assert distillation(task, augment=False, labelled=False).eval()(rows)["loss"].item() == pytest.approx(
        kl.item(), rel=1e-4
    )


def test_without_labels_the_unpruned_model_is_left_as_it_is(task: Task) -> None:
    """Nothing is to be learnt from oneself: that is why there is one reference then."""
    made = distillation(task, ps.Schedule(), labelled=False, augment=True).train()
    made(made._rows.learnt)["loss"].backward()
    assert max(float(value.grad.abs().max()) for value in made.student.parameters() if value.grad is not None) < 1e-6
    assert not made.uses_labels()


def test_every_block_learns_under_removal_and_the_teacher_does_not(task: Task) -> None:
    before = copy.deepcopy(task.model.state_dict())
    made = distillation(task).train()
    made(made._rows.learnt)["loss"].backward()
    grads = {name: value.grad for name, value in made.student.named_parameters()}
    missing = [name for name, grad in grads.items() if grad is None or not bool(grad.abs().sum() > 0)]
    assert [name for name in missing if "key.bias" not in name] == []  # softmax does not see a constant
    assert all(torch.equal(value, before[name]) for name, value in task.model.state_dict().items())
    assert not task.model.training
    assert all("student" in name for name in made.state_dict())


def test_dropout_is_the_students_alone(task: Task) -> None:
    for part in task.model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.5
    made = distillation(task, augment=False, labelled=False)
    torch.manual_seed(0)
    one, two = (made.train()(made._rows.learnt)["loss"].item() for _ in range(2))
    assert one != two
    assert made.eval()(made._rows.learnt)["loss"].item() == made.eval()(made._rows.learnt)["loss"].item()


def test_in_place_distillation_learns_from_the_steps_own_unpruned_pass(task: Task) -> None:
    plans = [Plan(), Plan(STAGES)]
    student = student_of(task.model).requires_grad_(True)
    with torch.no_grad():
        student.classifier.bias.add_(torch.linspace(-1, 1, len(student.classifier.bias)))
    made = Distillation(task, student, rows_of(task, labelled=False), lambda: plans, augment=False, in_place=True)
    rows = made._rows.learnt[:4]
    loss = made.train()(rows)["loss"].item()
    (batch,) = made._rows.pick(rows)
    with torch.no_grad():
        teacher = task.model(**batch.inputs).logits.log_softmax(-1)
        with made._handle.under(Plan()):
            whole = student(**batch.inputs).logits.log_softmax(-1)
        with made._handle.under(Plan(STAGES)):
            pruned = student(**batch.inputs).logits.log_softmax(-1)
    first = (teacher.exp() * (teacher - whole)).sum(-1).mean()
    second = (whole.exp() * (whole - pruned)).sum(-1).mean()
    assert loss == pytest.approx(((first + second) / 2).item(), rel=1e-4)


def test_what_is_stored_in_16_bits_is_trained_in_32(task: Task) -> None:
    task = replace(task, model=copy.deepcopy(task.model).half())
    assert {value.dtype for value in student_of(task.model).parameters()} == {torch.float32}
    assert {value.dtype for value in teacher_of(task).model.parameters()} == {torch.float32}
    assert {value.dtype for value in task.model.parameters()} == {torch.float16}


# -- trainings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "fits"),
    [
        ("full", lambda name: True),
        ("norms", lambda name: "norm" in name or name.endswith("bias")),
        ("lora", lambda name: "layer" in name and name.endswith("weight") and "norm" not in name),
    ],
)
def test_what_is_asked_for_is_trained(parameters: str, fits: Any, task: Task, tmp_path: Path) -> None:
    settings = TrainingSettings(epochs=4, batch_size=5, parameters=parameters, rate=1e-3, augment=False)
    school = School(task, seen_rows(task), settings, tmp_path / "weights", tmp_path / "scratch")
    learnt = school.learn(fixed(STAGES), "one", "a test")
    assert learnt.weights
    assert all(fits(name) for name in learnt.weights)
    assert set(learnt.weights) <= {name for name, _ in task.model.named_parameters()}
    assert learnt.trained.steps <= learnt.amount.steps == 8
    again = school.learn(fixed(STAGES), "one", "a test")
    assert again.name == learnt.name
    assert again.trained == learnt.trained


SMALLER = Plan.parse("1:0.50 cls_attention+fuse | 1:width(mlp=8) | 0:rank(attention=2)")


@pytest.mark.parametrize("plan", [Plan(STAGES), SMALLER])
def test_a_training_that_was_killed_comes_to_the_same_weights(plan: Plan, task: Task, tmp_path: Path) -> None:
    """Stopped in the middle, and taken up from its last checkpoint: the same steps, to the last bit."""
    batches = [dict(batch.inputs) for batch in task.calibration.batches]
    fits = ps.fit_plan(task.model, plan, batches) if plan.changes else {}

    def trained(folder: Path, stop: int | None) -> nn.Module:
        own = LearntFits(fits, torch.device("cpu")) if fits else None
        made = distillation(task, plan, fits=own)
        learns = [] if own is None else [value for value in own.parameters() if value.is_floating_point()]
        for value in learns:
            value.requires_grad_(True)
        numbers = (made._rows.learnt, made._rows.learnt)
        if stop is not None:
            made.register_forward_pre_hook(StopAt(stop))
        train(made, numbers, TrainingLength(12, 5, 1e-3, seed=3), folder, label="a test")
        return nn.ModuleList([made.student, *([] if own is None else [own])])

    whole = trained(tmp_path / "whole", None)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "cut", 9)
    found = last_checkpoint(tmp_path / "cut")
    assert found is not None
    broken = tmp_path / "cut" / "checkpoint-99"  # as a process leaves it that is killed while it writes
    broken.mkdir()
    (broken / "model.safetensors").write_bytes(b"half")
    resumed = trained(tmp_path / "cut", None)
    assert changed_weights(resumed, whole) == {}
    begun = nn.ModuleList([task.model, *([LearntFits(fits, torch.device("cpu"))] if fits else [])])
    changed = changed_weights(resumed, begun)
    assert {name[0] for name in changed} == ({"0", "1"} if fits else {"0"})


class StopAt:
    """Ctrl-C in so many training forwards from now."""

    def __init__(self, left: int) -> None:
        self.left = left

    def __call__(self, module: nn.Module, _: Any) -> None:
        self.left -= module.training
        if self.left <= 0:
            raise KeyboardInterrupt


def test_a_time_becomes_steps_that_stay_when_it_goes_on(task: Task, tmp_path: Path) -> None:
    settings = TrainingSettings(time="10s", batch_size=5)
    school = School(task, rows_of(task), settings, tmp_path, tmp_path)
    made = distillation(task)
    first = school._planned(tmp_path / "key", made)
    assert first > 1
    (tmp_path / "key" / "planned.json").write_text('{"steps": 7}')
    assert school._planned(tmp_path / "key", made) == 7


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"epochs": 0}, "`epochs`: .* greater than 0"),
        ({"time": "soon"}, "a time is written 90s, 10m or 2h"),
        ({"epochs": 1, "time": "1m"}, "--epochs or --time .* leave one out"),
        ({"parameters": "ful"}, "full"),
        ({"epoch": 1}, "unknown setting 'epoch'.*epochs"),
    ],
)
def test_settings_that_cannot_be(given: dict[str, Any], said: str) -> None:
    with pytest.raises(PruneSearchError, match=said):
        TrainingSettings(**given)
