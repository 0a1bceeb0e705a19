"""`ps.fit_plan`: the weights that a plan's changes of halves of blocks are fitted with, outside of a search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from prunesearch.compress.fits import Fits, fit_changes
from prunesearch.core.plans.plan import Plan
from prunesearch.pruning.apply import apply_
from prunesearch.pruning.families.find import find_encoder


def fit_plan(model: nn.Module, plan: Plan, batches: Iterable[Mapping[str, Tensor]]) -> Fits:
    """Fit what a plan makes of halves of blocks (`width`, `rank`) to calibration rows, without labels.

        fits = ps.fit_plan(model, plan, batches)
        handle = ps.apply_(model, plan, fits=fits)

    Args:
        model: unpruned; left as it is.
        plan: its changes of halves are fitted.
        batches: what the model takes, a few hundred rows in all, without padding where that can be.

    Raises:
        PruneSearchError: for a block that a change does not fit.
        UnsupportedModelError: if the model's family is unknown.
    """
    encoder, rows = find_encoder(model), list(batches)

    def forwards() -> None:
        for batch in rows:
            model(**batch)

    fits = fit_changes(encoder.blocks, encoder.family.layout.core, list(plan.halves.values()), forwards)
    with apply_(model, Plan(changes=plan.changes), fits=fits):  # refused here, where a model cannot take it
        return fits
