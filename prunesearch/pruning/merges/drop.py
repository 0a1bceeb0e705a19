"""Tokens that are not kept disappear."""

from __future__ import annotations

from prunesearch.pruning.forward.assignment import Assignment
from prunesearch.pruning.merges.base import MergeInput


def drop(inputs: MergeInput) -> Assignment:
    """Tokens that are not kept disappear (PoWER-BERT, DynamicViT)."""
    chosen, _ = inputs.chosen
    return Assignment(chosen.kept, chosen.occupied)
