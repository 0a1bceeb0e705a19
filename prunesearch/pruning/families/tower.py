"""What a tower looks at and leaves of pictures, how its videos are made, and what it adds: told to a decoder."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.amount import kept_count
from prunesearch.pruning.attention import AttentionView
from prunesearch.pruning.forward.state import Host, ThreadState
from prunesearch.pruning.forward.tokens import Tokens
from prunesearch.pruning.hooks import Hooks
from prunesearch.pruning.scorers.by_attention import attention_slabs

if TYPE_CHECKING:
    from prunesearch.pruning.families.family import Attachment

_ADDS = "_deepstack_process"  # method of decoders that add features of the tower between blocks
TOLD, _SEEN, _ON_FEATURES = "what a tower told", "what a tower saw", "_prunesearch_tower"
FRAMES, _OF_FRAMES = "frames of videos", "_prunesearch_frames"  # the note of a forward, and what encoded ones carry
NOWHERE = -1  # of tokens that are of no frame

# given the arguments of a forward and the config: of each video its frames, and the tokens of one; None: no videos
Frames = Callable[[Mapping[str, Any], Any], "list[tuple[int, int]] | None"]
LEFT, _WITHIN = "what a tower left", "what a tower is doing"
_LAYER = "vision_feature_layer"
# towers whose patches are the tokens of a picture, one by one: where their blocks are, and whether they have a CLS
TOWERS = {"clip_vision_model": ("encoder.layers", True), "siglip_vision_model": ("encoder.layers", False)}


def tower(path: str) -> Attachment:
    """Let stages know what the block of a tower that makes the features attends to, and which tokens it left.

    Args:
        path: of the tower, from the base model.
    """
    return partial(_attach_tower, path=path)


def _attach_tower(host: Host, model: nn.Module, hooks: Hooks, *, path: str) -> None:
    base: Any = host.base
    hooks.put(base, "get_image_features", _Features(host, base.get_image_features))
    found, which = base.get_submodule(path), getattr(base.config, "vision_feature_layer", None)
    known = TOWERS.get(found.config.model_type)
    if known is None or not isinstance(which, int) or which >= 0:
        return
    blocks: Any = found.get_submodule(known[0])
    looks = _Tower(host, known[1])
    hooks.before(blocks[which].self_attn, looks.see, with_kwargs=True)


@dataclass
class _Tower:
    """The hook of `tower` on the attention of a block: `has_cls` says whether its first token is one."""

    host: Host
    has_cls: bool

    def see(self, core: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        notes = self.host.state.notes
        if _SEEN in notes:
            x = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            within = notes.get(_WITHIN)
            seen = _in_their_places(self._attention(core, x)[..., None], None if within is None else within.tokens)
            notes[_SEEN] = seen[:, 1:, 0] if self.has_cls else seen[..., 0]

    @torch.no_grad()
    def _attention(self, core: Any, x: Tensor) -> Tensor:
        """`[pictures, tokens]`, of CLS or, without one, the mean of all; projected once more, for this block alone."""
        asking = x[:, :1] if self.has_cls else x
        heads = core.num_heads
        query, key = (
            made.view(*made.shape[:2], heads, -1).transpose(1, 2) for made in (core.q_proj(asking), core.k_proj(x))
        )
        view = AttentionView(query, key, key, None, core.scale, None)
        slabs = [weights.mean(1).sum(1) for _, weights in attention_slabs(view)]
        total: Tensor = torch.stack(slabs).sum(0) / int(query.shape[2])
        return total


class _Features:
    """Stands in for `get_image_features`: each picture's features carry what the tower saw, wherever they go.

    Where tokens left in the tower, features are zeros in their places.
    """

    def __init__(self, host: Host, original: Any) -> None:
        self.host, self.original = host, original

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.original)  # generate() reads it

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        notes, asks = self.host.state.notes, self.host.asks_tower
        if asks:
            notes[_SEEN] = None
        try:
            with self.host.in_tower() as within:
                notes[_WITHIN] = within
                output = self.original(*args, **kwargs)
                left = self._put_back(output, within, kwargs) if within is not None else None
        finally:
            notes.pop(_WITHIN, None)
            seen = notes.pop(_SEEN, None)
        if left is not None and LEFT in notes:  # within the model's own forward
            notes[LEFT] = left
        pictures = getattr(output, "pooler_output", None)
        if seen is None or not isinstance(pictures, list) or len(pictures) != len(seen):
            return output
        for features, row in zip(pictures, seen, strict=True):
            setattr(features, _ON_FEATURES, row)
        if TOLD in notes:
            notes[TOLD] = list(seen)
        return output

    def _put_back(self, output: Any, within: ThreadState, kwargs: dict[str, Any]) -> Tensor | None:
        """Put features `[pictures, left, width]` in their places among zeros.

        Returns which are there, bool `[pictures, all]`; None where none can leave in the tower.
        """
        if self.host.left_by_tower == 1:
            return None
        pictures, asked = getattr(output, "pooler_output", None), kwargs.get(_LAYER)
        if pictures is None or asked not in (None, getattr(self.host.base.config, _LAYER, None)):
            raise PruneSearchError(
                "pictures whose tokens leave in the tower are made with return_dict=True and the config's own "
                f"{_LAYER}: leave both out of the call"
            )
        tokens, found = within.tokens, torch.stack(pictures) if isinstance(pictures, list) else pictures
        leading = 0 if tokens is None else tokens.leading
        # what the projector was not given has a place as well
        every = torch.cat([found[:, :leading], found], 1)
        here = torch.ones_like(every[..., :1], dtype=torch.bool)
        full, shown = (_in_their_places(x, tokens)[:, leading:] for x in (every, here))
        shown = shown[..., 0]
        output.pooler_output = list(full) if isinstance(pictures, list) else full
        return shown


def _in_their_places(x: Tensor, tokens: Tokens | None) -> Tensor:
    """What is said `[b, n, width]` of the tokens that a tower still has, among zeros for those that left."""
    if tokens is None or tokens.place is None:
        return x
    full = x.new_zeros(x.shape[0], tokens.n_start, x.shape[2])
    return full.scatter(1, tokens.place[..., None].expand_as(x), x)


def deepstack(decoder: str) -> Attachment:
    """Let features that a tower adds to the tokens of pictures between blocks reach those that are left (DeepStack).

    A merged token gets those of the token whose place it has.

    Args:
        decoder: path of the decoder from the base model.
    """
    return partial(_attach_deepstack, decoder=decoder)


def _attach_deepstack(host: Host, model: nn.Module, hooks: Hooks, *, decoder: str) -> None:
    runs: Any = host.base.get_submodule(decoder)
    hooks.put(runs, _ADDS, _Deepstack(host, getattr(runs, _ADDS)))


class _Deepstack:
    """Stands in for what adds the features: `[pictures' tokens, width]`, one behind another over all rows."""

    def __init__(self, host: Host, original: Any) -> None:
        self.host, self.original = host, original

    def __call__(self, hidden_states: Tensor, visual_pos_masks: Tensor, visual_embeds: Tensor) -> Tensor:
        forward = self.host.state.forward
        tokens = None if forward is None else forward.tokens
        if tokens is None or tokens.place is None:
            added: Tensor = self.original(hidden_states, visual_pos_masks, visual_embeds)
            return added
        shown = visual_pos_masks.to(hidden_states.device)
        nth = (shown.flatten().cumsum(0) - 1).clamp(min=0).view_as(shown).gather(1, tokens.place)
        here = shown.gather(1, tokens.place)
        here = here if tokens.real is None else here & tokens.real
        features = visual_embeds.to(hidden_states.device, hidden_states.dtype)[nth]
        return hidden_states + features * here[..., None]


def rows_told(given: Any) -> list[Tensor] | None:
    """What the features of some pictures carry (`mm_encoder_outputs`); None where one of them carries nothing."""
    pictures = getattr(given.get("image"), "pooler_output", None) if isinstance(given, dict) else None
    rows = [getattr(features, _ON_FEATURES, None) for features in pictures or ()]
    known = [row for row in rows if isinstance(row, Tensor)]
    return known if known and len(known) == len(rows) else None


def rows_left(given: Any) -> Tensor | None:
    """Which tokens the features of some pictures (`mm_encoder_outputs`) still have, bool `[pictures, all]`.

    Those that left in the tower are zeros, in which form `generate` takes features through beams. None without any.
    """
    pictures = getattr(given.get("image"), "pooler_output", None) if isinstance(given, dict) else None
    if isinstance(pictures, Tensor):
        return pictures.any(-1)
    rows = [features.any(-1) for features in pictures or ()]
    return torch.stack(rows) if len({len(row) for row in rows}) == 1 else None


def gone_tokens(left: Tensor | None, keep: float, of_pictures: Tensor, reducible: Tensor) -> Tensor | None:
    """`[batch, n]` the tokens of prompts that left in the tower; None where pictures have too few for one to leave.

    Args:
        left: of each picture, in order, which are left.
        keep: the fraction that leaves the tower.
        of_pictures, reducible: bool `[batch, n]`.

    Raises:
        PruneSearchError: if these are not of every picture, or as many as the schedule leaves; or if a prompt ends with
            one that left.
    """
    as_said = left is not None and bool((left.sum(1) == kept_count(keep, left.shape[1])).all())
    if left is None or not as_said or left.numel() != int(of_pictures.sum()):
        raise PruneSearchError(
            "tokens that leave in the tower leave the prompt with them: pass `pixel_values`, or features that "
            "get_image_features() made under this schedule"
        )
    if kept_count(keep, left.shape[1]) == left.shape[1]:
        return None
    gone = torch.zeros_like(of_pictures).masked_scatter(of_pictures, ~left.to(of_pictures.device).flatten())
    if bool((gone & ~reducible).any()):
        raise PruneSearchError(
            "the last token of a prompt stays, but the tower left it out of a picture: let text follow the picture, or "
            "use stages behind the tower"
        )
    return gone


def told_tokens(rows: list[Tensor] | None, of_pictures: Tensor) -> Tensor:
    """`[batch, n]`: what the tower saw at each token of a picture, in order; 0 elsewhere.

    Raises:
        PruneSearchError: if that is not known of every one.
    """
    flat = None if rows is None else torch.cat(rows)
    if flat is None or len(flat) != int(of_pictures.sum()):
        raise PruneSearchError(
            "scorer 'tower_cls_attention' needs what the tower saw of every token of a picture: pass `pixel_values`, "
            "or features that get_image_features() made under this schedule"
        )
    return flat.new_zeros(of_pictures.shape).masked_scatter(of_pictures, flat.to(of_pictures.device))


# -- frames of videos ------------------------------------------------------------------------------------------------


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
            setattr(output, _OF_FRAMES, self.frames(given, base.config))
        return output


def frames_of(given: Mapping[str, Any], frames: Frames, config: Any) -> list[tuple[int, int]] | None:
    """`frames` of the arguments of a forward, or what encoded videos among them carry."""
    encoded = (given.get("mm_encoder_outputs") or {}).get("video")
    return frames(given, config) if encoded is None else getattr(encoded, _OF_FRAMES, None)


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
    total, frames = int(of_videos.sum()), sum(count * size for count, size in videos)
    # beams repeat the rows, each with its one video
    times = (1, max(1, len(of_videos) // len(videos)))
    found = next(((k, end) for k in times for end in (0, 1) if k * (frames + end * len(videos)) == total), None)
    if found is None:
        raise PruneSearchError(
            f"selection 'frame_change' needs every token of a video to be of a frame, but {total} tokens stand for "
            f"{len(videos)} videos of {frames} tokens in all"
        )
    (beams, end), flat, first = found, list[Tensor](), 0
    for count, size in (video for video in videos for _ in range(beams)):
        flat += [torch.arange(first, first + size).repeat(count), torch.full((end,), NOWHERE)]
        first += size
    numbers = torch.cat(flat).to(of_videos.device)
    return torch.full_like(of_videos, NOWHERE, dtype=torch.long).masked_scatter(of_videos, numbers)
