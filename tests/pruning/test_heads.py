"""A merged token counts for as many inputs as it holds, in whatever reads the encoder's states.

The judge: a model without a schedule whose last block is made to give every merged token as often as it stands for
inputs. Its heads and decoders then do by themselves what the reduced model's have to be told.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunesearch as ps
from prunesearch.pruning.families.find import find_encoder
from prunesearch.pruning.forward.tokens import take_rows
from tests.support.small_models import CASES, answer, build, inputs_of

MERGED = ps.Schedule([ps.Stage(0, 0.8, merge="bipartite"), ps.Stage(2, 0.4, merge="bipartite")])
READERS = [
    *("clip", "siglip", "siglip-pool", "beit", "videomae", "dinov2", "dinov2-registers", "modernbert"),
    *("wav2vec2", "hubert", "wavlm", "whisper-audio", "t5", "bart", "marian", "whisper", "detr"),
]


def without_padding(name: str) -> dict[str, Tensor]:
    inputs = inputs_of(name, (14,), dtype=torch.float64)
    inputs.pop("attention_mask", None)
    return inputs


def repeated(model: Any, inputs: dict[str, Tensor], hidden: Tensor, slots: Tensor, place: Tensor | None) -> Tensor:
    """The answer where the last block gives `hidden[:, slots]`."""

    def instead(_: nn.Module, __: Any, output: Any) -> Any:
        full = hidden[:, slots]
        return (full, *output[1:]) if isinstance(output, tuple) else full

    def at_place(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        name = "spatial_position_embeddings"
        moved = {name: take_rows(kwargs[name], place[:, slots])} if place is not None and name in kwargs else {}
        return args, {**kwargs, **moved}

    hooks = [find_encoder(model).blocks[-1].register_forward_hook(instead)]
    if hasattr(model.base_model, "decoder"):
        hooks.append(model.base_model.decoder.register_forward_pre_hook(at_place, with_kwargs=True))
    with torch.no_grad():
        out = answer(model(**inputs))
    for hook in hooks:
        hook.remove()
    return out


@pytest.mark.parametrize("name", READERS)
def test_a_merged_token_counts_as_often_as_it_stands_for(name: str) -> None:
    model, inputs = build(name, dtype=torch.float64), without_padding(name)
    last: list[Tensor] = []
    with ps.apply_(model, MERGED) as handle, torch.no_grad():
        hook = handle.encoder.blocks[-1].register_forward_hook(
            lambda _, __, out: last.append(out[0] if isinstance(out, tuple) else out)
        )
        got, tokens = answer(model(**inputs)), handle.tokens
        hook.remove()
    assert tokens is not None
    assert tokens.size is not None
    assert tokens.size.max() > 1
    slots = torch.arange(tokens.n).repeat_interleave(tokens.size[0].long())
    want = repeated(model, inputs, last[-1], slots, tokens.place)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7)
    plain = repeated(model, inputs, last[-1], torch.arange(tokens.n), tokens.place)
    assert not torch.allclose(plain, want, rtol=1e-4), "the test could not tell"


@pytest.mark.parametrize("name", ["t5", "bart", "marian", "whisper"])
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("merge", ["drop", "bipartite"])
def test_generate_decodes_from_fewer_states(name: str, beams: int, merge: str) -> None:
    """Each row of a batch as by itself, where padding and sizes are of no one else."""
    model, inputs = build(name, dtype=torch.float64), inputs_of(name, (14, 9), dtype=torch.float64)
    inputs.pop("decoder_input_ids")
    how: dict[str, Any] = {"max_new_tokens": 6, "min_new_tokens": 6, "num_beams": beams, "do_sample": False}
    if name == "whisper":
        how["decoder_input_ids"] = torch.tensor([[3, 4], [3, 4]])
    schedule, seen = ps.Schedule([ps.Stage(1, 0.5, "value_norm", merge)]), []

    def look(_: nn.Module, __: Any, kwargs: dict[str, Any]) -> None:
        seen.append(kwargs["encoder_hidden_states"].shape[1])

    generate = nn.Module.__getattribute__(model, "generate")
    if name == "whisper":  # its own generate() is for 30 s of sound
        from transformers import GenerationMixin

        def generate(**k: Any) -> Any:
            return GenerationMixin.generate(model, **k)

    hook = model.base_model.decoder.register_forward_pre_hook(look, with_kwargs=True)
    with ps.apply_(model, schedule):
        together = generate(**inputs, **how)
        for b in range(2):
            one = {k: v[b : b + 1] for k, v in inputs.items()}
            if "attention_mask" in one:
                one = {k: v[:, inputs["attention_mask"][b].bool()] for k, v in one.items()}
            alone = generate(**one, **{k: v[b : b + 1] if isinstance(v, Tensor) else v for k, v in how.items()})
            assert alone[0].tolist() == together[b].tolist()
    hook.remove()
    assert max(seen) < 14, "the decoder attends to the states that are left"


def test_what_a_decoder_is_given_for_other_states_is_left_alone() -> None:
    model, inputs = build("bart"), inputs_of("bart", (14,))
    with torch.no_grad():
        states = model.model.encoder(inputs["input_ids"]).last_hidden_state
        want = model(decoder_input_ids=inputs["decoder_input_ids"], encoder_outputs=(states,)).logits
        with ps.apply_(model, MERGED):
            model(**inputs)
            got = model(decoder_input_ids=inputs["decoder_input_ids"], encoder_outputs=(states,)).logits
    assert torch.equal(got, want)


def test_the_end_of_a_text_is_found_without_a_mask() -> None:
    """CLIP is often given no mask: what follows the end of the text must not count, nor be merged into it."""
    model, inputs = build("clip-text", dtype=torch.float64), inputs_of("clip-text", (14, 9, 5), dtype=torch.float64)
    ids, schedule = inputs["input_ids"], ps.Schedule([ps.Stage(0, 0.6, "cls_attention", "fuse"), ps.Stage(2, 0.3)])
    with ps.apply_(model, schedule), torch.no_grad():
        got = model(input_ids=ids).text_embeds
        for b, length in enumerate((14, 9, 5)):
            torch.testing.assert_close(model(input_ids=ids[b : b + 1, :length]).text_embeds[0], got[b])


def test_a_weighted_head_comes_back_as_it_was() -> None:
    names = {CASES[name].family for name in READERS}
    assert {"siglip_vision_model", "t5", "whisper", "detr", "modernbert"} <= names
    for name in READERS:
        model, inputs = build(name), inputs_of(name)
        with torch.no_grad():
            before = answer(model(**inputs))
            ps.apply_(model, MERGED).remove()
            assert torch.equal(answer(model(**inputs)), before), name
