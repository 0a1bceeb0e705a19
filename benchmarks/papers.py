"""Reductions of other tools, stated from their papers on the blocks of a Hugging Face ViT or BERT, without padding.

Nothing of prunesearch is used. They are what it is compared with: in the operations that a stage takes (`kernels.py`),
in speed (`beside_tome.py`), and in the tests in what comes out (`tests/export/schedules/test_same_result.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor


class Tool:
    """Where a tool comes in: before a block, or between its attention and its MLP.

    `query` and `key` are what the block's attention computed, `[batch, heads, n, head_dim]`; `size` is `[batch, n]`.
    """

    def __init__(self) -> None:
        self.query: Any = None
        self.key: Any = None
        self.size: Tensor | None = None

    def before(self, block: int, x: Tensor) -> Tensor:
        return x

    def between(self, block: int, x: Tensor) -> Tensor:
        return x

    def bias(self) -> Tensor | None:
        """What attention adds to its logits."""
        return None

    def probabilities(self, queries: slice = slice(None)) -> Tensor:
        """`[batch, heads, queries, n]` of the block's attention."""
        logits = self.query[:, :, queries] @ self.key.transpose(-1, -2) * self.key.shape[-1] ** -0.5
        bias = self.bias()
        return (logits if bias is None else logits + bias).softmax(-1)


class Proportional(Tool):
    """Attention gets `+ log(size)` on its keys, once there are sizes."""

    def bias(self) -> Tensor | None:
        return None if self.size is None else self.size.log()[:, None, None, :]


def rows(x: Tensor, index: Tensor) -> Tensor:
    """Tokens `index` `[batch, m]` of `[batch, n, ...]`."""
    return x.gather(1, index.reshape(*index.shape, *[1] * (x.dim() - 2)).expand(-1, -1, *x.shape[2:]))


class ToMe(Proportional):
    """Bolya et al. 2023: even tokens may join their most similar odd one; the `r` best pairs of a block do.

    Args:
        r: for each block.
        cls, distilled: whether the first, and the second token are protected.
        functions: ToMe's own `bipartite_soft_matching` and `merge_wavg`, to use them instead.
    """

    def __init__(self, r: Sequence[int], *, cls: bool = True, distilled: bool = False, functions: Any = None) -> None:
        super().__init__()
        self.r, self.cls, self.distilled, self.functions = r, cls, distilled, functions

    def between(self, block: int, x: Tensor) -> Tensor:
        r = min(self.r[block], (x.shape[1] - self.cls - self.distilled) // 2)
        if r <= 0:
            return x
        if self.functions is not None:
            match, average = self.functions
            merge, _ = match(self.key.mean(1), r, self.cls, self.distilled)
            x, size = average(merge, x, None if self.size is None else self.size[..., None])
            self.size = size[..., 0]
            return x
        return self._merged(x, r)

    def _merged(self, x: Tensor, r: int) -> Tensor:
        metric = self.key.mean(1)
        metric = metric / metric.norm(dim=-1, keepdim=True)
        alike = metric[:, ::2] @ metric[:, 1::2].transpose(1, 2)
        if self.cls:
            alike[:, 0] = -math.inf
        if self.distilled:
            alike[:, :, 0] = -math.inf
        best, mate = alike.max(-1)
        order = best.argsort(dim=-1, descending=True)
        gone, stay = order[:, :r], order[:, r:]
        stay = stay.sort(1).values if self.cls else stay
        goal = mate.gather(1, gone)
        size = torch.ones_like(x[..., 0]) if self.size is None else self.size

        def moved(y: Tensor) -> Tensor:
            even, odd = y[:, ::2], y[:, 1::2]
            index = goal[..., None].expand(-1, -1, y.shape[2])
            odd, left = odd.scatter_add(1, index, rows(even, gone)), rows(even, stay)
            if self.distilled:
                return torch.cat([left[:, :1], odd[:, :1], left[:, 1:], odd[:, 1:]], 1)
            return torch.cat([left, odd], 1)

        x, total = moved(x * size[..., None]), moved(size[..., None])
        self.size = total[..., 0]
        return x / total


class EViT(Tool):
    """Liang et al. 2022: `ceil(rate n)` of the `n` tokens next to CLS stay, by its attention; the others are fused.

    Args:
        rate: that stays at each site.
        sites: the blocks.
        fuse: whether there is a fused token.
        mean: take the weighted mean and let attention know of sizes, as prunesearch does; EViT takes the weighted sum.
    """

    def __init__(self, rate: float, sites: Sequence[int], *, fuse: bool = True, mean: bool = False) -> None:
        super().__init__()
        self.rate, self.sites, self.fuse, self.mean = rate, sites, fuse, mean

    def bias(self) -> Tensor | None:
        return None if self.size is None else self.size.log()[:, None, None, :]

    def between(self, block: int, x: Tensor) -> Tensor:
        if block not in self.sites:
            return x
        score = self.probabilities(slice(0, 1))[:, :, 0, 1:].mean(1)
        count = math.ceil(self.rate * (x.shape[1] - 1))
        order = score.argsort(dim=1, descending=True)
        stay, gone = order[:, :count], order[:, count:]
        weight, others = score.gather(1, gone)[..., None], x[:, 1:]
        left = torch.cat([x[:, :1], rows(others, stay)], 1)
        if not self.fuse:
            return left
        if not self.mean:
            return torch.cat([left, (rows(others, gone) * weight).sum(1, keepdim=True)], 1)
        size = torch.ones_like(x[..., 0]) if self.size is None else self.size
        sizes = size[:, 1:].gather(1, gone)
        weight = weight * sizes[..., None]
        self.size = torch.cat([size[:, :1], size[:, 1:].gather(1, stay), sizes.sum(1, keepdim=True)], 1)
        return torch.cat([left, (rows(others, gone) * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)], 1)


class DiffRate(Proportional):
    """Chen et al. 2023: sorted by CLS attention, the tail is pruned, the next part joins the most similar kept token.

    Args:
        pruned, merged: tokens left after each, per block, CLS included.
        by_keys: find the most similar by keys and average by size, as prunesearch does; DiffRate goes by features,
            takes plain means, and counts a merged token by how similar it was.
    """

    def __init__(self, pruned: Sequence[int], merged: Sequence[int], *, by_keys: bool = False) -> None:
        super().__init__()
        self.pruned, self.merged, self.by_keys = pruned, merged, by_keys

    def between(self, block: int, x: Tensor) -> Tensor:
        score = self.probabilities(slice(0, 1))[:, :, 0, 1:].mean(1)
        order = torch.cat([torch.zeros_like(x[:, :1, 0]).long(), score.argsort(dim=1, descending=True) + 1], 1)
        order = order[:, : min(x.shape[1], self.pruned[block])]
        size = torch.ones_like(x[..., 0]) if self.size is None else self.size
        metric = rows(self.key.mean(1), order) if self.by_keys else rows(x, order)
        x, size, kept = rows(x, order), size.gather(1, order), self.merged[block]
        if kept < x.shape[1]:
            unit = metric / metric.norm(dim=-1, keepdim=True)
            alike = unit[:, kept:] @ unit[:, :kept].transpose(1, 2)
            alike[:, :, 0] = -math.inf
            best, goal = alike.max(-1)
            at = goal[..., None].expand(-1, -1, x.shape[2])
            if self.by_keys:
                total = size[:, :kept].scatter_add(1, goal, size[:, kept:])
                weighted = x * size[..., None]
                x = weighted[:, :kept].scatter_add(1, at, weighted[:, kept:]) / total[..., None]
            else:
                x = x[:, :kept].scatter_reduce(1, at, x[:, kept:], "mean")
                total = size[:, :kept].scatter_add(1, goal, size[:, kept:] * best)
            size = total
        if (size != 1).any() or self.size is not None:
            self.size = size
        return x


class DynamicViT(Tool):
    """Rao et al. 2021: tokens leave BEFORE a block, by scores that a trained gate gives there.

    Args:
        sites: the blocks.
        kept: tokens next to CLS that stay at each.
        score: `(block, x) -> [batch, n - 1]` in place of the gate.
    """

    def __init__(self, sites: Sequence[int], kept: Sequence[int], score: Callable[[int, Tensor], Tensor]) -> None:
        super().__init__()
        self.kept, self.score = dict(zip(sites, kept, strict=True)), score

    def before(self, block: int, x: Tensor) -> Tensor:
        if block not in self.kept:
            return x
        order = self.score(block, x).argsort(dim=1, descending=True)[:, : self.kept[block]].sort(1).values
        return torch.cat([x[:, :1], rows(x[:, 1:], order)], 1)


class PowerBert(Tool):
    """Goyal et al. 2020: tokens stay, in order, by the attention they receive; CLS always.

    Args:
        retained: tokens after each block, CLS included.
        own: whether a token's attention to itself counts, as it does in prunesearch.
        last: whether the last token stays too, as it does in prunesearch.
    """

    def __init__(self, retained: Sequence[int], *, own: bool = False, last: bool = False) -> None:
        super().__init__()
        self.retained, self.own, self.last = retained, own, last

    def between(self, block: int, x: Tensor) -> Tensor:
        if self.retained[block] >= x.shape[1]:
            return x
        mean = self.probabilities().mean(1)
        score = mean.sum(1) - (0 if self.own else mean.diagonal(dim1=1, dim2=2))
        score[:, 0] = math.inf
        if self.last:
            score[:, -1] = math.inf
        return rows(x, score.argsort(dim=1, descending=True)[:, : self.retained[block]].sort(1).values)


# -- in a model ------------------------------------------------------------------------------------------------------


@contextmanager
def patched(model: Any, tool: Tool) -> Iterator[None]:
    """Within the block, forwards of a `ViTModel` or `BertModel` go through `tool`."""
    bert = hasattr(model, "encoder")
    blocks = model.encoder.layer if bert else model.layers
    hooks = [model.register_forward_pre_hook(lambda *_: setattr(tool, "size", None))]
    for i, block in enumerate(blocks):
        core = block.attention.self if bert else block.attention
        for name, part in (("query", "query" if bert else "q_proj"), ("key", "key" if bert else "k_proj")):
            if name == "query" and isinstance(tool, ToMe):
                continue  # it has no use for it
            keep = partial(_keep, tool, name, core.config.num_attention_heads)
            hooks.append(core.get_submodule(part).register_forward_hook(keep))
        block.forward = partial(_bert_block if bert else _vit_block, i, block, tool)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for block in blocks:
            del block.forward


def _keep(tool: Tool, name: str, heads: int, _: Any, __: Any, output: Tensor) -> None:
    setattr(tool, name, output.view(*output.shape[:2], heads, -1).transpose(1, 2))


def _vit_block(i: int, block: Any, tool: Tool, x: Tensor, mask: Any = None, **kwargs: Any) -> Tensor:
    x = tool.before(i, x)
    x = block.dropout(block.attention(block.layernorm_before(x), tool.bias(), **kwargs)[0]) + x
    x = tool.between(i, x)
    out: Tensor = block.dropout(block.mlp(block.layernorm_after(x))) + x
    return out


def _bert_block(i: int, block: Any, tool: Tool, x: Tensor, mask: Any = None, *_: Any, **kwargs: Any) -> Tensor:
    x = tool.between(i, block.attention(tool.before(i, x), tool.bias())[0])
    out: Tensor = block.feed_forward_chunk(x)
    return out
