"""What a stage sees of its block's attention: queries, keys and values as they were computed, nothing copied."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prunesearch.pruning.forward.constants import single, zero
from prunesearch.pruning.forward.tokens import wide

_SHORTEST = 1e-12


@dataclass
class AttentionView:
    """What a stage sees of its block's attention; made anew by every forward.

    `query`, `key`, `value` are `[batch, heads, tokens, head_dim]`, keys and values perhaps of fewer heads, each for as
    many queries in a row; `mask` is additive or boolean and broadcasts to
    `[batch, heads, tokens, tokens]`; `weights` are the probabilities where the backend computes them (eager only);
    `bias` is added to the logits beside the mask, `[batch | 1, heads, tokens, tokens]` (relative positions).
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    scaling: float
    weights: Tensor | None
    bias: Tensor | None = None

    def logits(self, query: Tensor, rows: slice | Tensor | None = None) -> Tensor:
        """Attention logits, mask added, of some queries against all keys, in float32 or better.

        Args:
            query: `[batch, heads, q, head_dim]`.
            rows: which query rows of a full mask these are: the same for all, or `[batch]` one of each example; None
                for a mask that is the same for every query.

        Returns:
            `[batch, heads, q, tokens]`.
        """
        dtype = wide(query.dtype)
        scores = self._products(query).to(dtype)
        if self.bias is not None:
            scores = scores + _rows_of(self.bias, rows)
        if self.mask is None:
            return scores
        mask = self.mask[..., :1, :] if self.mask.stride(-2) == 0 else self.mask  # expanded: the same for all
        if mask.shape[-2] != 1:
            mask = _rows_of(mask, rows)
        if mask.dtype == torch.bool:
            return scores.where(mask, single(scores, torch.finfo(dtype).min, dtype))
        return scores + mask

    def _products(self, query: Tensor) -> Tensor:
        """`query @ key^T x scaling`, in one operation."""
        heads, key_heads = query.shape[1], self.key.shape[1]
        left, right = query.flatten(0, 1), self.key.flatten(0, 1).transpose(1, 2)
        if key_heads != heads:  # queries of one key's heads stand below each other
            left = query.reshape(-1, heads // key_heads * query.shape[2], query.shape[3])
        products = torch.baddbmm(zero(query, query.dtype), left, right, beta=0, alpha=self.scaling)
        return products.view(-1, heads, query.shape[2], products.shape[2])


def _rows_of(pairs: Tensor, rows: slice | Tensor | None) -> Tensor:
    """Rows of `[batch | 1, heads | 1, tokens, tokens]`."""
    if isinstance(rows, Tensor):
        size = rows.shape[0]  # not len(): it would fix the batch size of an export
        batch = torch.arange(size, device=rows.device)
        return pairs.expand(size, -1, -1, -1)[batch, :, rows][:, :, None]
    return pairs[..., rows if rows is not None else slice(0, 1), :]


def mean_key(attention: AttentionView) -> Tensor:
    """Keys averaged over heads, `[batch, n, head_dim]`, in float32 or better: ToMe's similarity metric."""
    return attention.key.mean(1, dtype=wide(attention.key.dtype))


def unit_keys(attention: AttentionView) -> Tensor:
    """`mean_key`, each of length one."""
    return of_length_one(mean_key(attention))


def of_length_one(x: Tensor) -> Tensor:
    """`x / |x|` over the last dimension; what is zero stays so. As `functional.normalize`, in fewer calls."""
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / length.clamp_min(_SHORTEST)


def causal_mask(x: Tensor) -> Tensor:
    """`[1, 1, n, n]` booleans for `[.., n, width]`: a token attends to itself and what is before it."""
    return later_mask(x, x.shape[-2])


def later_mask(x: Tensor, n: int) -> Tensor:
    """`[1, 1, q, n]` booleans for `[.., q, width]`, the last of `n` tokens: each sees itself and what is before it."""
    q = x.shape[-2]
    return torch.ones(q, n, dtype=torch.bool, device=x.device).tril(n - q)[None, None]
