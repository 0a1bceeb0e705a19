"""What every model family must pass. A new row in `FAMILIES` needs one line in `small_models.CASES`, nothing here."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import nn

import prunesearch as ps
from prunesearch.core.plans.stage import ENCODER
from prunesearch.core.tables.token_tables import MERGES
from prunesearch.cost.counting.flops_report import flops_report
from prunesearch.cost.devices.device import clock_for
from prunesearch.cost.shape import describe_shape
from prunesearch.cost.timing.modes import runner_for
from prunesearch.cost.timing.walk import Walker
from prunesearch.pruning.borders import borrowed
from prunesearch.pruning.families.find import FAMILIES, find_encoder
from prunesearch.pruning.families.pooling import alive_mass
from tests.support.small_models import BACKENDS, CASES, answer, build, inputs_of, last_hidden, rows, tokens_of
from tests.support.some import some

EVERY = pytest.mark.parametrize("name", list(CASES))
EVERY_WAY = pytest.mark.parametrize(("name", "attention"), BACKENDS)
SIDES = [(name, side) for name, case in CASES.items() for side in ("right", "left") if side in ("right", *case.padding)]
TELLING = [name for name, case in CASES.items() if case.tells]  # hidden states and attentions, block by block
MIXED = ps.Schedule([ps.Stage(0, 0.8, "attention_received", "fuse"), ps.Stage(2, 0.45, "cls_attention", "bipartite")])
NOTHING = [ps.Schedule(), ps.Schedule([ps.Stage(1, 1.0, merge="soft")])]


def logits_of(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return answer(model(**inputs))


def state_of(model: nn.Module) -> dict[str, Any]:
    """Everything that `apply_` might leave behind."""
    state: dict[str, Any] = {}
    for path, module in model.named_modules():
        state[path] = sorted(module.__dict__)
        for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_forward_hooks_with_kwargs"):
            state[f"{path}:{hooks}"] = len(getattr(module, hooks))
        if hasattr(module, "config"):
            state[f"{path}:config"] = (module.config._attn_implementation, module.config.to_dict())
    return state


def of_encoder(out: Any, what: str) -> tuple[torch.Tensor, ...]:
    found = getattr(out, f"encoder_{what}", None)
    result: tuple[torch.Tensor, ...] = getattr(out, what) if found is None else found
    return result


def test_every_family_has_a_small_model() -> None:
    encoders = {name for name in FAMILIES if FAMILIES[name].part == ENCODER}
    missing = encoders - {case.family for case in CASES.values()}
    assert not missing, f"add one line for each of {sorted(missing)} to CASES in tests/support/small_cases.py"


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_row_says_what_it_protects(family: str) -> None:
    row = FAMILIES[family]
    assert row.model_type == family
    assert row.protects


@EVERY_WAY
@pytest.mark.parametrize("schedule", NOTHING, ids=["empty", "keep=1.0"])
def test_a_schedule_that_keeps_all_changes_nothing(name: str, attention: str, schedule: ps.Schedule) -> None:
    model, inputs = build(name, attention), inputs_of(name)
    before = logits_of(model, inputs)
    with ps.apply_(model, schedule):
        assert torch.equal(logits_of(model, inputs), before)


@EVERY_WAY
def test_remove_undoes_everything(name: str, attention: str) -> None:
    model, inputs = build(name, attention), inputs_of(name)
    before, state = logits_of(model, inputs), state_of(model)
    handle = ps.apply_(model, MIXED, trace=True)
    reduced = logits_of(model, inputs)
    assert reduced.shape != before.shape or not torch.allclose(reduced, before)
    handle.set(ps.Schedule([ps.Stage(1, 0.5)]))
    logits_of(model, inputs)
    handle.remove()
    assert torch.equal(logits_of(model, inputs), before)
    assert state_of(model) == state
    assert all("forward" not in block.__dict__ for block in some(find_encoder(model).blocks))
    handle.remove()  # a second time does nothing
    ps.apply_(model, MIXED).remove()
    assert torch.equal(logits_of(model, inputs), before)


@EVERY_WAY
@pytest.mark.parametrize("merge", list(MERGES))
def test_tokens_are_really_removed(name: str, attention: str, merge: str) -> None:
    schedule = ps.Schedule([ps.Stage(0, 0.7, merge=merge), ps.Stage(2, 0.21, merge=merge)])
    model, inputs = build(name, attention), inputs_of(name)
    encoder, flowed = find_encoder(model), []
    for block in dict.fromkeys(encoder.blocks):
        first = block.get_submodule(CASES[name].mlp_in)
        first.register_forward_pre_hook(lambda _, args: flowed.append(args[0].shape[1]))
    tokens = last_hidden(model, inputs).shape[1]
    flowed.clear()
    with ps.apply_(model, schedule):
        out = last_hidden(model, inputs)
    counts = schedule.counts(encoder.depth, tokens, encoder.protected)
    assert flowed == counts
    assert counts[-1] < tokens
    assert out.shape[1] == (tokens if CASES[name].at_full_length else counts[-1])


@pytest.mark.parametrize(("name", "side"), SIDES)
@pytest.mark.parametrize("merge", list(MERGES))
def test_a_row_alone_equals_the_row_in_a_batch(name: str, merge: str, side: str) -> None:
    case = CASES[name]
    model, inputs = build(name, dtype=torch.float64), inputs_of(name, (14, 9, 5, 3), dtype=torch.float64)
    if case.first_place is not None:
        mask = inputs["attention_mask"]
        if accepts(model, "position_ids"):
            inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0) + case.first_place
        if side == "left":
            order = mask.sort(dim=1, stable=True).indices
            inputs = {k: v.gather(1, order) for k, v in inputs.items()}
    schedule = ps.Schedule([ps.Stage(0, 0.75, "attention_received", merge), ps.Stage(2, 0.3, "value_norm", merge)])
    with ps.apply_(model, schedule) as handle, torch.no_grad():
        answers, together, tokens = answer(model(**inputs)), last_hidden(model, inputs), handle.tokens
        assert tokens is not None
        for b in range(len(together)):
            alone = last_hidden(model, rows(inputs, b))[0]
            real = together[b] if tokens.valid is None else together[b, : len(alone)]
            if tokens.valid is not None and not case.at_full_length:
                real = together[b, tokens.valid[b]]
            torch.testing.assert_close(alone, real, rtol=1e-9, atol=1e-9)
            same = answer(model(**rows(inputs, b)))[0]
            if same.shape == answers[b].shape:
                torch.testing.assert_close(same, answers[b], rtol=1e-9, atol=1e-9)


def accepts(model: Any, argument: str) -> bool:
    return argument in inspect.signature(model.forward).parameters


@EVERY_WAY
@pytest.mark.parametrize("merge", list(MERGES))
def test_protected_stay_order_is_kept_and_sizes_add_up(name: str, attention: str, merge: str) -> None:
    model, inputs = build(name, attention), inputs_of(name)
    lengths = tokens_of(inputs)
    encoder = find_encoder(model)
    schedule = ps.Schedule([ps.Stage(1, 0.8, "key_redundancy", merge), ps.Stage(3, 0.15, "attention_entropy", merge)])
    with ps.apply_(model, schedule, trace=True) as handle:
        logits_of(model, inputs)
        trace, tokens = handle.trace, handle.tokens
    assert trace is not None
    assert tokens is not None
    assert trace.source is not None
    source = trace.source
    for b in range(len(source)):
        real = source.shape[2] if lengths is None else int(lengths[b])
        guarded = [*range(encoder.leading), *range(real - encoder.family.trailing, real)]
        for place in guarded:  # alone in a slot of its own
            (slot,) = (source[b, :, place] > 0).nonzero()[:, 0].tolist()
            assert source[b, slot].sum() == source[b, slot, place] == 1
            assert tokens.protected[b, slot]
        assert not source[b, :, real:].any(), "padding was counted"
        if MERGES.entry(merge).makes_sizes:
            assert alive_mass(tokens)[b].sum().item() == pytest.approx(real, abs=1e-4)
            torch.testing.assert_close(source[b, :, :real].sum(0), torch.ones(real), rtol=1e-5, atol=1e-5)
        else:
            assert tokens.size is None
        # the token that a slot continues: each stands once, and in order where a family's order means something
        place = torch.arange(source.shape[2]).expand(len(source), -1)
        for stage in trace.stages:
            place = place.gather(1, stage.assignment.kept)
        survivors = place[b] if tokens.valid is None else place[b][tokens.valid[b]]
        in_order = survivors if encoder.family.keeps_order else survivors.sort().values
        assert (in_order.diff() > 0).all()
        assert (survivors < real).all()


@pytest.mark.parametrize(("name", "attention"), [(name, way) for name, way in BACKENDS if name in TELLING])
def test_outputs_of_every_kind_still_come(name: str, attention: str) -> None:
    model, inputs = build(name, attention), inputs_of(name)
    with ps.apply_(model, MIXED) as handle, torch.no_grad():
        plain = model(**inputs)
        rich = model(**inputs, output_hidden_states=True)
        pair = model(**inputs, return_dict=False)
        tokens = last_hidden(model, inputs).shape[1]
        start = of_encoder(rich, "hidden_states")[0].shape[1]
        want = [start, *MIXED.counts(handle.encoder.depth, start, handle.encoder.protected)]
    assert torch.equal(answer(plain), answer(rich))
    assert any(torch.equal(x, answer(plain)) for x in pair if isinstance(x, torch.Tensor))
    assert [h.shape[1] for h in of_encoder(rich, "hidden_states")] == want
    assert tokens == (start if CASES[name].at_full_length else want[-1])


@pytest.mark.parametrize("name", TELLING)
def test_attentions_come_as_before(name: str) -> None:
    model, inputs = build(name, "eager"), inputs_of(name)
    with torch.no_grad():
        before = of_encoder(model(**inputs, output_attentions=True), "attentions")
        with ps.apply_(model, ps.Schedule()):
            same = of_encoder(model(**inputs, output_attentions=True), "attentions")
        with ps.apply_(model, MIXED):
            reduced = of_encoder(model(**inputs, output_attentions=True), "attentions")
    assert len(same) == len(before) == len(reduced) == 4
    assert all(torch.equal(a, b) for a, b in zip(same, before, strict=True))
    assert reduced[-1].shape[-1] < before[-1].shape[-1]


@EVERY_WAY
@pytest.mark.parametrize("merge", list(MERGES))
def test_fine_tuning_gives_finite_gradients(name: str, attention: str, merge: str) -> None:
    model, inputs = build(name, attention).train(), inputs_of(name)
    schedule = ps.Schedule(
        [ps.Stage(0, 0.8, "attention_entropy", merge), ps.Stage(1, 0.5, "cls_attention_value", merge)]
    )
    with ps.apply_(model, schedule):
        loss = answer(model(**inputs)).log_softmax(-1)[:, 0].neg().mean()
        loss.backward()
    assert torch.isfinite(loss)
    for key, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert torch.isfinite(parameter.grad).all(), key
    block = find_encoder(model).blocks[0]
    assert all(p.grad is not None for p in block.parameters())


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if len(case.backends) > 1])
def test_eager_and_sdpa_reduce_alike(name: str) -> None:
    inputs, hidden = inputs_of(name), []
    for attention in ("eager", "sdpa"):
        model = build(name, attention)
        with ps.apply_(model, MIXED), torch.no_grad():
            hidden.append(logits_of(model, inputs))
    torch.testing.assert_close(hidden[0], hidden[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", sorted({case.family: name for name, case in CASES.items()}.values()))
def test_its_cost_can_be_told(name: str) -> None:
    model, inputs = build(name), inputs_of(name, (14, 14))
    inputs.pop("attention_mask", None)
    report = flops_report(model, inputs, MIXED, name=name)
    assert report.pruned is not None
    assert 0.4 < report.ratio < 1
    assert report.pruned.memory.value_mib > 0
    with borrowed(model) as handle, torch.no_grad():
        shape = describe_shape(model, handle, inputs)
        assert (shape.depth, shape.width, shape.heads) == (4, 32, 2)
        walker = Walker(runner_for("eager", model, handle, inputs), shape, clock_for(torch.device("cpu")))
        with walker.marking():
            pieces = [piece for piece, _ in walker.walk(MIXED)]
    assert [p[1] for p in pieces if p[0] == "mlp"] == MIXED.counts(4, shape.tokens, shape.protected)
