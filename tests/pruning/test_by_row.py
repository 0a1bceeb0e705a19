"""Stages that leave every row a count of its own: against the loops, against rows run alone, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import prunesearch as ps
from prunesearch.core.plans.amount import TYPED
from prunesearch.core.plans.schedule_text import parse_schedule
from tests.pruning.test_models_against_reference import LENGTHS, check
from tests.support import reference as ref
from tests.support.heads import headed
from tests.support.small_models import CASES, build, inputs_of, last_hidden
from tests.support.small_models import rows as row_of

SCHEDULES = [
    "0:p0.7 value_norm+drop > 2:0.30 cls_attention+fuse",
    "0:0.80 position_stride+drop > 1:0.60 cls_attention_value+drop@inverse_cdf > 2:p0.6 attention_received+fuse",
    "0:p0.8 attention_received+nearest > 2:p0.5 value_norm+soft",
    "1:t0.05 cls_attention+fuse > 2:0.20 position_stride+drop",
]

HEADED = {
    "ForImageClassification": ("vit", "beit", "dinov2", "siglip", "clip"),
    "ForSequenceClassification": ("bert", "modernbert", "distilbert", "electra", "roberta", "mpnet", "deberta"),
    "ForAudioClassification": ("wav2vec2", "wavlm", "whisper-audio"),
}


def amount_of(amount: ref.Amount) -> Any:
    """What a stage is given, and its selection."""
    if isinstance(amount, float):
        return amount, "top_k"
    kind, number = amount
    return (number, "inverse_cdf") if kind == "ats" else (TYPED[kind](number), "top_k")  # type: ignore[call-arg]


def stage_of(said: ref.Stage) -> ps.Stage:
    layer, amount, scorer, merge = said
    keep, selection = amount_of(amount)
    return ps.Stage(layer, keep, scorer, merge, selection)


@pytest.mark.parametrize("merge", ["drop", "fuse", "nearest", "soft"])
@pytest.mark.parametrize("amount", [("t", 0.06), ("p", 0.6), ("ats", 0.8)])
@pytest.mark.parametrize("family", ["vit", "bert"])
def test_a_stage_against_the_loops(family: str, amount: ref.Amount, merge: str) -> None:
    check(family, [(1, amount, "cls_attention", merge)], make=stage_of)


@pytest.mark.parametrize("family", list(CASES))
def test_stages_of_both_kinds_in_every_family(family: str) -> None:
    check(family, [(0, ("p", 0.7), "value_norm", "drop"), (2, 0.3, "cls_attention", "fuse")], make=stage_of)


@pytest.mark.parametrize("family", ["vit", "bert", "modernbert", "beit"])
def test_three_stages_one_behind_another(family: str) -> None:
    stages: list[ref.Stage] = [
        (0, 0.8, "value_norm", "fuse"),
        (1, ("ats", 0.7), "cls_attention_value", "drop"),
        (2, ("p", 0.6), "value_norm", "soft"),
    ]
    check(family, stages, make=stage_of)


@torch.no_grad()
@pytest.mark.parametrize("head", ["ForImageClassification", "ForSequenceClassification", "ForAudioClassification"])
@pytest.mark.parametrize("text", SCHEDULES[:2])
def test_heads_that_average_leave_padding_out(head: str, text: str) -> None:
    done = 0
    for family in HEADED[head]:
        model, inputs = headed(family, head), inputs_of(family, LENGTHS, dtype=torch.float64)
        with ps.apply_(model, parse_schedule(text)):
            together = model(**inputs).logits
            for i, one in enumerate(together):
                torch.testing.assert_close(model(**row_of(inputs, i)).logits[0], one, rtol=1e-4, atol=1e-4)
                done += 1
    assert done == len(HEADED[head]) * len(LENGTHS)


@torch.no_grad()
@pytest.mark.parametrize("text", SCHEDULES)
@pytest.mark.parametrize("family", list(CASES))
def test_rows_come_out_alone_as_they_do_in_a_batch(family: str, text: str) -> None:
    inputs, model = inputs_of(family, LENGTHS, dtype=torch.float64), build(family, dtype=torch.float64)
    near = 1e-4 if family in ("t5", "modernbert", "modernbert-cls", "dinov3") else 1e-6
    with ps.apply_(model, parse_schedule(text)) as handle:
        together, tokens = last_hidden(model, inputs), handle.tokens
        assert tokens is not None
        assert tokens.valid is not None
        for i, (row, valid) in enumerate(zip(together, tokens.valid, strict=True)):
            alone = last_hidden(model, row_of(inputs, i))[0]
            # some models give every input of the row a state again
            left = row[valid] if len(row) == tokens.n else row[: len(alone)]
            torch.testing.assert_close(left, alone, rtol=near, atol=near)


def answers(output: Any) -> torch.Tensor:
    """One vector a row where the model gives one, else its states."""
    for name in ("logits", "pooler_output", "image_embeds", "last_hidden_state"):
        found = getattr(output, name, None)
        if found is not None:
            return found
    return output if isinstance(output, torch.Tensor) else output[0]


@torch.no_grad()
@pytest.mark.parametrize("text", ["1:p1 cls_attention+drop > 2:t0 value_norm+fuse", "1:p1 value_norm+soft"])
@pytest.mark.parametrize("family", ["vit", "bert"])
def test_all_of_the_score_is_the_model_untouched(family: str, text: str) -> None:
    model, inputs = build(family), inputs_of(family, LENGTHS)
    before = answers(model(**inputs))
    with ps.apply_(model, parse_schedule(text)) as handle:
        assert torch.equal(answers(model(**inputs)), before)
        assert handle.tokens is None


@torch.no_grad()
def test_a_batch_is_as_wide_as_the_row_that_keeps_most() -> None:
    model, inputs = build("vit"), inputs_of("vit", LENGTHS)
    inputs["pixel_values"][1:] *= 9
    with ps.apply_(model, parse_schedule("0:p0.5 cls_attention+drop")) as handle:
        model(**inputs)
        tokens = handle.tokens
    assert tokens is not None
    assert tokens.valid is not None
    counts = tokens.valid.sum(1)
    assert tokens.n == counts.max()
    assert len(set(counts.tolist())) > 1


def test_a_graph_is_refused() -> None:
    model, inputs = build("vit").eval(), inputs_of("vit", LENGTHS)
    with ps.apply_(model, parse_schedule("1:p0.5 cls_attention+drop")) as handle:
        with pytest.raises(ps.PruneSearchError, match="a graph needs counts that are the same for every row"):
            torch.export.export(model, (), dict(inputs))
        with pytest.raises(ps.PruneSearchError, match="a compiled model needs counts"):
            handle.compile()


def test_what_is_compiled_takes_no_such_stage() -> None:
    with ps.apply_(build("vit"), []) as handle:
        handle.compile()
        with pytest.raises(ps.PruneSearchError, match="a compiled model needs counts"):
            handle.set(parse_schedule("1:t0.1 cls_attention+drop"))
