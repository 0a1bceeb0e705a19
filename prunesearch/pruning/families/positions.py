"""Position data that follow the tokens: relative biases, rotary angles, windows and spatial embeddings.

A model works them out for all the tokens it starts with and hands them to every block. Behind a stage each block is
given the part that belongs to the tokens left: a token stands at the place of the input that it continues, a merged one
at that of the token it was merged into.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from prunesearch.pruning.attention import causal_mask
from prunesearch.pruning.forward.state import Followed
from prunesearch.pruning.forward.tokens import take_rows


class Positions(Protocol):
    """How one family's position data follow its tokens."""

    @property
    def in_mask(self) -> bool:
        """Whether they go through the mask, which flash kernels do not take."""

    def prepare(self, blocks: list[nn.Module], x: Tensor, kwargs: dict[str, Any]) -> None:
        """Put into `kwargs` what the model expects the first block, which may be skipped, to work out."""

    def padding(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        """The mask in a form that `Tokens.start` reads, or None without padding; `mask` is a block's, of all tokens."""

    def follow(
        self, block: nn.Module, left: Followed, key_mask: Tensor | None, mask: Tensor | None, kwargs: dict[str, Any]
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """The mask and keyword arguments of `block` for the tokens left.

        Args:
            block: the module.
            left: where the tokens are.
            key_mask: padding and `log(size)` of the tokens left, `[batch, 1, 1, n]` or None.
            mask: of all tokens, as the model made it.
            kwargs: of all tokens, as the model made them.
        """


def take_pairs(x: Tensor, place: Tensor) -> Tensor:
    """Rows and columns of the tokens left: `out[b, h, i, j] = x[b, h, place[b, i], place[b, j]]`.

    Args:
        x: `[batch | 1, heads, n_start, n_start]`.
        place: `[batch, n]`.
    """
    rows, columns = place[:, :, None], place[:, None, :]
    if x.shape[0] == 1:
        return x[0][:, rows, columns].transpose(0, 1).contiguous()
    batch = torch.arange(len(place), device=place.device)[:, None, None]
    return x[batch, :, rows, columns].permute(0, 3, 1, 2).contiguous()


def join_masks(keys: Tensor | None, pairs: Tensor | None) -> Tensor | None:
    """Both masks in one: boolean if both are, else additive."""
    if keys is None or pairs is None:
        return pairs if keys is None else keys
    if keys.dtype == pairs.dtype == torch.bool:
        return keys & pairs
    dtype = pairs.dtype if pairs.is_floating_point() else keys.dtype
    lowest = torch.finfo(dtype).min
    # a sum of two lowest numbers would be -inf, and a row of nothing else NaN
    return (_additive(keys, dtype) + _additive(pairs, dtype)).clamp(min=lowest)


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.is_floating_point():
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)


@dataclass(frozen=True)
class _Plain:
    """Nothing to prepare; padding is read from a mask that is the same for all queries."""

    @property
    def in_mask(self) -> bool:
        """See `Positions`."""
        return False

    def prepare(self, blocks: list[nn.Module], x: Tensor, kwargs: dict[str, Any]) -> None:
        """See `Positions`."""

    def padding(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        """See `Positions`."""
        return mask


def diagonal(mask: Tensor | None) -> Tensor | None:
    """`[batch | 1, n]` what each token may do with itself: its validity, in a mask that differs from query to query."""
    if mask is None or mask.dim() == 2:
        return mask
    return mask[:, 0].diagonal(dim1=-2, dim2=-1)


@dataclass(frozen=True)
class _InMask(_Plain):
    """Places are in the mask too, whose diagonal says what is padding."""

    @property
    def in_mask(self) -> bool:
        """See `Positions`."""
        return True

    def padding(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        """See `Positions`."""
        return diagonal(mask)


@dataclass(frozen=True)
class Places(_Plain):
    """Blocks are given no position data, but something around them needs the tokens' places."""

    def follow(
        self, block: nn.Module, left: Followed, key_mask: Tensor | None, mask: Tensor | None, kwargs: dict[str, Any]
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """See `Positions`."""
        return key_mask, kwargs


@dataclass(frozen=True)
class Rows(_Plain):
    """A `[batch, n_start, ...]` argument goes with its tokens (DETR's spatial embeddings)."""

    name: str

    def follow(
        self, block: nn.Module, left: Followed, key_mask: Tensor | None, mask: Tensor | None, kwargs: dict[str, Any]
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """See `Positions`."""
        if kwargs.get(self.name) is None:
            return key_mask, kwargs
        return key_mask, {**kwargs, self.name: left.once(kwargs[self.name], take_rows)}


@dataclass(frozen=True)
class RotaryWindows(_InMask):
    """Cosines and sines `[1 | batch, n_start, width]`, and in some blocks a window between places (ModernBERT)."""

    def follow(
        self, block: nn.Module, left: Followed, key_mask: Tensor | None, mask: Tensor | None, kwargs: dict[str, Any]
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """See `Positions`."""
        angles = tuple(left.once(x, _rows_of_all) for x in kwargs["position_embeddings"])
        if mask is not None and block.attention_type == "sliding_attention":
            key_mask = join_masks(key_mask, left.once(mask, take_pairs))
        return key_mask, {**kwargs, "position_embeddings": angles}


def _rows_of_all(x: Tensor, place: Tensor) -> Tensor:
    return x[0][place] if x.shape[0] == 1 else take_rows(x, place)


@dataclass(frozen=True)
class RotaryPatches(_Plain):
    """Cosines and sines `[patches, width]` of all but the protected tokens at the start (DINOv3)."""

    def follow(
        self, block: nn.Module, left: Followed, key_mask: Tensor | None, mask: Tensor | None, kwargs: dict[str, Any]
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """See `Positions`."""
        leading = left.tokens.n_start - kwargs["position_embeddings"][0].shape[-2]

        def patches(x: Tensor, place: Tensor) -> Tensor:
            return x[place[:, leading:] - leading][:, None]

        angles = tuple(left.once(x, patches) for x in kwargs["position_embeddings"])
        return key_mask, {**kwargs, "position_embeddings": angles}


@dataclass(frozen=True)
class RotaryPrefixed(_Plain):
    """One table of angles of all but the protected tokens at the start (timm's Eva).

    Args:
        name: of the argument, `[patches, width]` or of each head `[heads, patches, width]`.
    """

    name: str

    def follow(
        self, block: nn.Module, left: Followed, key_mask: Tensor | None, mask: Tensor | None, kwargs: dict[str, Any]
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """See `Positions`."""
        given = kwargs[self.name]
        leading = left.tokens.n_start - given.shape[-2]

        def patches(x: Tensor, place: Tensor) -> Tensor:
            heads = x if x.dim() == 3 else x[None]
            return heads[:, place[:, leading:] - leading].transpose(0, 1)

        return key_mask, {**kwargs, self.name: left.once(given, patches)}


@dataclass(frozen=True)
class SharedBias(_Plain):
    """A relative bias `[.., heads, n_start, n_start]`, the same for every row, that blocks hand on to each other.

    Args:
        make: given the blocks and the hidden states, the bias as the first block would work it out; None if the model
            does that before its blocks.
    """

    by_head: ClassVar[str] = "a bias between places is made for each of them"
    make: Callable[[list[nn.Module], Tensor], Tensor] | None = None

    @property
    def in_mask(self) -> bool:
        """See `Positions`."""
        return True

    def prepare(self, blocks: list[nn.Module], x: Tensor, kwargs: dict[str, Any]) -> None:
        """See `Positions`."""
        if self.make is not None and kwargs.get("position_bias") is None:
            kwargs["position_bias"] = self.make(blocks, x)

    def follow(
        self, block: nn.Module, left: Followed, key_mask: Tensor | None, mask: Tensor | None, kwargs: dict[str, Any]
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """See `Positions`."""
        bias = left.once(kwargs["position_bias"], lambda x, place: take_pairs(x[:1], place))
        return key_mask, {**kwargs, "position_bias": bias}


@dataclass(frozen=True)
class FlatBias(SharedBias):
    """A `SharedBias` in the form `[batch x heads, n_start, n_start]`, beside a mask `[batch, n]` (WavLM)."""

    def follow(
        self, block: nn.Module, left: Followed, key_mask: Tensor | None, mask: Tensor | None, kwargs: dict[str, Any]
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """See `Positions`; `log(size)` is added by the attention itself."""

        def pairs(x: Tensor, place: Tensor) -> Tensor:
            return take_pairs(x[None, : len(x) // len(place)], place).flatten(0, 1)

        bias = left.once(kwargs["position_bias"], pairs)
        return left.tokens.valid, {**kwargs, "position_bias": bias}


@dataclass(frozen=True)
class DistanceBuckets(_Plain):
    """Bucketed distances `[1, n_start, n_start]` that blocks look embeddings up with (DeBERTa)."""

    @property
    def in_mask(self) -> bool:
        """See `Positions`."""
        return True

    def padding(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        """See `Positions`."""
        valid = diagonal(mask)
        return None if valid is None else valid.bool()  # ones and zeros, of whatever dtype the tokenizer's mask has

    def follow(
        self, block: nn.Module, left: Followed, key_mask: Tensor | None, mask: Tensor | None, kwargs: dict[str, Any]
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """See `Positions`; `log(size)` is added by the attention itself."""
        heads = int(block.attention.self.num_attention_heads)  # type: ignore[union-attr, arg-type]

        def buckets(x: Tensor, place: Tensor) -> Tensor:
            # `[1, batch x heads, n, n]` is the one form in which the model's own code takes distances row by row
            taken = take_pairs(x[:, None], place).expand(-1, heads, -1, -1)
            return taken.reshape(1, -1, *taken.shape[2:])

        distances, valid = left.once(kwargs["relative_pos"], buckets), left.tokens.valid
        if valid is None:
            valid = torch.ones_like(left.place, dtype=torch.bool)
        return valid[:, None, None, :], {**kwargs, "relative_pos": distances}


def grid_bias(block: nn.Module, n_start: int, kwargs: dict[str, Any]) -> Tensor | None:
    """The bias `[1, heads, n_start, n_start]` between places that one of BEiT's blocks has, or None."""
    table: Any = block.relative_position_bias
    if table is None:
        return None
    height, width = kwargs["resolution"]
    patch: Any = block.patch_size
    window = (height // patch, width // patch)
    bias: Tensor = table(window, kwargs.get("interpolate_pos_encoding", False), dim_size=n_start)
    return bias


@dataclass(frozen=True)
class GridBias(_Plain):
    """A bias of each block between the places of a grid, and perhaps one for all blocks inside the mask (BEiT)."""

    by_head: ClassVar[str] = "a bias between places is made for each of them"

    @property
    def in_mask(self) -> bool:
        """See `Positions`."""
        return True

    def padding(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        """See `Positions`."""
        # a mask with heads is the shared bias; images have no padding
        return None if mask is not None and mask.dim() == 4 and mask.shape[1] > 1 else mask

    def follow(
        self, block: nn.Module, left: Followed, key_mask: Tensor | None, mask: Tensor | None, kwargs: dict[str, Any]
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """See `Positions`."""
        if mask is not None and mask.shape[1] > 1:
            key_mask = join_masks(key_mask, left.once(mask, take_pairs))
        bias = grid_bias(block, left.tokens.n_start, kwargs)
        if bias is not None:
            key_mask = join_masks(key_mask, take_pairs(bias, left.place))
        return key_mask, {k: v for k, v in kwargs.items() if k not in ("resolution", "interpolate_pos_encoding")}


@dataclass(frozen=True)
class Causal(_InMask):
    """A token attends to itself and what was before it (CLIP's text encoder)."""

    def follow(
        self, block: nn.Module, left: Followed, key_mask: Tensor | None, mask: Tensor | None, kwargs: dict[str, Any]
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """See `Positions`."""
        # tokens stay in order, so that what was before a token is what is before it now
        before = causal_mask(left.place[..., None])
        if mask is not None and mask.is_floating_point():
            before = _additive(before, mask.dtype)
        return join_masks(key_mask, before), kwargs


@dataclass(frozen=True)
class InDecoder(_InMask):
    """Angles `[1 | batch, n_start, width]`, and attention that looks back alone."""

    @property
    def in_mask(self) -> bool:
        """See `Positions`: order alone is in it, which flash kernels know of by a flag."""
        return False

    def follow(
        self, block: nn.Module, left: Followed, key_mask: Tensor | None, mask: Tensor | None, kwargs: dict[str, Any]
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """See `Positions`."""
        angles = tuple(left.once(x, _rows_of_all) for x in kwargs["position_embeddings"])
        # flash kernels would take gaps between positions for the borders of packed sequences
        given = {**kwargs, "position_embeddings": angles, "position_ids": None}
        if mask is not None and mask.dim() == 4:
            return join_masks(key_mask, left.once(mask, take_pairs)), given
        if key_mask is None or key_mask.dim() == 2:
            return key_mask, given
        return join_masks(key_mask, left.once(left.place, _looking_back)), given


def _looking_back(x: Tensor, _: Tensor) -> Tensor:
    return causal_mask(x[..., None])
