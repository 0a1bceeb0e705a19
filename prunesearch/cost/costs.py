"""What prices the flow of a forward: the protocol that cost tables, energies, MACs and memory share."""

from __future__ import annotations

from typing import Protocol, cast

from prunesearch.core.plans.flow import Flow, Geometry
from prunesearch.core.plans.plan import Change, Plan
from prunesearch.core.plans.schedule import Schedule, refuse_by_row


class Pieces(Protocol):
    """What the pieces of a forward cost, all in one unit; blocks are told apart by their number."""

    def attention(self, n: int, sized: bool, layer: int) -> float:
        """The attention half of block `layer` at `n` tokens; `sized` with `+ log(size)` on the keys."""

    def mlp(self, n: int, layer: int) -> float:
        """The MLP half of block `layer` at `n` tokens."""

    def reduce(self, scorer: str, merge: str, n_in: int, n_out: int) -> float:
        """One stage; `scorer` with its selection, as `Stage.scoring` names them."""

    @property
    def stem(self) -> float:
        """Everything before the first block, and the head."""

    def head(self, n: int) -> float:
        """What `n` tokens at the end cost more or less than the whole sequence."""

    @property
    def in_tower(self) -> Costs | None:
        """Of what makes a decoder's pictures, where its tokens may leave; `head(n)` is all that follows its blocks."""


class Costs(Pieces, Protocol):
    """What a search asks of a cost, in the objective's unit (ms or MiB a batch, mJ or GMACs an input).

    The pieces add up to the price, or to less: a maximum does not add up.
    """

    @property
    def geometry(self) -> Geometry:
        """Of the model that is priced."""

    def under(self, changes: tuple[Change, ...]) -> Costs:
        """Those of the model with these changes."""

    def price(self, flow: Flow) -> float:
        """A whole forward."""

    def predict(self, plan: Plan | Schedule) -> float:
        """The forward of the model under a plan."""


class OfOneModel:
    """Costs that know their model: `predict` is the price of a plan on it."""

    @property
    def geometry(self) -> Geometry:
        """Of the model that is priced."""
        raise NotImplementedError

    @property
    def in_tower(self) -> Costs | None:
        """Of a tower; None where it costs the same under every plan."""
        return None

    def under(self, changes: tuple[Change, ...]) -> Costs:
        """Those of the model with these changes; the same, for what no change makes cheaper."""
        return cast(Costs, self)

    def price(self, flow: Flow) -> float:
        """A whole forward."""
        raise NotImplementedError

    def predict(self, plan: Plan | Schedule) -> float:
        """The forward of the model under a plan.

        Raises:
            PruneSearchError: for a plan that does not fit the model, or has what was not measured, or whose rows have
                counts of their own.
        """
        refuse_by_row(plan, "a price")
        changes = Plan.of(plan).changes
        costs = self.under(changes) if changes else cast(Costs, self)
        return costs.price(plan.flow(self.geometry))


def breakdown(pieces: Pieces, flow: Flow) -> dict[str, float]:
    """What a forward costs by kind of piece: `attention`, `mlp`, `reduce` over all blocks, and the `rest`.

    Of a decoder behind a tower whose pieces are known, `tower` is all of these of it, and its projector.
    """
    attention = mlp = reduce = 0.0
    entry = flow.entry
    if entry is not None:
        reduce += pieces.reduce(entry.scoring, entry.merge, flow.n_given, flow.n_in)
    for step in flow:
        attention += pieces.attention(step.n_in, step.sized, step.layer)
        if step.stage is not None:
            reduce += pieces.reduce(step.stage.scoring, step.stage.merge, step.n_in, step.n_out)
        mlp += pieces.mlp(step.n_out, step.layer)
    found = {"attention": attention, "mlp": mlp, "reduce": reduce, "rest": pieces.stem + pieces.head(flow.n_out)}
    tower, in_tower = pieces.in_tower, flow.in_tower
    return found if tower is None or in_tower is None else {"tower": tower.price(in_tower), **found}


def sum_of_pieces(pieces: Pieces, flow: Flow) -> float:
    """The price of a forward where pieces add up."""
    return sum(breakdown(pieces, flow).values())
