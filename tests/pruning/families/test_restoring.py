"""Heads that answer for every token: under a schedule, an answer still stands in its place.

The judge: the model without a schedule, whose last block is made to give what a full trace of the reduced encoder says
that each input has come to.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunesearch as ps
from prunesearch.pruning.families.find import find_encoder
from tests.support.heads import headed
from tests.support.small_models import inputs_of

TEXTS = ["bert", "roberta", "electra", "distilbert", "albert", "mpnet", "deberta", "modernbert", "xlm-roberta"]
SOUNDS = ["wav2vec2", "hubert", "wavlm"]


def answers(out: Any) -> Tensor:
    logits = getattr(out, "logits", None)
    return torch.stack([out.start_logits, out.end_logits], -1) if logits is None else logits


def with_last(model: Any, inputs: dict[str, Tensor], hidden: Tensor) -> Tensor:
    """The unpruned model's answer where its last block gives `hidden`."""
    encoder = find_encoder(model)
    calls: list[int] = []

    def instead(_: nn.Module, __: Any, output: Any) -> Any:
        calls.append(1)
        if len(calls) < encoder.depth and len(set(map(id, encoder.blocks))) == 1:
            return None  # a shared block, in an earlier pass
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    hook = encoder.blocks[-1].register_forward_hook(instead)
    out = answers(model(**inputs))
    hook.remove()
    return out


def traced_hidden(model: Any, inputs: dict[str, Tensor], schedule: ps.Schedule) -> tuple[Tensor, Any, Tensor]:
    """What the last block gives under a schedule, the trace of it, and the answers."""
    last: list[Tensor] = []
    with ps.apply_(model, schedule, trace=True) as handle:
        hook = (
            find_encoder(model)
            .blocks[-1]
            .register_forward_hook(
                lambda _, __, output: last.append(output[0] if isinstance(output, tuple) else output)
            )
        )
        found = answers(model(**inputs))
        hook.remove()
        return last[-1], handle.trace, found


@pytest.mark.parametrize(
    ("head", "merge"),
    [
        *[("ForTokenClassification", merge) for merge in ("drop", "fuse", "bipartite", "soft")],
        ("ForQuestionAnswering", "drop"),
        ("ForMaskedLM", "fuse"),
    ],
)
@pytest.mark.parametrize("name", TEXTS)
@torch.no_grad()
def test_states_come_back_to_their_tokens(name: str, head: str, merge: str) -> None:
    model, inputs = headed(name, head), inputs_of(name, dtype=torch.float64)
    before = answers(model(**inputs))
    schedule = ps.Schedule([ps.Stage(0, 0.7, "value_norm", merge), ps.Stage(2, 0.4, "value_norm", merge)])
    last, trace, found = traced_hidden(model, inputs, schedule)
    assert last.shape[1] < before.shape[1]
    assert found.shape == before.shape
    real = inputs["attention_mask"].bool()
    want = with_last(model, inputs, trace.restore(last))
    assert torch.allclose(found[real], want[real], atol=1e-8)
    assert not torch.allclose(found[real], before[real], atol=1e-3)
    assert torch.equal(answers(model(**inputs)), before)


@pytest.mark.parametrize("merge", ["drop", "fuse", "bipartite"])
@pytest.mark.parametrize("name", SOUNDS)
@torch.no_grad()
def test_a_frame_that_left_repeats_the_nearest_that_is_left(name: str, merge: str) -> None:
    model, inputs = headed(name, "ForCTC"), inputs_of(name, dtype=torch.float64)
    before = answers(model(**inputs))
    schedule = ps.Schedule([ps.Stage(0, 0.7, "value_norm", merge), ps.Stage(2, 0.4, "value_norm", merge)])
    last, trace, found = traced_hidden(model, inputs, schedule)
    assert found.shape == before.shape
    for row, length in enumerate((14, 9, 5)):
        owner = [nearest(trace.source[row, :, :length], frame) for frame in range(length)]
        states = torch.cat([last[row, owner], last[row, :1].expand(14 - length, -1)])[None].expand(3, -1, -1)
        want = with_last(model, inputs, states)[row, :length]
        assert torch.allclose(found[row, :length], want, atol=1e-8)


@torch.no_grad()
def test_the_loss_of_ctc_is_of_all_frames() -> None:
    model, inputs = headed("wav2vec2", "ForCTC"), inputs_of("wav2vec2", (14, 14, 14), dtype=torch.float64)
    labels = torch.tensor([[3, 4, 3], [2, 3, 4], [4, 4, 2]])
    with ps.apply_(model, ps.Schedule([ps.Stage(0, 0.2, "value_norm", "drop")])):
        out = model(**inputs, labels=labels)
    probabilities = out.logits.log_softmax(-1, dtype=torch.float32).transpose(0, 1)  # as transformers has it
    lengths = torch.full((3,), 14), torch.full((3,), 3)
    want = nn.functional.ctc_loss(probabilities, labels, *lengths, blank=model.config.pad_token_id, reduction="sum")
    assert torch.allclose(out.loss, want, rtol=1e-5)
    assert torch.isfinite(out.loss)


def nearest(source: Tensor, frame: int) -> int:
    """Which of those left holds most of `frame`, else of the nearest that any holds, the earlier of two."""
    held = source.sum(0) > 0
    places = [place for place in range(len(held)) if held[place]]
    place = min(places, key=lambda other: (abs(other - frame), other))
    return int(source[:, place].argmax())


@torch.no_grad()
def test_tuples_are_put_back_too_and_nothing_is_kept() -> None:
    model, inputs = headed("bert", "ForTokenClassification"), inputs_of("bert", dtype=torch.float64)
    schedule = ps.Schedule([ps.Stage(0, 0.5, "value_norm", "fuse")])
    with ps.apply_(model, schedule) as handle:
        logits = model(**inputs).logits
        assert torch.equal(model(**inputs, return_dict=False)[0], logits)
        with handle.departing() as stages:
            model(**inputs)
        assert not stages  # the head's own are let go of with its answer


@torch.no_grad()
def test_an_encoder_by_itself_and_a_head_on_a_decoder_are_left_alone() -> None:
    model, inputs = headed("bert", "ForTokenClassification"), inputs_of("bert", dtype=torch.float64)
    schedule = ps.Schedule([ps.Stage(0, 0.5, "value_norm", "drop")])
    with ps.apply_(model, schedule):
        assert model(**inputs).logits.shape[1] == 14
        assert model.base_model(**inputs).last_hidden_state.shape[1] < 14
    model = headed("bart", "ForQuestionAnswering")  # its head reads the decoder, which has every token
    with ps.apply_(model, schedule):
        assert answers(model(**inputs)).shape == (3, 14, 2)


def test_gradients_reach_what_was_dropped() -> None:
    model, inputs = headed("bert", "ForTokenClassification"), inputs_of("bert", (14,), dtype=torch.float64)
    labels = torch.full((1, 14), 1)
    with ps.apply_(model, ps.Schedule([ps.Stage(0, 0.4, "value_norm", "drop")]), trace=True) as handle:
        out = model(**inputs, labels=labels, output_hidden_states=False)
        gone = handle.trace.source[0].sum(0) == 0
        (grad,) = torch.autograd.grad(out.loss, handle.trace.stages[0].hidden)
    assert gone.any()
    assert (grad[0, gone].abs().sum(-1) > 0).all()


@torch.no_grad()
def test_rows_of_a_padded_batch_answer_as_by_themselves() -> None:
    for name, head in (("bert", "ForTokenClassification"), ("wav2vec2", "ForCTC")):
        model, inputs = headed(name, head), inputs_of(name, dtype=torch.float64)
        with ps.apply_(model, ps.Schedule([ps.Stage(1, 0.5, "value_norm", "fuse")])):
            together = answers(model(**inputs))
            for row, length in enumerate((14, 9, 5)):
                mask = inputs["attention_mask"][row].bool()
                one = {k: v[row : row + 1][:, mask] if v.dim() == 2 else v[row : row + 1] for k, v in inputs.items()}
                alone = answers(model(**one))
                assert torch.allclose(together[row, :length], alone[0, :length], atol=1e-8), name
