"""Which tokens of a video show one place of the picture, frame after frame, told to the stages of a decoder."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from prunesearch.core.errors import PruneSearchError
from prunesearch.pruning.forward.state import Host

FRAMES = "frames of videos"  # the note of a forward: what `Frames` found
_ON_FEATURES = "_prunesearch_frames"
NOWHERE = -1  # of tokens that are of no frame

# given the arguments of a forward and the config: of each video its frames, and the tokens of one; None: no videos
Frames = Callable[[Mapping[str, Any], Any], "list[tuple[int, int]] | None"]


def by_grid(given: Mapping[str, Any], config: Any) -> list[tuple[int, int]] | None:
    """Qwen-VL: `video_grid_thw` `[videos, 3]` counts patches, of which a square becomes one token."""
    grid = given.get("video_grid_thw")
    side = int(config.vision_config.spatial_merge_size)
    return None if grid is None else [(t, h * w // side**2) for t, h, w in grid.tolist()]


def by_stack(given: Mapping[str, Any], config: Any) -> list[tuple[int, int]] | None:
    """LLaVA-OneVision: `pixel_values_videos` `[videos, frames, ...]`, whose patches are pooled two by two."""
    pixels = given.get("pixel_values_videos")
    if pixels is None:
        return None
    vision = config.vision_config
    side = math.ceil(vision.image_size // vision.patch_size / 2)
    return [(int(pixels.shape[1]), side**2)] * len(pixels)


class Videos:
    """Stands in for `get_video_features`: what it makes of videos carries their frames, wherever it goes.

    `generate()` encodes videos first, and gives the model nothing else of them.
    """

    def __init__(self, host: Host, original: Any, frames: Frames) -> None:
        self.host, self.original, self.frames = host, original, frames

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.original)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the original gives, its frames noted on it where a stage asks."""
        output = self.original(*args, **kwargs)
        if self.host.asks_frames and not isinstance(output, tuple):
            given = inspect.signature(self.original).bind(*args, **kwargs).arguments
            base: Any = self.host.base
            setattr(output, _ON_FEATURES, self.frames(given, base.config))
        return output


def frames_of(given: Mapping[str, Any], frames: Frames, config: Any) -> list[tuple[int, int]] | None:
    """`frames` of the arguments of a forward, or what encoded videos among them carry."""
    encoded = (given.get("mm_encoder_outputs") or {}).get("video")
    return frames(given, config) if encoded is None else getattr(encoded, _ON_FEATURES, None)


def patch_numbers(videos: list[tuple[int, int]] | None, of_videos: Tensor) -> Tensor:
    """`[batch, n]` a number of each place of a video, the same in all its frames; `NOWHERE` elsewhere.

    Args:
        videos: of each, in the order of the rows, its frames and the tokens of one.
        of_videos: bool `[batch, n]`, the tokens that stand for videos. One behind all frames of each is of none
            (LLaVA-OneVision's end of a line).

    Raises:
        PruneSearchError: if there are no videos, or other tokens than they have.
    """
    if not videos:
        raise PruneSearchError(
            "selection 'frame_change' compares the frames of a video, but this prompt has none: use diversity, or pass "
            "the video with `pixel_values_videos`"
        )
    total, ends = int(of_videos.sum()), (0, 1)
    frames = sum(count * size for count, size in videos)
    end = next((each for each in ends if frames + each * len(videos) == total), None)
    if end is None:
        raise PruneSearchError(
            f"selection 'frame_change' needs every token of a video to be of a frame, but {total} tokens stand for "
            f"{len(videos)} videos of {frames} tokens in all"
        )
    flat, first = [], 0
    for count, size in videos:
        flat += [torch.arange(first, first + size).repeat(count), torch.full((end,), NOWHERE)]
        first += size
    numbers = torch.cat(flat).to(of_videos.device)
    return torch.full_like(of_videos, NOWHERE, dtype=torch.long).masked_scatter(of_videos, numbers)
