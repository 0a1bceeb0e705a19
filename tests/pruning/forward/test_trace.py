"""What a trace says, the way back to full length, and forwards that start in the middle."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import prunesearch as ps
from prunesearch.core.tables.token_tables import MERGES
from prunesearch.pruning.forward.trace import Trace
from tests.support.small_models import CASES, answer, build, inputs_of, last_hidden

TWO = (("attention_received", 0.8, 1), ("value_norm", 0.35, 2))
LENGTHS = (14, 9, 4)


def traced(name: str, merges: tuple[str, str]) -> tuple[Trace, torch.Tensor, Any]:
    model, inputs = build(name, dtype=torch.float64), inputs_of(name, LENGTHS, dtype=torch.float64)
    schedule = ps.Schedule([ps.Stage(i, k, s, m) for (s, k, i), m in zip(TWO, merges, strict=True)])
    with ps.apply_(model, schedule, trace=True) as handle, torch.no_grad():
        hidden = last_hidden(model, inputs)
    assert handle.trace is not None
    return handle.trace, hidden, handle.tokens


def real_places(name: str, row: int, width: int) -> range:
    return range(LENGTHS[row] if name == "bert" else width)


@pytest.mark.parametrize("name", ["vit", "bert"])
@pytest.mark.parametrize("first", list(MERGES))
@pytest.mark.parametrize("second", list(MERGES))
def test_restore_brings_every_input_back_to_its_place(name: str, first: str, second: str) -> None:
    trace, hidden, tokens = traced(name, (first, second))
    full = trace.restore(hidden)
    start = trace.stages[0].hidden
    assert full.shape == start.shape
    one, two = trace.stages
    for b in range(len(full)):
        for place in real_places(name, b, start.shape[1]):
            # follow the input through the two stages by the shares that each slot holds of it
            column = one.source[b, :, place]
            if not column.any():
                assert torch.equal(full[b, place], start[b, place]), "a dropped token keeps what it was"
                continue
            middle = int(column.argmax())
            step = two.assignment.matrix(torch.ones(two.hidden.shape[:2], dtype=torch.float64))[b, :, middle]
            if not step.any():
                assert torch.equal(full[b, place], two.hidden[b, middle])
            else:
                assert torch.equal(full[b, place], hidden[b, int(step.argmax())])
    assert tokens.n == hidden.shape[1]


@pytest.mark.parametrize("merge", list(MERGES))
def test_the_features_of_a_slot_come_from_what_its_row_of_the_source_says(merge: str) -> None:
    """For merges by size the features after one stage are source x features / sizes: no other record is needed."""
    trace, _, _ = traced("bert", (merge, "drop"))
    stage = trace.stages[0]
    after = stage.assignment.features(stage.hidden)
    held = stage.source.to(stage.hidden.dtype)
    for b in range(len(after)):
        for slot in held[b].sum(-1).nonzero()[:, 0]:
            inside = held[b, slot].nonzero()[:, 0]
            if merge == "fuse" and len(inside) > 1:  # weighted by score too: within the hull, at least
                low, high = stage.hidden[b, inside].amin(0), stage.hidden[b, inside].amax(0)
                assert ((after[b, slot] >= low - 1e-9) & (after[b, slot] <= high + 1e-9)).all()
            else:
                mean = held[b, slot] @ stage.hidden[b] / held[b, slot].sum()
                torch.testing.assert_close(after[b, slot], mean, rtol=1e-9, atol=1e-9)


def test_a_trace_is_of_the_latest_forward_only() -> None:
    model = build("vit")
    with ps.apply_(model, ps.Schedule([ps.Stage(1, 0.5)]), trace=True) as handle, torch.no_grad():
        for batch in ((1, 1), (1, 1, 1)):
            model(**inputs_of("vit", batch))
        assert handle.trace is not None
        (stage,) = handle.trace.stages
        assert len(stage.source) == 3
        handle.set(ps.Schedule())
        hidden = last_hidden(model, inputs_of("vit"))
        assert handle.trace.source is None
        assert torch.equal(handle.trace.restore(hidden), hidden)


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize(("layer", "merge"), [(0, "fuse"), (1, "drop"), (2, "nearest"), (2, "soft"), (3, "bipartite")])
def test_resuming_equals_the_whole_forward(name: str, layer: int, merge: str) -> None:
    model, inputs = build(name, dtype=torch.float64), inputs_of(name, LENGTHS, dtype=torch.float64)
    schedule = ps.Schedule([ps.Stage(layer, 0.5, "cls_attention_value", merge)])
    with ps.apply_(model, ps.Schedule(), trace=True) as handle, torch.no_grad():
        with handle.observing() as recorded:
            model(**inputs)
            model(**inputs)  # of the latest forward only
        assert len(recorded) == 4
        handle.set(schedule)
        whole = answer(model(**inputs))
        assert handle.tokens is not None
        tokens = handle.tokens.n
        run = []
        blocks = handle.encoder.blocks
        first = blocks[0].get_submodule(handle.encoder.family.layout.core)
        hook = first.register_forward_pre_hook(lambda *_: run.append(0))
        with handle.resuming(layer, recorded[layer]):
            resumed = answer(model(**inputs))
            assert handle.tokens.n == tokens
        assert len(run) == blocks[layer:].count(blocks[0]), "the blocks before are skipped"
        hook.remove()
        torch.testing.assert_close(resumed, whole, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(answer(model(**inputs)), whole, rtol=0, atol=0)
        assert len(recorded) == 4
