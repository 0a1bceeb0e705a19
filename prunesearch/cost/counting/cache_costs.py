"""The cache of keys and values that a prompt leaves in a decoder, as a cost: counted, block by block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prunesearch.core.plans.flow import Flow, Geometry
from prunesearch.cost.costs import OfOneModel, sum_of_pieces

if TYPE_CHECKING:
    from prunesearch.pruning.families.find import Encoder

_MIB = 2**20


@dataclass(frozen=True)
class CacheCosts(OfOneModel):
    """MiB of the keys and values of a batch of prompts, all blocks together; exact, and additive.

    A block keeps what enters its attention: tokens that leave in it are still in its own cache, in no later one.

    Attributes:
        prompt: geometry of one prompt.
        mib: of one token of the batch, in each block.
    """

    prompt: Geometry
    mib: tuple[float, ...]

    @classmethod
    def of(cls, decoder: Encoder, prompt: Geometry, batch_size: int) -> CacheCosts:
        """Read the widths of keys and values off a decoder; they are kept in the dtype of the weights."""
        core, found = decoder.family.layout.core, []
        for block in decoder.blocks:
            weights: list[Any] = [block.get_submodule(f"{core}.{name}").weight for name in ("k_proj", "v_proj")]
            found.append(batch_size * sum(w.shape[0] * w.element_size() for w in weights) / _MIB)
        return cls(prompt, tuple(found))

    @property
    def geometry(self) -> Geometry:
        """Of the model."""
        return self.prompt

    def price(self, flow: Flow) -> float:
        """A whole prompt."""
        return sum_of_pieces(self, flow)

    def attention(self, n: int, sized: bool, layer: int) -> float:
        """The cache of a block whose attention `n` tokens enter."""
        return n * self.mib[layer]

    def mlp(self, n: int, layer: int) -> float:
        """Nothing is kept."""
        return 0.0

    def reduce(self, scorer: str, merge: str, n_in: int, n_out: int) -> float:
        """Nothing is kept."""
        return 0.0

    @property
    def stem(self) -> float:
        """Nothing is kept."""
        return 0.0

    def head(self, n: int) -> float:
        """Nothing is kept."""
        return 0.0
