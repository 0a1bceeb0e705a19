"""Stages in the tower of a model that reads pictures in its prompt: what leaves there never enters the decoder."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import prunesearch as ps
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.flow import Tower
from prunesearch.core.plans.schedule_text import parse_schedule
from prunesearch.core.plans.stage import DECODER
from prunesearch.pruning.families.find import FAMILIES, find_reduced
from tests.contracts.test_families import state_of
from tests.contracts.test_vision_language import followed, logits_of, placed, said
from tests.support.reference_decoder import Leave
from tests.support.small_vlms import PICTURE, VLMS, build_vlm, prompts_for

CAN = ("llava", "paligemma", "llava of Qwen3")
EVERY = pytest.mark.parametrize("name", CAN)
EVERY_WAY = pytest.mark.parametrize("attention", ["sdpa", "eager"])
ONE, SEVERAL = (4, 1, 5), [(2, 1, 9), (3, 2, 2, 1, 4), (5,), (6, 1, 3)]
SCHEDULES = {
    "dropped": "tower/0:0.5 key_norm+drop",
    "fused": "tower/0:0.6 cls_attention+fuse > decoder/1:0.3 text_attention+drop",
    "matched": "tower/0:0.7 bipartite > input/0:0.4 key_norm+drop > decoder/2:0.2 key_norm+drop",
    "by place": "tower/0:0.7 position_stride+drop > input/0:0.5 position+drop > decoder/1:0.2 random+drop",
}
EVERY_SCHEDULE = pytest.mark.parametrize("text", list(SCHEDULES.values()), ids=list(SCHEDULES))


def towered(name: str, model: Any, pixels: Tensor, keep: float) -> tuple[Tensor, list[list[int]]]:
    """Features `[pictures, left, width]` where the first block keeps the patches of the largest keys, and which.

    By loops over the tower's own modules, which carry no schedule.
    """
    base, kept_of_all, features = model.model, [], []
    inner = base.vision_tower
    has_cls = name.startswith("llava")
    for picture in pixels:
        x = inner.embeddings(picture[None])
        x = inner.pre_layrnorm(x) if has_cls else x
        states = [x]
        kept: list[int] = []
        for number, layer in enumerate(inner.encoder.layers):
            normed = layer.layer_norm1(x)
            x = x + layer.self_attn(normed)[0]
            if number == 0:
                keys, first = layer.self_attn.k_proj(normed)[0], int(has_cls)
                sizes = [float(key.abs().sum()) for key in keys]
                many = math.ceil(keep * (len(sizes) - first) - 1e-9)
                ranked = sorted(range(first, len(sizes)), key=lambda i: -sizes[i])
                kept = sorted(ranked[:many])
                x = x[:, [*range(first), *kept]]
            x = x + layer.mlp(layer.layer_norm2(x))
            states.append(x)
        seen = states[-2][:, 1:] if has_cls else inner.post_layernorm(x)
        features.append(base.multi_modal_projector(seen)[0])
        kept_of_all.append([i - int(has_cls) for i in kept])
    return torch.stack(features), kept_of_all


def test_a_tower_is_reduced_or_it_is_said_why_not() -> None:
    for name, small in VLMS.items():
        row = FAMILIES[small.family]
        assert bool(row.tower_at) != bool(row.whole_tower)
        model = build_vlm(name)
        assert (find_reduced(model).tower is None) == bool(row.whole_tower)
        if row.whole_tower:
            with pytest.raises(PruneSearchError, match=r"can leave in its tower .*takes the whole grid.*at input/0"):
                ps.apply_(model, parse_schedule("tower/0:0.5 key_norm+drop"))


@EVERY
@EVERY_WAY
def test_what_keeps_all_changes_nothing(name: str, attention: str) -> None:
    model = build_vlm(name, attention)
    inputs = prompts_for(model, name, SEVERAL)
    before, answer, state = logits_of(model, inputs), said(model, inputs), state_of(model)
    # 0.999 of 16 tokens are 16 of them
    for text in ("unpruned", "tower/0:1 random+drop", "tower/0:0.9995 bipartite > decoder/1:0.999 key_norm+drop"):
        with ps.apply_(model, parse_schedule(text)):
            assert torch.equal(logits_of(model, inputs), before)
            assert torch.equal(said(model, inputs), answer)
    with ps.apply_(model, parse_schedule(SCHEDULES["dropped"])):
        assert not torch.allclose(logits_of(model, inputs)[0, -1], before[0, -1])
    assert torch.equal(logits_of(model, inputs), before)
    assert state_of(model) == state


@EVERY
@EVERY_WAY
@pytest.mark.parametrize("behind", ["", " > decoder/1:0.25 text_attention+drop"], ids=["alone", "before the decoder"])
def test_generation_equals_a_slow_one_without_a_cache(name: str, attention: str, behind: str) -> None:
    model = build_vlm(name, attention, torch.float64)
    inputs = prompts_for(model, name, [(4, 2, 5)], torch.float64)
    reference, row = followed(model, name, inputs)
    with torch.no_grad():
        features, kept = towered(name, model, inputs["pixel_values"], 0.6)
    places = (inputs["input_ids"][0] == PICTURE).nonzero()[:, 0].view(2, -1).tolist()
    row.gone[0] = set()
    for picture, stays, mine in zip(places, kept, features, strict=True):
        row.gone[0] |= {place for i, place in enumerate(picture) if i not in stays}
        for i, x in zip(stays, mine, strict=True):
            row.embeddings[picture[i]] = x
    leaves = [Leave(0, 0.6, "key_norm"), *([Leave(2, 0.25, "text_attention")] if behind else [])]
    with ps.apply_(model, parse_schedule("tower/0:0.6 key_norm+drop" + behind)):
        answer, logits = said(model, inputs)[0].tolist(), logits_of(model, inputs)[0, -1]
    torch.testing.assert_close(logits, reference.logits(row, leaves, []), rtol=1e-4, atol=1e-4)
    assert answer == reference.answer(row, leaves, len(answer))


@EVERY
@EVERY_WAY
@EVERY_SCHEDULE
def test_rows_of_a_padded_batch_are_what_they_are_alone(name: str, attention: str, text: str) -> None:
    # see test_vision_language: eager attention is softmaxed in float32
    dtype, near = (torch.float64, 1e-5) if attention == "sdpa" else (torch.float32, 1e-4)
    model = build_vlm(name, attention, dtype)
    together = prompts_for(model, name, SEVERAL, dtype)
    with ps.apply_(model, parse_schedule(text)):
        answers, logits = said(model, together), logits_of(model, together)[:, -1]
        for seed, prompt in enumerate(SEVERAL):
            alone = prompts_for(model, name, [prompt], dtype, [seed])
            torch.testing.assert_close(logits_of(model, alone)[0, -1], logits[seed], rtol=near, atol=near)
            assert said(model, alone)[0].tolist() == answers[seed].tolist()


@EVERY
def test_recomputing_without_a_cache_says_the_same(name: str) -> None:
    """Where what leaves hangs on places alone, so that no step decides otherwise; the tower always decides the same."""
    model = build_vlm(name, dtype=torch.float64)
    inputs = prompts_for(model, name, [ONE, (3, 2, 4)], torch.float64)
    for text in (SCHEDULES["by place"], SCHEDULES["dropped"]):
        with ps.apply_(model, parse_schedule(text)):
            assert said(model, inputs).tolist() == said(model, inputs, use_cache=False).tolist()


@EVERY
@pytest.mark.parametrize("prompt", [ONE, (4, 3, 5)], ids=["one picture", "three"])
def test_tokens_are_really_removed_as_the_flow_says(name: str, prompt: tuple[int, ...]) -> None:
    model = build_vlm(name)
    inputs = prompts_for(model, name, [prompt])
    found, pictures = find_reduced(model), prompt[1]
    tower = found.tower
    assert tower is not None
    patches = 16
    of_tower = Tower(tower.depth, patches + tower.protected, tower.protected, pictures, found.reach)
    text = inputs["input_ids"].shape[1] - pictures * patches
    geometry = ps.Geometry(found.depth, text + pictures * patches, text, DECODER, of_tower)
    plan = parse_schedule("tower/0:0.34 random+drop > decoder/1:0.32 key_norm+drop > decoder/2:0.1 key_norm+drop")
    flow = plan.flow(geometry)
    with ps.apply_(model, plan) as handle, torch.no_grad():
        assert handle.tower is not None
        with handle.tower.observing() as entering:
            out = model(**inputs, use_cache=True)
    assert flow.in_tower is not None
    assert [x.shape[1] for x in entering] == [step.n_in for step in flow.in_tower]
    assert [layer.keys.shape[2] for layer in out.cache.layers] == [step.n_in for step in flow]
    # of every picture a share of its own: 6 of 16 three times over, where 0.34 of 48 were 17
    assert flow.n_in == text + pictures * 6
    assert flow.counts[1] == min(flow.n_in, text + math.ceil(0.32 * 16 * pictures))


def test_a_conversation_goes_on_as_behind_a_stage_at_the_input() -> None:
    model = build_vlm("llava", dtype=torch.float64)
    inputs = prompts_for(model, "llava", [ONE], torch.float64)
    with ps.apply_(model, parse_schedule(SCHEDULES["dropped"])):
        first = model.generate(**inputs, max_new_tokens=2, do_sample=False, return_dict_in_generate=True)
        longer = torch.cat([first.sequences, torch.tensor([[7, 8]])], 1)
        with pytest.raises(PruneSearchError, match="made shorter: pass the whole conversation anew"):
            model.generate(longer, attention_mask=torch.ones_like(longer), cache=first.cache, max_new_tokens=2)


@EVERY
def test_beams_of_a_padded_batch_are_those_of_its_rows(name: str) -> None:
    model = build_vlm(name, dtype=torch.float64)
    prompts = [(2, 1, 9), (3, 2, 4)]
    with ps.apply_(model, parse_schedule(SCHEDULES["fused"])):
        together = said(model, prompts_for(model, name, prompts, torch.float64), num_beams=3)
        for seed, prompt in enumerate(prompts):
            alone = prompts_for(model, name, [prompt], torch.float64, [seed])
            assert said(model, alone, num_beams=3)[0].tolist() == together[seed].tolist()


def test_features_made_under_the_schedule_may_be_given_and_others_are_refused() -> None:
    model = build_vlm("llava", dtype=torch.float64)
    inputs = prompts_for(model, "llava", [ONE, (3, 2, 4)], torch.float64)
    rest = {name: value for name, value in placed(model, inputs).items() if name != "pixel_values"}
    whole = model.get_image_features(inputs["pixel_values"])
    with ps.apply_(model, parse_schedule(SCHEDULES["fused"])), torch.no_grad():
        mine = model.get_image_features(inputs["pixel_values"])
        assert [len(x) for x in mine.pooler_output] == [16] * 3
        assert [int((x.abs().sum(1) > 0).sum()) for x in mine.pooler_output] == [10] * 3
        assert torch.equal(model(**rest, mm_encoder_outputs={"image": mine}).logits, logits_of(model, inputs))
        with pytest.raises(PruneSearchError, match="leave the prompt with them: pass `pixel_values`"):
            model(**rest, mm_encoder_outputs={"image": whole})
        with pytest.raises(PruneSearchError, match="the config's own vision_feature_layer"):
            model(**inputs, vision_feature_layer=-1)
        last = {**inputs, "input_ids": torch.cat([inputs["input_ids"], inputs["input_ids"][:, :1] * 0 + PICTURE], 1)}
        last["attention_mask"] = torch.ones_like(last["input_ids"])
        with pytest.raises((PruneSearchError, ValueError), match=r"let text follow|do not match"):
            model(**last)


def test_what_the_tower_saw_is_told_of_those_that_are_left() -> None:
    model = build_vlm("llava", dtype=torch.float64)
    inputs = prompts_for(model, "llava", SEVERAL, torch.float64)
    plan = parse_schedule("tower/0:0.6 key_norm+drop > input/0:0.3 tower_cls_attention+drop")
    with ps.apply_(model, plan):
        together = logits_of(model, inputs)[:, -1]
        for seed, prompt in enumerate(SEVERAL):
            alone = logits_of(model, prompts_for(model, "llava", [prompt], torch.float64, [seed]))[0, -1]
            torch.testing.assert_close(alone, together[seed], rtol=1e-5, atol=1e-5)


def test_copies_carry_the_schedule_of_their_tower() -> None:
    model = build_vlm("llava", dtype=torch.float64)
    inputs = prompts_for(model, "llava", [ONE], torch.float64)
    before = logits_of(model, inputs)
    with ps.apply_(model, parse_schedule(SCHEDULES["dropped"])):
        pruned, twin = logits_of(model, inputs), copy.deepcopy(model)
    assert torch.equal(logits_of(twin, inputs), pruned)
    handle = ps.handle_of(twin)
    assert handle is not None
    assert handle.tower is not None
    handle.remove()
    assert torch.equal(logits_of(twin, inputs), before)
