"""Half a block that stays in the model's own numbers, where a plan puts the others in fewer bits.

On a narrow model int8 attention is slower than float32, while its MLP is faster: which halves, the cost table knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from prunesearch.compress.halves import Changing, Half, layer_of, names_of


class KeptLinear(nn.Linear):
    """A linear layer with the weights of another, which no quantiser takes for its own (`Quantised.twin`)."""

    def __init__(self, like: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = like.in_features, like.out_features
        self.weight, self.bias = like.weight, like.bias
        self.train(like.training)


@dataclass(frozen=True)
class KeepHalf:
    """The linear layers of half a block, as they are.

    Attributes:
        half: `attention` or `mlp`.
    """

    half: str

    def change(self, own: Changing, fit: Mapping[str, Tensor]) -> None:
        """See `ChangesBlock`; nothing is fitted."""
        for path in names_of(own.block, own.core, self.half):
            layer = layer_of(own.block, path)
            if type(layer) is nn.Linear:  # no quantiser takes a subclass, which may do more than a product
                own.put(path, KeptLinear(layer))

    def weights(self, block: nn.Module, half: Half) -> dict[str, int]:
        """What is left of the weights of each linear layer, in numbers: all."""
        return {path: layer_of(block, path).weight.numel() for path in half.layers}

    def inner(self, half: Half) -> int:
        """Width of what its last layer is given: as it was."""
        return half.groups * half.size


def make_keep(part: str) -> KeepHalf:
    """What a change of kind `keep` comes to."""
    return KeepHalf(part)
