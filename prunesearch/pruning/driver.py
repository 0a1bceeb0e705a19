"""Running the blocks of an encoder under a schedule."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

from torch import Tensor, nn
from transformers import PreTrainedModel

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule, refuse_by_row
from prunesearch.core.plans.stage import DECODER, ENCODER, INPUT, TOWER, Stage
from prunesearch.core.tables.token_tables import MERGES
from prunesearch.pruning.attention import AttentionView
from prunesearch.pruning.decide import Rule
from prunesearch.pruning.families.find import Encoder
from prunesearch.pruning.forward.assignment import Assignment
from prunesearch.pruning.forward.beside import probes_of
from prunesearch.pruning.forward.constants import are_kept
from prunesearch.pruning.forward.mixed import MixedTokens, RowTokens, SoftTokens
from prunesearch.pruning.forward.state import (
    Departure,
    Followed,
    ForwardState,
    Reductions,
    Soften,
    Threads,
    ThreadState,
)
from prunesearch.pruning.forward.tokens import Tokens, key_validity
from prunesearch.pruning.interface import base_name

# kernels that take no additive mask, which proportional attention needs
NO_BIAS = ("flash_attention_2", "flash_attention_3", "flash_attention_4")
COMPILED = "a compiled model"
_NOTHING = Reductions.of(Schedule())
_BACKENDS = ("sdpa", "eager", *NO_BIAS)


class Driver:
    """Runs the blocks of `encoder`: each thread's forwards by themselves.

    Args:
        encoder: with its blocks; its layout may be changed.
        traced: whether forwards are traced where nothing else is said.
        seed: of the `random` scorer.
    """

    def __init__(self, encoder: Encoder, *, traced: bool, seed: int) -> None:
        self.encoder, self.seed = encoder, seed
        self.threads = Threads(traced)
        self.standing = Reductions.of(Schedule())
        self.installed, self.compiled = True, False
        self.tower: Driver | None = None  # of what makes a decoder's pictures
        self.places = encoder.family.positions is not None  # whether account is kept of the tokens' places
        # what a copy must have in it to be whole: any of these holds the encoder
        self.around: list[nn.Module] = [encoder.base]
        self._checked: tuple[str, Schedule] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What a copy has: the schedule in force here, and nothing of any forward."""
        return {**self.__dict__, "standing": self.reductions}

    def __deepcopy__(self, memo: dict[int, Any]) -> Driver:
        if not any(id(module) in memo for module in self.around):
            raise PruneSearchError(
                "a part of a model that carries a schedule cannot be copied by itself: copy the whole model, or call "
                "handle.remove() first"
            )
        twin = memo[id(self)] = Driver.__new__(Driver)
        twin.__dict__.update(copy.deepcopy(self.__getstate__(), memo))
        return twin

    # -- what attachments may know ---------------------------------------------------------------------

    @property
    def base(self) -> PreTrainedModel:
        """See `Host`."""
        return self.encoder.base

    @property
    def cores(self) -> Sequence[nn.Module]:
        """See `Host`."""
        return self.encoder.cores

    @property
    def leading(self) -> int:
        """See `Host`."""
        return self.encoder.leading

    @property
    def state(self) -> ThreadState:
        """See `Host`."""
        return self.threads.state

    @property
    def reduces(self) -> bool:
        """See `Host`."""
        return any(stage.keep < 1 or stage.by_row for stage in self.reductions.schedule)

    @property
    def asks_tower(self) -> bool:
        """See `Host`."""
        return any(stage.reads_tower for stage in self.reductions.schedule if stage.place.part != TOWER)

    @property
    def left_by_tower(self) -> float:
        """See `Host`."""
        return min((s.keep for s in self.reductions.schedule if s.place.part == TOWER), default=1.0)

    @contextmanager
    def in_tower(self) -> Iterator[ThreadState | None]:
        """See `Host`; who watches the blocks behind it watches the tower's too."""
        if self.tower is None:
            yield None
            return
        state, watchers = self.tower.state, self.state.watchers
        with state.changed(reductions=self.reductions.tower or _NOTHING, watchers=watchers):
            yield state
        if watchers is not None:
            watchers[1]()

    @property
    def asks_frames(self) -> bool:
        """See `Host`."""
        return any(stage.reads_frames for stage in self.reductions.schedule)

    # -- the schedule ----------------------------------------------------------------------------------

    @property
    def reductions(self) -> Reductions:
        """What the next forward of the calling thread does."""
        return self.state.reductions or self.standing

    @property
    def attention(self) -> str:
        """The implementation of attention that the model has now: it may be changed under a schedule."""
        return base_name(str(self.encoder.attention_config._attn_implementation))

    def check(self, schedule: Schedule) -> None:
        """Raise `PruneSearchError` if the model cannot run `schedule` with the attention it has."""
        attention = self.attention
        if self._checked == (attention, schedule):
            return
        front = Reductions.of(schedule).tower
        if front is not None and self.encoder.tower is None:
            kind, why = self.encoder.family.model_type, self.encoder.family.whole_tower
            raise PruneSearchError(f"no token of a '{kind}' can leave in its tower ({why}): use a stage at {INPUT}/0")
        schedule.check_parts(self.encoder.parts)
        self._check_merges(schedule)
        if attention not in _BACKENDS:
            raise PruneSearchError(
                f"attention must be one of {', '.join(_BACKENDS)}, but the model has '{attention}': "
                "load it with attn_implementation='sdpa'"
            )
        if attention in NO_BIAS:
            self._check_no_bias(schedule, attention)
        self._checked = (attention, schedule)

    def _check_merges(self, schedule: Schedule) -> None:
        merging = [s for s in schedule if MERGES.entry(s.merge).makes_sizes and s.place.part != TOWER]
        if merging and not self.encoder.family.merges:
            raise PruneSearchError(
                f"merge '{merging[0].merge}' would let tokens of a '{self.encoder.family.model_type}' see what comes "
                "after them: use drop, or contextual"
            )
        behind = self.encoder.family.part != ENCODER
        if behind or self.compiled:
            refuse_by_row(schedule, "a decoder" if behind else COMPILED)
        if behind and any(s.reads_tower for s in schedule if s.place.part != TOWER) and not self.encoder.family.tower:
            raise PruneSearchError(
                f"scorer 'tower_cls_attention' needs a tower whose patches are the tokens of a picture, one by one, "
                f"which a '{self.encoder.family.model_type}' has not: use text_attention"
            )
        if any(s.reads_frames for s in schedule) and not self.encoder.family.videos:
            raise PruneSearchError(
                f"selection 'frame_change' compares the frames of a video in the prompt of a decoder, which a "
                f"'{self.encoder.family.model_type}' is not known to read: use diversity"
            )
        asking = [s for s in schedule if s.place.part == INPUT and s.reads_attention]
        if asking:
            raise PruneSearchError(
                f"scorer '{asking[0].scorer}' reads the attention of a block, and there is none before the first: "
                f"use it at {DECODER}/0, or at {asking[0].place} key_norm, random or position_stride"
            )

    def _check_no_bias(self, schedule: Schedule, attention: str) -> None:
        merging = [s for s in schedule if MERGES.entry(s.merge).makes_sizes and s.place.part != TOWER]
        if merging:
            raise PruneSearchError(
                f"merge '{merging[0].merge}' needs `+ log(size)` on the keys, which {attention} cannot add: "
                "use merge='drop', or load the model with attn_implementation='sdpa'"
            )
        positions = self.encoder.family.positions
        if positions is not None and positions.in_mask and schedule.stages:
            raise PruneSearchError(
                f"relative positions go through the mask of '{self.encoder.family.model_type}', which "
                f"{attention} does not take: load the model with attn_implementation='sdpa'"
            )

    # -- the forward -----------------------------------------------------------------------------------

    def begin(self) -> ForwardState:
        """A forward begins: nothing is reduced."""
        state, reductions = self.state, self.reductions
        state.forward = None
        self.check(reductions.schedule)
        attention = self.attention
        state.forward = ForwardState(reductions, additive=attention == "eager", no_bias=attention in NO_BIAS)
        if state.trace is not None:
            state.trace.clear()
        if state.departures is not None:
            state.departures.clear()
        if state.recorded is not None:
            state.recorded.clear()
        if state.scored is not None:
            state.scored.clear()
        return state.forward

    def start(self, *_: Any) -> None:
        """As `begin`, as a hook on what runs the blocks: the first of them goes on with it."""
        self.begin().fresh = True

    def run(self, place: int | None, hidden_states: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute the block at `place`, in place of its own forward; None for one that serves several passes."""
        state, family = self.threads.state, self.encoder.family
        forward = self._entered(place)
        index = forward.next
        forward.next = index + 1
        kwargs.update(zip(("attention_mask", *family.positional), args, strict=False))
        mask = kwargs.pop("attention_mask", None)
        if state.resume is not None:
            start, hidden = state.resume
            if index < start:
                return family.returns(hidden_states, kwargs)
            if index == start:
                hidden_states = hidden
        if state.recorded is not None:
            state.recorded.append(hidden_states)
        if family.positions is not None:
            family.positions.prepare(self.encoder.blocks, hidden_states, kwargs)
        try:
            out = self.run_block(index, hidden_states, mask, kwargs)
        except BaseException:
            state.forward = None  # nothing of it is there for whoever comes next
            raise
        if index + 1 == self.encoder.depth:
            forward.left = None
        return family.returns(out, kwargs)

    def _entered(self, place: int | None) -> ForwardState:
        """The forward that goes on with the block at `place`, a new one at the first block; `next` is the block's."""
        state = self.threads.state
        forward = state.forward
        if place == 0 and forward is not None and forward.fresh:
            forward.fresh = False
            return forward
        if place == 0 or (forward is None and not place):
            return self.begin()
        expected = None if forward is None else forward.next
        if place is None:
            place = expected
        if forward is None or place is None or place < forward.next or place >= self.encoder.depth:
            raise PruneSearchError(
                f"block {place if place is not None else '?'} was run apart from a forward of its model (activation "
                "checkpointing around blocks does so): checkpoint the whole model, or remove the schedule"
            )
        forward.next = place
        return forward

    def run_block(self, index: int, x: Tensor, mask: Tensor | None, kwargs: dict[str, Any]) -> Tensor:
        """Compute block `index` on `x` `[batch, n, width]`, its stage included; `begin` comes before the first."""
        state = self.threads.state
        forward = state.forward or self.begin()
        block, family = self.encoder.blocks[index], self.encoder.family
        layout, watchers = family.layout, state.watchers
        if index == 0:
            x = self._reduce_input(forward, x, mask)
        own = state.twins.get(index)
        block, core = (block, self.encoder.cores[index]) if own is None else own
        rule, skips = forward.rule(family.part, index), forward.reductions.skips
        if watchers is not None:
            watchers[0]()
        if (index, "attention") not in skips:
            given_mask, given = self._for_tokens_left(forward, index, x, mask, kwargs)
            forward.looking = None if rule is None else core
            x = layout.attend(block, x, given_mask, given)
            if "weights" in given:
                kwargs["weights"] = given["weights"]
        if watchers is not None:
            watchers[1]()
        if rule is not None:
            x = self._reduce(forward, rule, forward.take_view(), x, mask, first=index + 1)
        if state.soften is not None:
            self._soften(forward, state.soften, index, x, mask)
        if watchers is not None:
            watchers[1]()
        if (index, "mlp") not in skips:
            x = layout.feed(block, x)
        if watchers is not None:
            watchers[1]()
        return x

    def _reduce_input(self, forward: ForwardState, x: Tensor, mask: Tensor | None) -> Tensor:
        """Carry out a stage before the first block, to which the features are queries, keys and values of one head.

        What left in the tower leaves first.
        """
        watchers = self.threads.state.watchers
        if self.tower is not None and watchers is not None:
            watchers[1]()
        prompt = forward.prompt
        if prompt is not None and prompt.gone is not None and prompt.tokens is not None:
            assignment, now = prompt.tokens.without(prompt.gone)
            stage = [s for s in forward.reductions.schedule if s.place.part == TOWER][-1]
            self._note(stage, assignment, prompt.tokens, x)
            x, left = assignment.apply(x, prompt.tokens)
            forward.tokens = cast(MixedTokens, left).having(now)
            forward.stages.append((0, forward.tokens))
        rule = forward.rule(INPUT, 0)
        if rule is None:
            return x
        one = x[:, None]
        return self._reduce(forward, rule, AttentionView(one, one, one, None, 1.0, None), x, mask, first=0)

    def _for_tokens_left(
        self, forward: ForwardState, index: int, x: Tensor, mask: Tensor | None, kwargs: dict[str, Any]
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """The mask and the arguments of the next attention: the model's own until a stage has reduced."""
        tokens, positions, prompt = forward.tokens, self.encoder.family.positions, forward.prompt
        block = self.encoder.blocks[index]
        if tokens is None:
            if prompt is not None and prompt.past is not None:
                cache = kwargs["cache"]
                mask = prompt.past.mask(index, x, cache, prompt.padding, forward.additive)
            return mask, kwargs
        keys = tokens.real if forward.no_bias else tokens.attention_mask(x.dtype, additive=forward.additive)
        if positions is None:
            return keys, kwargs
        if forward.left is None or forward.left.tokens is not tokens:
            forward.left = Followed(tokens)
        return positions.follow(block, forward.left, keys, mask, kwargs)

    def _reduce(
        self, forward: ForwardState, rule: Rule, view: AttentionView, x: Tensor, mask: Tensor | None, *, first: int
    ) -> Tensor:
        """Carry out a stage on `x` `[batch, n, width]`; returns `[batch, n_out, width]` for blocks from `first` on."""
        state, tokens = self.threads.state, forward.tokens
        if tokens is None:
            prompt = forward.prompt
            tokens = self._start(x, mask) if prompt is None or prompt.tokens is None else prompt.tokens
        if rule.by_row:
            if not are_kept(x):
                refuse_by_row([rule.stage], "a graph")
            kind = RowTokens if state.soften is None else SoftTokens
            tokens = tokens if tokens.by_row else kind.of(tokens)
        if not tokens.gives(rule.keep_before, rule.keep):
            return x
        family = self.encoder.family
        if family.positions is None and view.mask is not None and view.mask.shape[-2] != 1:
            view.mask = view.mask[..., :1, :]  # the same for all queries, as `key_validity` takes it to be
        place = self.encoder.depth, self.seed, family.cls
        probe = self._probe(rule.stage) if rule.learned else None
        order, seen = family.keeps_order, state.scored
        assignment = rule.decide(tokens, view, *place, in_order=order, features=x, probe=probe, seen=seen)
        if assignment is None:
            return x
        self._note(rule.stage, assignment, tokens, x)
        x, left = assignment.apply(x, tokens)
        forward.tokens = left.kept(rule.keep)
        forward.stages.append((first, forward.tokens))
        return x

    def _note(self, stage: Stage, assignment: Assignment, tokens: Tokens, x: Tensor) -> None:
        """Let those who look on know of a stage."""
        state = self.threads.state
        if state.trace is not None:
            state.trace.add(stage, assignment, tokens, x)
        if state.departures is not None:
            state.departures.append(Departure(assignment, x, tokens.valid))

    def _soften(self, forward: ForwardState, soften: Soften, index: int, x: Tensor, mask: Tensor | None) -> None:
        """Let tokens count as `soften` says, for every attention that follows."""
        tokens = forward.tokens or self._start(x, mask)
        size = soften(index, x, tokens)
        if size is not None:
            forward.tokens = replace(tokens, size=size)

    def _probe(self, stage: Stage) -> dict[str, Tensor] | None:
        """The weights of a stage's scorer, where it is a learned one."""
        own = self.encoder.family.part == stage.place.part == ENCODER
        held = probes_of(self.around) if own else None
        return None if held is None else held.of(stage.scorer, stage.layer)

    def _start(self, x: Tensor, mask: Tensor | None) -> Tokens:
        encoder, positions, real = self.encoder, self.encoder.family.positions, self.state.real
        if positions is not None:
            mask = positions.padding(x, mask)
        if real is not None:
            mask = real if mask is None else real & key_validity(mask, *x.shape[:2])
        return Tokens.start(x, mask, encoder.leading, encoder.family.trailing, with_places=self.places)
