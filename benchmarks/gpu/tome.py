"""ToMe's forward, stated anew from the paper (Bolya et al. 2023, section 3), on Hugging Face's ViT blocks.

Not ToMe's code, whose licence forbids that: what a stage must cost if it is written for one model and nothing else. It
is timed beside `bipartite`, with the same weights and counts. Tokens are kept as in the paper: those that nobody merged
first, then those that were merged into; CLS is the first of all and never merges.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, scaled_dot_product_attention


def merge_pairs(keys: Tensor, r: int) -> tuple[Tensor, Tensor, Tensor]:
    """Whom the `r` most similar of every other token merge with.

    Args:
        keys: `[batch, tokens, features]`; token 0 is CLS, which is of the first set (even places) and never leaves it.
        r: pairs.

    Returns:
        Places in the first set: `stays` `[batch, a - r]` and `leaves` `[batch, r]`, and `into` `[batch, r]`, places in
        the second.
    """
    unit = normalize(keys, dim=-1)
    similarity = unit[:, 0::2] @ unit[:, 1::2].transpose(1, 2)
    similarity[:, 0] = -torch.inf
    best, partner = similarity.max(-1)
    order = best.argsort(dim=-1, descending=True)
    leaves, stays = order[:, :r], order[:, r:].sort(dim=-1).values
    return stays, leaves, partner.gather(1, leaves)


def merge(x: Tensor, size: Tensor, pairs: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Average by size `x` `[batch, n, width]`, `size` `[batch, n, 1]` over the pairs: `n - r` tokens are left."""
    stays, leaves, into = pairs
    width = x.shape[-1]
    both = torch.cat([x * size, size], dim=-1)
    first, second = both[:, 0::2], both[:, 1::2]
    moved = first.gather(1, leaves[..., None].expand(-1, -1, width + 1))
    second = second.scatter_add(1, into[..., None].expand(-1, -1, width + 1), moved)
    found = torch.cat([first.gather(1, stays[..., None].expand(-1, -1, width + 1)), second], dim=1)
    total = found[..., -1:]
    return found[..., :-1] / total, total


class ToMeViT(nn.Module):
    """A Hugging Face ViT with a head, its blocks run as ToMe runs them; the weights are the model's own."""

    def __init__(self, model: Any, r: int) -> None:
        super().__init__()
        self.model, self.r = model, r

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Logits `[batch, labels]`."""
        vit = self.model.vit
        x = vit.embeddings(pixel_values)
        size = torch.ones_like(x[..., :1])
        for number, block in enumerate(vit.layers):
            x, size = self._block(block, x, size, first=number == 0)
        return self.model.classifier(vit.layernorm(x)[:, 0])

    def _block(self, block: Any, x: Tensor, size: Tensor, first: bool) -> tuple[Tensor, Tensor]:
        attention, width = block.attention, x.shape[-1]
        heads = self.model.config.num_attention_heads
        normed = block.layernorm_before(x)
        query, key, value = (
            part(normed).unflatten(-1, (heads, width // heads)).transpose(1, 2)
            for part in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        bias = None if first else size.log().transpose(1, 2)[:, None].expand(-1, -1, x.shape[1], -1)
        seen = scaled_dot_product_attention(query, key, value, attn_mask=bias)
        x = x + attention.o_proj(seen.transpose(1, 2).flatten(2))
        x, size = merge(x, size, merge_pairs(key.mean(1), self.r))
        return x + block.mlp(block.layernorm_after(x)), size
