"""What one stage does with the tokens that come: score, select, merge; each by a row of its table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from prunesearch.core.plans.stage import Stage
from prunesearch.core.tables.token_tables import MERGES, ROW_COUNTS, SCORERS, SELECTIONS
from prunesearch.pruning.attention import AttentionView
from prunesearch.pruning.forward.assignment import Assignment
from prunesearch.pruning.forward.constants import at_the_ends, constant, places
from prunesearch.pruning.forward.tokens import Tokens, left_of, wide
from prunesearch.pruning.merges.base import MergeInput
from prunesearch.pruning.scorers.base import ScorerInput
from prunesearch.pruning.selections.base import Chosen, SelectionInput


@dataclass(frozen=True)
class Scored:
    """What a stage went by: scores `[batch, n]`, with gradients where the forward has them, and what they count of."""

    stage: Stage
    score: Tensor
    reducible: Tensor


@dataclass(frozen=True)
class Rule:
    """A stage and what carries it out, looked up once.

    `keep_before` is the fraction that left the stage before it; `order_read` says whether a stage behind it asks in
    which order tokens stand, `learned` whether the scorer has weights, `fixed` whether what leaves hangs on the lengths
    of rows alone.
    """

    stage: Stage
    keep_before: float
    order_read: bool
    score: Callable[[ScorerInput], Tensor] | None
    select: Callable[[SelectionInput], Chosen | None] | None
    merge: Callable[[MergeInput], Assignment]
    learned: bool = False
    fixed: bool = False

    @cached_property
    def keep(self) -> float:
        """The stage's."""
        return self.stage.keep

    @cached_property
    def by_row(self) -> bool:
        """See `Stage`."""
        return self.stage.by_row

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
        scorer, selection = SCORERS.entry(stage.scorer), SELECTIONS.entry(stage.selection)
        fixed = scorer.by_place and selection.reads_scores and MERGES.entry(stage.merge).loses
        counts = stage.amount.counts
        select = ROW_COUNTS.load(counts) if counts else SELECTIONS.load(stage.selection)
        loaded = SCORERS.load(stage.scorer), select, merge
        return cls(stage, keep_before, read, *loaded, scorer.learned, fixed)

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
        seen: list[Scored] | None = None,
    ) -> Assignment | None:
        """Decide what becomes of `tokens`, by the attention of the block they are in.

        Args:
            tokens: what there is.
            view: of the attention of the block.
            depth: number of blocks of the model.
            seed: of the `random` scorer.
            cls: see `ScorerInput`.
            in_order: whether the order of tokens means something to the model.
            features, probe: see `ScorerInput`.
            seen: what the scores are added to.

        Returns:
            None where each row keeps all that it has, which only a stage by row finds out.
        """
        place, keep = (depth, seed, cls), self.keep
        if self.fixed and tokens.by_length_alone:
            return self._fixed(tokens, view, *place, in_order=in_order)
        score = selection = None
        if self.score is not None and self.select is not None:
            score, selection = self._chosen(tokens, view, *place, in_order, features, probe)
            if seen is not None:
                seen.append(Scored(self.stage, score, tokens.reducible))
            if selection is None:
                return None
        n_out = tokens.width_after(keep) if selection is None else selection.n_out
        merging = tokens, view, score, selection, keep, self.keep_before, n_out
        return self.merge(MergeInput(*merging, self.params[2], in_order))

    def _chosen(
        self,
        tokens: Tokens,
        view: AttentionView,
        depth: int,
        seed: int,
        cls: int | None,
        in_order: bool,
        features: Tensor | None = None,
        probe: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, Chosen | None]:
        """Scores, and what is selected by them; see `decide`."""
        if self.score is None or self.select is None:
            raise TypeError("a merge that asks for no scores is given none")
        keep, (of_scorer, of_selection, _) = self.keep, self.params
        place = self.stage.layer, depth, seed, cls
        score = self.score(ScorerInput(view, tokens, keep, *place, of_scorer, features, probe))
        asked = tokens, view, score, keep, tokens.width_after(keep), of_selection, in_order or self.order_read
        return score, self.select(SelectionInput(*asked, self.stage.amount.number))

    def _fixed(
        self, tokens: Tokens, view: AttentionView, depth: int, seed: int, cls: int | None, *, in_order: bool
    ) -> Assignment:
        """What `decide` comes to where it is known of each length of a row: looked up."""
        width = tokens.n, tokens.n_start, tokens.leading, tokens.trailing
        asked = self, wide(view.query.dtype), depth, seed, cls, in_order, width
        counts = tokens.row_counts(self.keep)
        if counts is None:
            return Assignment(_kept_of_full_rows(tokens.like, *asked).expand(tokens.like.shape[0], -1))
        kept = _kept_of_every_length(tokens.like, *asked).index_select(0, tokens.started)
        if tokens.keep_left is None:  # padding may be anywhere
            kept = torch.searchsorted(tokens.ordinal, kept + 1).clamp(max=tokens.n - 1)
        return Assignment(kept, places(kept, kept.shape[1]) < counts[:, None])


@constant
def _kept_of_full_rows(device: torch.device, rule: Rule, dtype: torch.dtype, *asked: Any) -> Tensor:
    """`[1, n_out]` tokens that a rule keeps of every row, where none has padding."""
    *place, (n, n_start, leading, trailing) = asked
    ends = at_the_ends(torch.empty(0, device=device), n, leading, trailing)
    return _kept(rule, Tokens(n, n_start, leading, trailing, ends), dtype, *place)


@constant
def _kept_of_every_length(device: torch.device, rule: Rule, dtype: torch.dtype, *asked: Any) -> Tensor:
    """`[n_start + 1, n_out]` tokens that a rule keeps of rows of every length at the start; padding is behind."""
    *place, (n, n_start, leading, trailing) = asked
    length = torch.arange(n_start + 1, device=device)
    now = left_of(length, rule.keep_before, n_start, leading + trailing)
    valid = places(length, n) < now[:, None]
    tokens = Tokens(n, n_start, leading, trailing, valid=valid, row_start=length, keep_left=rule.keep_before)
    return _kept(rule, tokens, dtype, *place)


def _kept(rule: Rule, tokens: Tokens, dtype: torch.dtype, *place: Any) -> Tensor:
    nothing = torch.empty(1, 1, 1, 1, dtype=dtype, device=tokens.like.device)
    chosen = rule._chosen(tokens, AttentionView(nothing, nothing, nothing, None, 1.0, None), *place)[1]
    if chosen is None:
        raise TypeError("a stage whose rows have counts of their own is looked up by the lengths of rows")
    return chosen.kept


def reads_order(stage: Stage) -> bool:
    """Whether a stage asks in which order tokens stand."""
    merge, rows = MERGES.entry(stage.merge), (SCORERS.entry(stage.scorer), SELECTIONS.entry(stage.selection))
    return not merge.order_free or (merge.uses_scores and not all(row.order_free for row in rows))
