"""What changes from frame to frame of a video stays (EVS): against loops over frames and patches."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import prunesearch as ps
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule_text import parse_schedule
from prunesearch.pruning.attention import AttentionView
from prunesearch.pruning.forward.mixed import MixedTokens
from prunesearch.pruning.selections.base import SelectionInput
from prunesearch.pruning.selections.frame_change import frame_change
from tests.contracts.test_vision_language import said
from tests.support import reference as ref
from tests.support.small_clips import READ_VIDEOS, STACKED, clip_of, features_of, prompts_of_clips
from tests.support.small_models import build
from tests.support.small_vlms import VIDEO, build_vlm, prompts_for

SCHEDULE = "input/0:{} random+drop@frame_change"
EVERY = pytest.mark.parametrize("name", READ_VIDEOS)


def evs(features: Tensor, steps: int, ends: int, count: int) -> set[int]:
    """What stays of a video's tokens: the first of `steps` whole, then what is least like the same patch before."""
    size = (len(features) - ends) // steps
    change = {size * steps + i: math.inf for i in range(ends)}
    for step in range(steps):
        for patch in range(size):
            now, before = (features[s * size + patch].double().numpy() for s in (step, step - 1))
            change[step * size + patch] = 1 - ref.cosine(now, before) if step else math.inf
    return set(sorted(change, key=lambda i: (-change[i], i))[:count])


@EVERY
@pytest.mark.parametrize("keep", [0.25, 0.5, 0.85])
def test_what_changes_stays(name: str, keep: float) -> None:
    model = build_vlm(name, dtype=torch.float64)
    inputs = prompts_of_clips(model, name, [(3, 6, 5)])
    features = features_of(model, name, clip_of(name, 6, 0))
    where = (inputs["input_ids"][0] == VIDEO).nonzero()[:, 0].tolist()
    steps, ends = (6, 1) if name == STACKED else (3, 0)
    wanted = evs(features, steps, ends, math.ceil(len(where) * keep - 1e-9))
    with ps.apply_(model, parse_schedule(SCHEDULE.format(keep))) as handle, torch.no_grad():
        model(**inputs)
        tokens: Any = handle.tokens
    kept = set(tokens.place[0].tolist())
    assert {i for i, place in enumerate(where) if place in kept} == wanted
    assert kept.issuperset(set(range(inputs["input_ids"].shape[1])) - set(where))


@EVERY
def test_rows_of_a_padded_batch_are_what_they_are_alone(name: str) -> None:
    model = build_vlm(name, dtype=torch.float64)
    prompts = [(3, 4, 5), (2, 4 if name == STACKED else 6, 9)]
    together = prompts_of_clips(model, name, prompts)
    with ps.apply_(model, parse_schedule(SCHEDULE.format(0.4) + " > decoder/2:0.2 random+drop@frame_change")):
        answers = said(model, together)
        for number, prompt in enumerate(prompts):
            alone = prompts_of_clips(model, name, [prompt], first=number)
            assert said(model, alone)[0].tolist() == answers[number].tolist()


@EVERY
def test_decoding_goes_on_as_without_a_cache(name: str) -> None:
    model = build_vlm(name, dtype=torch.float64)
    inputs = prompts_of_clips(model, name, [(3, 4, 5)])
    with ps.apply_(model, parse_schedule(SCHEDULE.format(0.4))):
        assert said(model, inputs).tolist() == said(model, inputs, use_cache=False).tolist()


@EVERY
def test_beams_of_a_padded_batch_are_those_of_its_rows(name: str) -> None:
    model = build_vlm(name, dtype=torch.float64)
    prompts = [(3, 4, 5), (2, 4 if name == STACKED else 6, 9)]
    with ps.apply_(model, parse_schedule(SCHEDULE.format(0.4))):
        together = said(model, prompts_of_clips(model, name, prompts), num_beams=3)
        for number, prompt in enumerate(prompts):
            alone = prompts_of_clips(model, name, [prompt], first=number)
            assert said(model, alone, num_beams=3)[0].tolist() == together[number].tolist()


def test_behind_a_stage_it_is_the_last_frame_that_is_there() -> None:
    """Of what an earlier stage left, here any places in any order, each is compared with the last one of its own."""
    draw, n, texts = torch.Generator().manual_seed(0), 30, 8
    for _ in range(20):
        patch = torch.randint(-1, 5, (2, n), generator=draw)
        patch[:, -texts:] = -1
        keys = torch.randn(2, 2, n, 8, generator=draw).double()
        may_leave = torch.arange(n).expand(2, n) < n - texts
        tokens = replace(MixedTokens.given(may_leave, torch.ones(2, n, dtype=torch.bool)), patch_of_all=patch)
        view = AttentionView(keys, keys, keys, None, 1.0, None)
        kept = frame_change(SelectionInput(tokens, view, torch.zeros(2, n), 0.5, tokens.width_after(0.5), {})).kept
        for row in range(2):
            mean, change = keys[row].mean(0).numpy(), {}
            for i in range(n - texts):
                before = [j for j in range(i) if patch[row, j] == patch[row, i] >= 0]
                change[i] = 1 - ref.cosine(mean[i], mean[before[-1]]) if before else math.inf
            best = sorted(change, key=lambda i: (-change[i], i))[: (n - texts) // 2]
            assert kept[row].tolist() == sorted(best) + list(range(n - texts, n))


@pytest.mark.parametrize(
    ("name", "why"), [("llava", "'llava' is not known to read: use diversity"), ("qwen2_vl", "this prompt has none")]
)
def test_pictures_have_no_frames(name: str, why: str) -> None:
    model = build_vlm(name)
    inputs = prompts_for(model, name, [(3, 1, 5)])
    with pytest.raises(PruneSearchError, match=why), ps.apply_(model, parse_schedule(SCHEDULE.format(0.4))):
        model(**inputs)


def test_an_encoder_has_no_videos_in_its_prompt() -> None:
    with pytest.raises(PruneSearchError, match="compares the frames of a video"):
        ps.apply_(build("bert"), parse_schedule("1:0.5 value_norm+drop@frame_change"))
