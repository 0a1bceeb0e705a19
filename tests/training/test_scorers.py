"""Learned scorers: what masking does, what the probe says, and what each method learns from."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import prunesearch as ps
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.core.tables.names import load_target
from prunesearch.core.tables.token_tables import LEARNED, SCORERS
from prunesearch.pruning.forward.artefacts import loaded
from prunesearch.pruning.scorers.by_probe import probed
from prunesearch.tasks.base import Task
from prunesearch.training.scorers.lesson import Lesson, ScorerSchool
from prunesearch.training.scorers.scene import GONE, Scene, standardised
from prunesearch.training.settings import TrainingSettings
from tests.training.test_training import rows_of, seen_rows

EVERY = pytest.mark.parametrize("name", list(LEARNED))


def scene_of(task: Task, block: int = 0, share: float = 0.5) -> tuple[Scene, Lesson]:
    lesson = Lesson(task, rows_of(task), lambda scene: torch.zeros(()))
    (batch,) = rows_of(task).pick(rows_of(task).learnt)
    return lesson._scene(batch, block, share), lesson


def by_loops(probe: dict[str, Tensor], x: Tensor, reducible: Tensor) -> list[float]:
    """What a probe says of one row, token by token, in plain Python."""

    def gelu(v: float) -> float:
        return 0.5 * v * (1 + math.erf(v / math.sqrt(2)))

    local = []
    for token in x.double():
        centred = (token - token.mean()) / (token.var(unbiased=False) + 1e-5).sqrt()
        rows = zip(probe["local"].double(), probe["local_bias"].double(), strict=True)
        local.append([gelu(float(row @ centred + bias)) for row, bias in rows])
    among = [one for one, on in zip(local, reducible, strict=True) if on]
    mean = [sum(column) / len(among) for column in zip(*among, strict=True)]
    found = []
    for one in local:
        both = torch.tensor(one + mean, dtype=torch.float64)
        mixed = both @ probe["mixed"].double() + probe["mixed_bias"].double()
        found.append(sum(gelu(float(v)) * float(w) for v, w in zip(mixed, probe["out"], strict=True)))
    return found


def test_the_probe_is_what_loops_say_and_padding_says_nothing(task: Task) -> None:
    scene, lesson = scene_of(task)
    probe = {name: value.detach() for name, value in lesson.student[0].named_parameters()}
    x = torch.randn(2, 7, scene.entering.shape[-1])
    reducible = torch.tensor([[0, 1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 0, 0, 0]]).bool()
    got = probed(probe, x, reducible, torch.float32)
    for row in range(2):
        want = by_loops(probe, x[row], reducible[row])
        torch.testing.assert_close(got[row], torch.tensor(want).float(), rtol=1e-4, atol=1e-5)
    x[1, 4:] = torch.nan
    again = probed(probe, x, reducible, torch.float32)
    assert torch.equal(again[1, :4], got[1, :4])


def test_a_masked_token_is_as_good_as_removed(task: Task) -> None:
    """Outside judge: the same tokens really removed by a stage."""
    scene, lesson = scene_of(task, block=1)
    n = scene.entering.shape[1]
    wanted = torch.rand(len(scene.entering), n, generator=torch.Generator().manual_seed(3))
    kept = (n - 1 + 1) // 2
    place = wanted[:, 1:].argsort(1, descending=True).argsort(1)
    stays = torch.cat([torch.ones(len(place), 1).bool(), place < kept], 1)
    with torch.no_grad():
        masked = scene.divergence(lambda x, tokens: torch.where(stays, 1.0, GONE))
    lesson.remove()
    with SCORERS.registered("told", lambda inputs: wanted, "as told"):
        stage = ps.Stage(1, 0.5, "told", "drop")
        with ps.apply_(task.model, ps.Schedule([stage])), torch.no_grad():
            outputs = task.outputs(task.model, scene.batch)
    removed = task.divergence(scene.reference, outputs, scene.batch)
    torch.testing.assert_close(masked, removed, rtol=2e-3, atol=1e-6)


def test_the_gradient_of_a_size_is_what_a_small_change_does(task: Task) -> None:
    scene, _ = scene_of(task)
    start = torch.rand(scene.entering.shape[:2], generator=torch.Generator().manual_seed(1)).clamp(min=0.3)
    start[:, 0] = 1.0
    size = start.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(scene.divergence(lambda x, tokens: size).sum(), size)
    step = torch.zeros_like(start)
    step[:, 3] = 1e-2
    with torch.no_grad():
        up, down = (scene.divergence(lambda x, tokens, s=sign: start + s * step).sum() for sign in (1, -1))
    assert float(gradient[:, 3].sum()) == pytest.approx(float(up - down) / 2e-2, rel=2e-2, abs=1e-6)


def test_leave_one_out_wants_the_group_whose_absence_costs_more_to_score_more(task: Task) -> None:
    """A probe of two words: right ones have less loss than the same with the sign turned."""
    learns = load_target(LEARNED.entry("leave_one_out").learning)
    scene, _ = scene_of(task)

    def costs(x: Tensor, tokens: Any) -> Tensor:
        found = torch.zeros(x.shape[:2])
        for token in range(1, x.shape[1]):
            size = torch.ones(x.shape[:2])
            size[:, token] = GONE
            with torch.no_grad():
                found[:, token] = original(lambda *_, s=size: s)
        return found

    original = scene.divergence
    with torch.no_grad():
        original(lambda x, tokens: torch.ones(x.shape[:2]))
    worth = standardised(costs(*scene.seen), scene.seen[1])
    losses = []
    for sign in (1.0, -1.0):
        scene.logits = lambda x, tokens, s=sign: 3 * s * worth  # type: ignore[method-assign]
        torch.manual_seed(0)
        losses.append(sum(float(learns(scene)) for _ in range(10)))
    assert losses[0] < losses[1]


@EVERY
def test_every_method_trains_its_probes_and_nothing_else(name: str, task: Task) -> None:
    before = copy.deepcopy(task.model.state_dict())
    lesson = Lesson(task, rows_of(task), load_target(LEARNED.entry(name).learning))
    torch.manual_seed(0)
    for _ in range(6):
        loss = lesson(rows_of(task).learnt)["loss"]
        assert torch.isfinite(loss)
        loss.backward()
    gradients = [value.grad for value in lesson.parameters()]
    assert any(gradient is not None and bool(gradient.abs().sum() > 0) for gradient in gradients)
    assert all(torch.isfinite(gradient).all() for gradient in gradients if gradient is not None)
    assert all(value.grad is None for value in task.model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in task.model.state_dict().items())


@pytest.mark.parametrize("name", ["saliency", "gate"])
def test_at_the_last_block_nobody_reads_the_tokens_and_nothing_breaks(name: str, task: Task) -> None:
    scene, _ = scene_of(task, block=task.model.config.num_hidden_layers - 1)
    loss = load_target(LEARNED.entry(name).learning)(scene)
    assert torch.isfinite(loss)


def test_weights_are_held_by_the_model_for_a_while_and_leave_no_trace(task: Task, tmp_path: Path) -> None:
    settings = TrainingSettings(epochs=1, batch_size=4)
    school = ScorerSchool(task, seen_rows(task), settings, tmp_path)
    tensors, trained = school.learn("saliency", "one")
    assert trained.steps >= 1
    assert school.learn("saliency", "one")[1] == trained
    (batch, *_) = task.holdout.batches
    names, state = [name for name, _ in task.model.named_modules()], set(task.model.state_dict())
    stage = ps.Schedule([ps.Stage(0, 0.5, "saliency", "drop")])
    with ps.apply_(task.model, stage), pytest.raises(PruneSearchError, match="learn-scorers STUDY"):
        task.model(**batch.inputs)
    with loaded(task.model, tensors), ps.apply_(task.model, stage) as handle, torch.no_grad():
        assert set(task.model.state_dict()) == state
        x, seen = task.model(**batch.inputs).logits, handle.tokens
        assert seen is not None
        twin = copy.deepcopy(task.model)
        assert torch.equal(twin(**batch.inputs).logits, x)
    assert [name for name, _ in task.model.named_modules()] == names
    with ps.apply_(task.model, Plan()), torch.no_grad():
        assert torch.isfinite(task.model(**batch.inputs).logits).all()


def test_learned_names_are_taken_but_not_listed_among_the_rules() -> None:
    assert "saliency" in SCORERS
    assert "saliency" not in list(SCORERS)
    assert SCORERS.entry("saliency") is LEARNED.entry("saliency")
    with pytest.raises(PruneSearchError, match="already registered"):
        SCORERS.register("saliency", lambda inputs: inputs, "mine")
    assert sum(row.control for row in LEARNED.entries().values()) == 1


def test_a_policy_comes_to_keep_what_is_rewarded(task: Task) -> None:
    """A divergence made up: the share of tokens of the first half that are gone. Nothing else tells them apart."""
    scene, _ = scene_of(task)
    n = scene.entering.shape[1]
    first = torch.arange(n) <= n // 2
    scene._seen = scene.entering, scene_tokens(scene)
    probe = torch.zeros(n, requires_grad=True)
    scene.logits = lambda x, tokens: probe.expand(x.shape[:2])  # type: ignore[method-assign]
    scene.divergence = lambda size_of: (size_of(*scene.seen) < 0.5)[:, first].float().mean(1)  # type: ignore
    torch.manual_seed(0)
    for _ in range(30):
        (gradient,) = torch.autograd.grad(load_target(LEARNED.entry("policy").learning)(scene), probe)
        probe.data -= 5 * gradient
    assert probe[1:][first[1:]].min() > probe[~first].max()


def scene_tokens(scene: Scene) -> Any:
    with torch.no_grad():
        scene.divergence(lambda x, tokens: torch.ones(x.shape[:2]))
    return scene.seen[1]
