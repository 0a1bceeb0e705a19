"""Fewer heads or neurons: which of them stay, and what is left fitted to make up for the others.

Label-free and in one shot, as ZipLM (Kurtic et al. 2023) and SlimGPT (Ling et al. 2024) do it: what a half's last
layer makes of its inputs `x` on calibration rows is to stay. Removing columns S of its weights W and letting the others
answer for them costs `tr(W_S (H^-1)_SS^-1 W_S^T)`, with H the second moments of `x` (Optimal Brain Surgeon, Hassibi and
Stork 1993), so groups of columns go one after the other where this is least. What stays is a least-squares fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from prunesearch.compress.halves import Changing, Half, find_half, layer_of
from prunesearch.core.errors import PruneSearchError

_DAMP = 1e-3  # of the mean of H's diagonal, added to it: inputs that hardly vary


@dataclass(frozen=True)
class Width:
    """Half a block with fewer heads, or neurons.

    Attributes:
        half: `attention` or `mlp`.
        keep: heads or neurons that stay.
    """

    half: str
    keep: int

    def change(self, own: Changing, fit: Mapping[str, Tensor]) -> None:
        """See `ChangesBlock`; `fit`: `kept` groups, and the last layer's `weight` and `bias`."""
        block, found = own.block, find_half(own.block, own.core, self.half)
        if not self.keep < found.groups:
            raise PruneSearchError(
                f"`{'heads' if self.half == 'attention' else 'mlp'} < {found.groups}` must hold, but got {self.keep}"
            )
        columns = columns_of(fit["kept"], found.size)
        inner = found.groups * found.size
        # a fit that is being trained is one of parameters, and so are the layers before the last then
        part = LayerPart if isinstance(fit["kept"], nn.Parameter) else _with_rows
        for path, ways in zip(found.into, found.ways, strict=True):
            rows = torch.cat([columns + inner * way for way in range(ways)])
            own.put(path, part(layer_of(block, path), rows))
        own.put(found.out, linear_of(fit["weight"], fit.get("bias"), layer_of(block, found.out)))
        if self.half == "attention":
            own.recount(found.groups, self.keep, found.size)

    def weights(self, block: nn.Module, half: Half) -> dict[str, int]:
        """What is left of the weights of each linear layer, in numbers."""
        return {path: layer_of(block, path).weight.numel() * self.keep // half.groups for path in half.layers}

    def inner(self, half: Half) -> int:
        """Width of what its last layer is given."""
        return self.keep * half.size

    def fit(self, block: nn.Module, core: str, moments: Mapping[str, Moments]) -> dict[str, Tensor]:
        """What `change` wants, of the moments of the inputs of linear layers by their paths in the block."""
        found = find_half(block, core, self.half)
        return fit_width(block, found, moments[found.out], [self.keep])[0]


def make_width(heads: int | None = None, mlp: int | None = None) -> Width:
    """What a change of kind `width` comes to."""
    return Width("mlp", mlp) if heads is None and mlp is not None else Width("attention", heads or 0)


@dataclass
class Moments:
    """First and second moments of what a linear layer is given, over all tokens of the calibration rows.

    Attributes:
        total: sum of the inputs, `[n]`, float64.
        products: sum of their outer products, `[n, n]`, float64.
        count: how many.
    """

    total: Tensor
    products: Tensor
    count: int = 0

    @classmethod
    def of(cls, size: int) -> Moments:
        """Of nothing yet."""
        return cls(torch.zeros(size, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64))

    def add(self, x: Tensor) -> None:
        """Take inputs `[..., n]` in."""
        rows = x.detach().reshape(-1, x.shape[-1])
        self.total += rows.sum(0, dtype=torch.float64).cpu()
        self.products += (rows.T @ rows).double().cpu()
        self.count += len(rows)

    def spread(self, centred: bool) -> Tensor:
        """Second moments `[n, n]`, around the mean where a bias takes it up; damped."""
        found = self.products / max(self.count, 1)
        if centred:
            mean = self.mean
            found = found - torch.outer(mean, mean)
        damp = _DAMP * float(found.diagonal().mean()) + 1e-12
        return found + damp * torch.eye(len(found), dtype=torch.float64)

    @property
    def mean(self) -> Tensor:
        """Of the inputs, `[n]`."""
        return self.total / max(self.count, 1)


def fit_width(block: nn.Module, half: Half, moments: Moments, keeps: Sequence[int]) -> list[dict[str, Tensor]]:
    """Which groups stay at each of `keeps`, and the last layer for them: `kept`, `weight` and `bias`."""
    out = layer_of(block, half.out)
    weight, centred = out.weight.detach().double().cpu(), out.bias is not None
    spread = moments.spread(centred)
    stays = kept_groups(weight, spread, half.size, sorted(set(keeps), reverse=True))
    found = []
    for keep in keeps:
        columns = columns_of(stays[keep], half.size)
        fitted = torch.linalg.solve(spread[columns][:, columns], spread[columns] @ weight.T).T
        made = {"kept": stays[keep], "weight": fitted.float().contiguous()}
        if centred:
            mean = moments.mean
            made["bias"] = (out.bias.detach().double().cpu() + weight @ mean - fitted @ mean[columns]).float()
        found.append(made)
    return found


def kept_groups(weight: Tensor, spread: Tensor, size: int, keeps: Sequence[int]) -> dict[int, Tensor]:
    """The groups of `size` columns of `weight` `[out, n]` that stay, for each of the falling numbers `keeps`.

    Heads go one by one; of neurons up to an eighth of those on the way to the next number at once.
    """
    w, inverse = weight.clone(), torch.linalg.inv(spread)
    alive, found = torch.arange(weight.shape[1] // size), dict[int, Tensor]()
    for keep in keeps:
        step = max(1, -(-(len(alive) - keep) // 8)) if size == 1 else 1
        while len(alive) > keep:
            going = _costs(w, inverse, alive, size).argsort()[: min(step, len(alive) - keep)]
            gone = columns_of(alive[going], size)
            part = torch.linalg.solve(inverse[gone][:, gone], inverse[gone])
            w -= w[:, gone] @ part
            inverse -= inverse[:, gone] @ part
            left = torch.ones(len(alive), dtype=torch.bool)
            left[going] = False
            alive = alive[left]
        found[keep] = alive.clone()
    return found


def _costs(w: Tensor, inverse: Tensor, alive: Tensor, size: int) -> Tensor:
    """What removing each group costs, `[groups]`."""
    columns = (alive[:, None] * size + torch.arange(size)).flatten()
    parts = w[:, columns].T.reshape(len(alive), size, -1)
    blocks = torch.stack([inverse[c][:, c] for c in columns.view(-1, size)]) if size > 1 else None
    if blocks is None:
        return parts.square().sum((1, 2)) / inverse.diagonal()[columns].clamp_min(1e-18)
    found: Tensor = (parts * torch.linalg.solve(blocks, parts)).sum((1, 2))
    return found


def columns_of(groups: Tensor, size: int) -> Tensor:
    """The columns that groups take."""
    return (groups[:, None] * size + torch.arange(size, device=groups.device)).flatten()


class LayerPart(nn.Module):
    """Some rows of a linear layer that stays as it is: what is learnt here is learnt by the whole.

    Args:
        whole: the layer; no part of this module.
        rows: numbers of its outputs that are here.
    """

    def __init__(self, whole: nn.Linear, rows: Tensor) -> None:
        super().__init__()
        self._whole, self._rows = (whole,), rows

    def forward(self, x: Tensor) -> Tensor:
        """What the part makes of `[..., in]`: `[..., rows]`."""
        (whole,) = self._whole
        bias = cast(Tensor | None, whole.bias)
        return nn.functional.linear(x, whole.weight[self._rows], None if bias is None else bias[self._rows])


def _with_rows(linear: nn.Linear, rows: Tensor) -> nn.Linear:
    """The same layer with some of its outputs."""
    weight, bias = linear.weight, linear.bias
    rows = rows.to(weight.device)
    return linear_of(weight.detach()[rows], None if bias is None else bias.detach()[rows], linear)


def linear_of(weight: Tensor, bias: Tensor | None, like: nn.Linear) -> nn.Linear:
    """A layer of these weights, in the dtype and on the device of another; what is a parameter already is its own."""

    def own(value: Tensor) -> nn.Parameter:
        if isinstance(value, nn.Parameter):
            return value
        return nn.Parameter(value.to(like.weight.device, like.weight.dtype).contiguous(), requires_grad=False)

    made = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    made.weight = own(weight)
    if bias is not None:
        made.bias = own(bias)
    return made.train(like.training)
