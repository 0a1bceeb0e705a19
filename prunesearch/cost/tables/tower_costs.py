"""What a tower in front of a decoder costs: its blocks by a table of its own, and what follows them by its tokens."""

from __future__ import annotations

from dataclasses import dataclass

from prunesearch.core.plans.flow import Flow, Geometry
from prunesearch.cost.costs import Costs, OfOneModel, sum_of_pieces
from prunesearch.cost.tables.surface import Line


@dataclass(frozen=True)
class TowerCosts(OfOneModel):
    """Milliseconds of a tower and its projector, and of taking from the prompt what left in it.

    Attributes:
        blocks: of its blocks.
        before: of what is before the first of them.
        behind: of what is behind the last, by the tokens that leave it: projector, and the way into the prompt.
    """

    blocks: Costs
    before: float
    behind: Line

    @property
    def geometry(self) -> Geometry:
        """Of the tower, of one picture."""
        return self.blocks.geometry

    def price(self, flow: Flow) -> float:
        """All of it."""
        return sum_of_pieces(self, flow)

    def attention(self, n: int, sized: bool, layer: int) -> float:
        """The attention half of block `layer` at `n` tokens; `sized` with `+ log(size)` on the keys."""
        return self.blocks.attention(n, sized, layer)

    def mlp(self, n: int, layer: int) -> float:
        """The MLP half of block `layer` at `n` tokens."""
        return self.blocks.mlp(n, layer)

    def reduce(self, scorer: str, merge: str, n_in: int, n_out: int) -> float:
        """One stage."""
        return self.blocks.reduce(scorer, merge, n_in, n_out)

    @property
    def stem(self) -> float:
        """Before the first block."""
        return self.before

    def head(self, n: int) -> float:
        """Behind the last block, of `n` tokens."""
        return self.behind(n)
