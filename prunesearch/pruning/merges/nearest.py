"""Tokens that are not kept are averaged into the most similar one that is."""

from __future__ import annotations

from prunesearch.pruning.forward.assignment import Assignment, Grouped, Regrouping
from prunesearch.pruning.merges.base import MergeInput, similarity_to_kept


def nearest(inputs: MergeInput) -> Assignment:
    """Each token that is not kept is averaged, by size, into the kept token with the most similar key (cosine).

    Protected tokens take nothing in.
    """
    chosen, _ = inputs.chosen
    target = similarity_to_kept(inputs, chosen).argmax(-1)
    if inputs.tokens.valid is None:
        return Regrouping(chosen.order, chosen.n_out, Grouped(target), size=inputs.sizes(chosen.order))
    slot = target.scatter(1, chosen.marked, chosen.slots)
    return Assignment(chosen.kept, chosen.occupied, slot=slot, weight=inputs.tokens.mass)
