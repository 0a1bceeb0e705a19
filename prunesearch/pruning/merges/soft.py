"""Tokens that are not kept are spread over those that are."""

from __future__ import annotations

from prunesearch.pruning.forward.assignment import Assignment, Regrouping, Spread
from prunesearch.pruning.forward.constants import unit_rows
from prunesearch.pruning.merges.base import MergeInput, similarity_to_kept


def soft(inputs: MergeInput) -> Assignment:
    """Each token that is not kept is spread over the kept ones by softmax(cosine of keys / `temperature`), by size.

    Protected tokens take nothing in. Sizes become fractional; their sum is preserved.
    """
    chosen, _ = inputs.chosen
    spread = similarity_to_kept(inputs, chosen, 1 / inputs.params["temperature"]).softmax(-1)
    if inputs.tokens.valid is None:
        return Regrouping(chosen.order, chosen.n_out, Spread(spread), size=inputs.sizes(chosen.order))
    rows = chosen.marked[..., None].expand(-1, -1, chosen.n_out)
    share = spread.scatter(1, rows, unit_rows(spread, chosen.n_out, spread.dtype)[chosen.slots])
    return Assignment(chosen.kept, chosen.occupied, share=share, weight=inputs.tokens.mass)
