"""What a cache holds of a prompt from which stages took tokens: each block's has a length of its own.

A model counts on one length for all blocks. So the note lies on the cache, which is of one conversation, and says for
each block which tokens of the prompt it has; what was added behind them is the same for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prunesearch.core.errors import PruneSearchError
from prunesearch.pruning.attention import later_mask
from prunesearch.pruning.forward.constants import single
from prunesearch.pruning.forward.mixed import MixedTokens
from prunesearch.pruning.forward.tokens import Tokens

_NOTE = "_prunesearch_past"


class Entries(NamedTuple):
    """Of one block: `n` entries of the prompt in its cache, and which of them are tokens, `[batch, n]` (None: all)."""

    n: int
    valid: Tensor | None


@dataclass(frozen=True)
class Past:
    """The prompt in a cache: its tokens before any left, and the entries of each block."""

    n_start: int
    blocks: tuple[Entries, ...]

    @property
    def reduced_at_input(self) -> bool:
        """Whether the first block too has fewer, from whose entries a model counts the tokens that it has seen."""
        return self.blocks[0].n < self.n_start

    def mask(self, index: int, x: Tensor, cache: Any, padding: Tensor | None, additive: bool) -> Tensor | None:
        """The mask of the next attention of a block.

        Args:
            index: of the block.
            x: `[batch, q, width]` new tokens.
            cache: before they are added to it.
            padding: bool `[batch, n]`, as the model is given it, of ALL tokens of the conversation; None: none.
            additive: whether attention wants numbers.

        Returns:
            `[batch | 1, 1, q, entries]`, or None where all may be seen.

        Raises:
            PruneSearchError: if the cache was changed since.
        """
        held, valid = self.blocks[index]
        batch, q = x.shape[:2]
        more = int(cache.get_seq_length(index)) + q - held
        if more < q or (valid is not None and len(valid) != batch):
            raise PruneSearchError(
                "the cache of a pruned prompt was cropped into it, or has other rows than the prompt had: "
                "start the conversation anew"
            )
        keys = None
        if valid is not None or padding is not None:
            old = torch.ones(batch, held, dtype=torch.bool, device=x.device) if valid is None else valid
            new = old.new_ones(batch, more) if padding is None else padding[:, self.n_start :]
            if new.shape[1] != more:
                raise PruneSearchError(
                    f"the attention mask must be of all {self.n_start + more} tokens of the conversation, those that "
                    f"were pruned included, but it is of {self.n_start + new.shape[1]}"
                )
            keys = torch.cat([old, new], 1)[:, None, None, :]
        pairs = later_mask(x, held + more) if q > 1 or (additive and keys is not None) else None
        both = [mask for mask in (keys, pairs) if mask is not None]
        if not both:
            return None
        mask = both[0] if len(both) == 1 else both[0] & both[1]
        if not additive:
            return mask
        lowest = single(x, torch.finfo(x.dtype).min, x.dtype)
        return torch.zeros_like(mask, dtype=x.dtype).where(mask, lowest)


def note_past(cache: Any, tokens: Tokens, stages: Sequence[tuple[int, Tokens]], depth: int) -> None:
    """Note on a cache what each block's part of it holds.

    Args:
        cache: that a prompt has just filled.
        tokens: of the prompt.
        stages: of each stage that took some, the first block that has fewer, and the tokens it left.
        depth: number of blocks.
    """
    blocks, left, coming = [], tokens, list(stages)
    for index in range(depth):
        while coming and coming[0][0] <= index:
            left = coming.pop(0)[1]
        blocks.append(Entries(left.n, left.real))
    setattr(cache, _NOTE, Past(tokens.n_start, tuple(blocks)))


def past_of(cache: Any, seen: int) -> Past | None:
    """The note on a cache that has `seen` tokens, or None; one that was emptied (`reset`) loses it."""
    found: Past | None = getattr(cache, _NOTE, None)
    if found is not None and seen == 0:
        delattr(cache, _NOTE)
        return None
    return found


@dataclass(frozen=True)
class Prompt:
    """What the model around a decoder makes known of a forward.

    Attributes:
        tokens: of the prompt, where stages may take some; None where none may leave.
        padding: bool `[batch, n]` of all tokens of the conversation; None: none.
        past: what the cache has of an earlier forward, where stages took some.
        gone: bool `[batch, n]` the tokens of pictures that left in the tower; None: none did.
    """

    tokens: MixedTokens | None = None
    padding: Tensor | None = None
    past: Past | None = None
    gone: Tensor | None = None
