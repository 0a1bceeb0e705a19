"""Linear layers as two thin factors: a singular value decomposition that knows what the layers are given.

With S a root of the second moments of a layer's inputs, the factors of rank r nearest to `W S` lose least of what the
layer answers on the calibration rows (SVD-LLM, Wang et al. 2024; ASVD, Yuan et al. 2023). The mean goes into the bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunesearch.compress.halves import Changing, Half, find_half, layer_of
from prunesearch.compress.width import Moments, linear_of
from prunesearch.core.errors import PruneSearchError


@dataclass(frozen=True)
class Rank:
    """Half a block whose linear layers are two factors each.

    Attributes:
        half: `attention` or `mlp`.
        rank: numbers between the two.
    """

    half: str
    rank: int

    def change(self, own: Changing, fit: Mapping[str, Tensor]) -> None:
        """See `ChangesBlock`; `fit`: of every layer `PATH.down` `[rank, in]`, `PATH.up` `[out, rank]`, `PATH.bias`."""
        for path in find_half(own.block, own.core, self.half).layers:
            like = layer_of(own.block, path)
            down, up = fit[f"{path}.down"], fit[f"{path}.up"]
            if not self.rank < least_rank_of(like):
                raise PruneSearchError(
                    f"`{self.half} < {least_rank_of(like)}` must hold for a rank, but got {self.rank}"
                )
            own.put(path, nn.Sequential(linear_of(down, None, like), linear_of(up, fit.get(f"{path}.bias"), like)))

    def weights(self, block: nn.Module, half: Half) -> dict[str, int]:
        """What is left of the weights of each linear layer, in numbers."""
        return {path: self.rank * sum(layer_of(block, path).weight.shape) for path in half.layers}

    def inner(self, half: Half) -> int:
        """Width of what its last layer is given: as it was."""
        return half.groups * half.size

    def fit(self, block: nn.Module, core: str, moments: Mapping[str, Moments]) -> dict[str, Tensor]:
        """What `change` wants, of the moments of the inputs of linear layers by their paths in the block."""
        found: dict[str, Tensor] = {}
        for path in find_half(block, core, self.half).layers:
            layer = layer_of(block, path)
            found |= {f"{path}.{name}": value for name, value in factors(layer, moments[path], self.rank).items()}
        return found


def make_rank(attention: int | None = None, mlp: int | None = None) -> Rank:
    """What a change of kind `rank` comes to."""
    return Rank("mlp", mlp) if attention is None and mlp is not None else Rank("attention", attention or 0)


def least_rank_of(layer: nn.Linear) -> int:
    """From which rank on two factors have no fewer weights than the layer."""
    out, into = layer.weight.shape
    return int(out * into // (out + into))


def factors(layer: nn.Linear, moments: Moments, rank: int) -> dict[str, Tensor]:
    """`down`, `up` and, of a layer that has one, `bias`."""
    weight, centred = layer.weight.detach().double().cpu(), layer.bias is not None
    root = torch.linalg.cholesky(moments.spread(centred))
    u, s, v = torch.linalg.svd(weight @ root, full_matrices=False)
    up = u[:, :rank] * s[:rank].sqrt()
    down = torch.linalg.solve_triangular(root, s[:rank, None].sqrt() * v[:rank], upper=False, left=False)
    found = {"down": down.float().contiguous(), "up": up.float().contiguous()}
    if centred:
        bias = layer.bias.detach().double().cpu()
        found["bias"] = (bias + (weight - up @ down) @ moments.mean).float()
    return found
