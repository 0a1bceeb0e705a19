"""Prompts with a video each, for those of the small models that read videos."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.support.small_vlms import PAD, START, VIDEO, VLMS

READ_VIDEOS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava_onevision")
STACKED = "llava_onevision"
SIDES = {STACKED: (16, 16)}  # of a frame; the others have that of their pictures


def clip_of(name: str, frames: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """`[frames, 3, height, width]`: noise, a part of which changes from frame to frame, each by its own measure."""
    draw = torch.Generator().manual_seed(seed)
    h, w = SIDES.get(name, VLMS[name].size)
    still = torch.randn(1, 3, h, w, generator=draw)
    moves = torch.rand(frames, 1, h // 4, w // 4, generator=draw).repeat_interleave(4, 2).repeat_interleave(4, 3)
    return (still + moves * torch.randn(frames, 3, h, w, generator=draw)).to(dtype)


def given_clips(name: str, clips: list[Tensor]) -> dict[str, Tensor]:
    """Arguments by which a model takes videos."""
    if name == STACKED:
        return {"pixel_values_videos": torch.stack(clips)}
    flat, grids = [], []
    for clip in clips:
        t, h, w = clip.shape[0] // 2, clip.shape[2] // 4, clip.shape[3] // 4
        x = clip.reshape(t, 2, 3, h // 2, 2, 4, w // 2, 2, 4).permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
        flat.append(x.reshape(t * h * w, -1))
        grids.append([t, h, w])
    return {"pixel_values_videos": torch.cat(flat), "video_grid_thw": torch.tensor(grids)}


def features_of(model: Any, name: str, clip: Tensor) -> Tensor:
    """`[tokens, width]` of one video, as its decoder is given them."""
    with torch.no_grad():
        found = model.model.get_video_features(**given_clips(name, [clip])).pooler_output
    return found[0]


def prompts_of_clips(
    model: Any, name: str, rows: list[tuple[int, int, int]], dtype: torch.dtype = torch.float64, first: int = 0
) -> dict[str, Tensor]:
    """Prompts padded on the left: tokens of text, frames of a video, tokens of text; rows are numbered from `first`."""
    ids, clips = [], []
    for seed, (before, frames, after) in enumerate(rows, first):
        draw = torch.Generator().manual_seed(100 + seed)
        clip = clip_of(name, frames, seed, dtype)
        texts = [torch.randint(3, 90, (n,), generator=draw).tolist() for n in (before, after)]
        ids.append([*texts[0], *_tokens(name, frames, len(features_of(model, name, clip))), *texts[1]])
        clips.append(clip)
    longest = max(map(len, ids))
    padded = torch.tensor([[PAD] * (longest - len(row)) + row for row in ids])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids])
    found = {"input_ids": padded, "attention_mask": mask, **given_clips(name, clips)}
    if VLMS[name].mrope:
        found["mm_token_type_ids"] = 2 * (padded == VIDEO).int()
    return found


def _tokens(name: str, frames: int, tokens: int) -> list[int]:
    """What stands for a video in a prompt: of Qwen3-VL each pair of frames has a beginning of its own."""
    if name != "qwen3_vl":
        return [START, *[VIDEO] * tokens]
    return [START, *[VIDEO] * (tokens // (frames // 2))] * (frames // 2)
