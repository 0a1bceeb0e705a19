"""What one stage does with the tokens that come: score, select, merge; each by a row of its table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from prunesearch.core.plans.stage import Stage
from prunesearch.core.tables.token_tables import MERGES, SCORERS, SELECTIONS
from prunesearch.pruning.attention import AttentionView
from prunesearch.pruning.forward.assignment import Assignment
from prunesearch.pruning.forward.tokens import Tokens
from prunesearch.pruning.merges.base import MergeInput
from prunesearch.pruning.scorers.base import ScorerInput
from prunesearch.pruning.selections.base import Chosen, SelectionInput


@dataclass(frozen=True)
class Rule:
    """A stage and what carries it out, looked up once.

    `keep_before` is the fraction that left the stage before it; `order_read` says whether a stage behind it asks in
    which order tokens stand, `learned` whether the scorer has weights.
    """

    stage: Stage
    keep_before: float
    order_read: bool
    score: Callable[[ScorerInput], Tensor] | None
    select: Callable[[SelectionInput], Chosen] | None
    merge: Callable[[MergeInput], Assignment]
    learned: bool = False

    @cached_property
    def params(self) -> tuple[Mapping[str, float], Mapping[str, float], Mapping[str, float]]:
        """Those of the scorer, the selection and the merge, defaults included."""
        return self.stage.scorer_params, self.stage.selection_params, self.stage.merge_params

    @classmethod
    def of(cls, stage: Stage, keep_before: float, later: Sequence[Stage]) -> Rule:
        """That of a stage, with the stages behind it."""
        read = any(reads_order(other) for other in later)
        merge, scored = MERGES.load(stage.merge), MERGES.entry(stage.merge).uses_scores
        if not scored:
            return cls(stage, keep_before, read, None, None, merge)
        score, learned = SCORERS.load(stage.scorer), SCORERS.entry(stage.scorer).learned
        return cls(stage, keep_before, read, score, SELECTIONS.load(stage.selection), merge, learned)

    def decide(
        self,
        tokens: Tokens,
        view: AttentionView,
        depth: int,
        seed: int,
        cls: int | None,
        *,
        in_order: bool,
        features: Tensor | None = None,
        probe: Mapping[str, Tensor] | None = None,
    ) -> Assignment:
        """Decide what becomes of `tokens`, by the attention of the block they are in.

        Args:
            tokens: what there is.
            view: of the attention of the block.
            depth: number of blocks of the model.
            seed: of the `random` scorer.
            cls: see `ScorerInput`.
            in_order: whether the order of tokens means something to the model.
            features, probe: see `ScorerInput`.
        """
        stage, keep = self.stage, self.stage.keep
        n_out = tokens.width_after(keep)
        of_scorer, of_selection, of_merge = self.params
        score = selection = None
        if self.score is not None and self.select is not None:
            place = stage.layer, depth, seed, cls
            score = self.score(ScorerInput(view, tokens, keep, *place, of_scorer, features, probe))
            asked = tokens, view, score, keep, n_out, of_selection, in_order or self.order_read
            selection = self.select(SelectionInput(*asked))
        merging = tokens, view, score, selection, keep, self.keep_before, n_out
        return self.merge(MergeInput(*merging, of_merge, in_order))


def reads_order(stage: Stage) -> bool:
    """Whether a stage asks in which order tokens stand."""
    merge = MERGES.entry(stage.merge)
    return not merge.order_free or (merge.uses_scores and not SCORERS.entry(stage.scorer).order_free)
