"""The state of ONE forward, apart from the model that runs it, and what families may know of who runs it.

A model that carries a schedule may run in many threads at once. So nothing that a forward leaves for its next block, or
for the head behind them, lies on the model or on the handle: it lies on a `ForwardState`, which `Threads` finds for the
thread that asks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import DECODER, ENCODER, TOWER, Stage
from prunesearch.pruning.attention import AttentionView
from prunesearch.pruning.decide import Rule, Scored
from prunesearch.pruning.forward.assignment import Assignment
from prunesearch.pruning.forward.past import Prompt
from prunesearch.pruning.forward.tokens import Tokens
from prunesearch.pruning.forward.trace import Trace
from prunesearch.pruning.forward.twins import Twin

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# block, hidden states `[batch, n, width]` and tokens -> sizes `[batch, n]` in (0, 1]; None: as they are
Soften = Callable[[int, Tensor, Tokens], "Tensor | None"]
_STATE, _CARRIER = "_prunesearch_state", "_prunesearch_handle"


@dataclass(frozen=True)
class Reductions:
    """A plan as blocks look it up: the rule of each block of a part that has one, which twins of modules run, what is
    left out; `tower` has the stages of a tower in front, as those of an encoder.

    Plans are asked, not imported: this goes into files that know of schedules alone.
    """

    given: Any
    schedule: Schedule
    rules: Mapping[str, Mapping[int, Rule]]
    variant: str = ""
    skips: frozenset[tuple[int, str]] = frozenset()
    tower: Reductions | None = None

    @classmethod
    def of(cls, given: Any) -> Reductions:
        """Those of a plan or a schedule."""
        schedule: Schedule = getattr(given, "schedule", given)
        rules: dict[str, dict[int, Rule]] = {}
        before: Stage | None = None
        stages = list(schedule)
        for i, stage in enumerate(stages):
            counted = before is not None and before.place.tokens_of == stage.place.tokens_of
            keep_before = before.keep if before is not None and counted else 1.0
            rules.setdefault(stage.place.part, {})[stage.layer] = Rule.of(stage, keep_before, stages[i + 1 :])
            before = stage
        of_tower = [stage.replace(layer=stage.layer) for stage in stages if stage.place.part == TOWER]
        tower = cls.of(Schedule(of_tower)) if of_tower else None
        return cls(given, schedule, rules, getattr(given, "variant", ""), getattr(given, "skips", frozenset()), tower)

    def rule(self, part: str, block: int) -> Rule | None:
        """That of a block of a part, if it has one; a stage whose part is not named is at a block of a decoder too."""
        named = ENCODER if part == DECODER and ENCODER in self.rules else part
        return self.rules[named].get(block) if named in self.rules else None

    def __reduce__(self) -> tuple[Any, ...]:
        return Reductions.of, (self.given,)  # a copy looks its rules up


@dataclass(frozen=True)
class Departure:
    """A stage of a forward: what it did, the states `[batch, n_in, width]` it was given, and which are valid.

    `valid` is bool `[batch, n_in]`; None where nothing is padding.
    """

    assignment: Assignment
    hidden: Tensor
    valid: Tensor | None


class Followed:
    """Position data of the tokens that one stage left, each worked out once for all blocks that follow.

    `place` `[batch, n]` is the input that each token continues.
    """

    def __init__(self, tokens: Tokens) -> None:
        if tokens.place is None:
            raise RuntimeError("the places of the tokens were not kept")
        self.tokens, self.place = tokens, tokens.place
        self._made: dict[int, tuple[Tensor, Tensor]] = {}

    def once(self, x: Tensor, make: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """`make(x, place)`, remembered for as long as blocks are given the same tensor."""
        known = self._made.get(id(x))
        if known is None:
            known = self._made[id(x)] = (x, make(x, self.place))  # x is held on to, so its id stays its own
        return known[1]


@dataclass
class ForwardState:
    """One run through the blocks.

    Args:
        reductions: what it does; another schedule set meanwhile is for the next forward.
        additive: whether attention wants numbers in a mask even where a boolean one would do.
        no_bias: whether attention takes no numbers in a mask at all.
        tokens: what flows, None until a stage has reduced.
        left: the position data of `tokens`.
        prompt: what is known of it where it is a decoder's.
        stages: of each stage that took some of a decoder's tokens, the first block that has fewer, and what was left.
        fresh: whether it began before its first block, which therefore begins no other.
        next: index of the block that comes next.
        looking: the attention module that is to leave its `view`.
        view: what it left, or what will make it.
        seen: what parts of an attention leave until its view can be made.
    """

    reductions: Reductions
    additive: bool = False
    no_bias: bool = False
    tokens: Tokens | None = None
    left: Followed | None = None
    prompt: Prompt | None = None
    stages: list[tuple[int, Tokens]] = field(default_factory=list)
    fresh: bool = False
    next: int = 0
    looking: nn.Module | None = None
    view: AttentionView | Callable[[], AttentionView] | None = None
    seen: dict[str, Tensor] = field(default_factory=dict)

    def rule(self, part: str, block: int) -> Rule | None:
        """What it does at a block; nothing in a decoder's forward that brings no tokens that may leave."""
        if self.prompt is not None and self.prompt.tokens is None:
            return None
        return self.reductions.rule(part, block)

    def take_view(self) -> AttentionView:
        """Return the view and forget it, so that no activation outlives its block."""
        view, self.view, self.looking = self.view, None, None
        if view is None:
            raise RuntimeError("the block's attention did not go through transformers' interface")
        return view() if callable(view) else view


class ThreadState:
    """What one thread is doing with one model.

    Attributes:
        forward: the latest; None before the first, and after one that failed.
        reductions: another plan than the handle's (`Handle.under`).
        variant: which twins of modules run (`leaves`); empty: the modules themselves.
        twins: blocks that run in the place of the model's own (`forward.twins`), by their numbers.
        watchers: called where a block begins, and at the other three borders of its halves; None: nobody watches.
        trace: what forwards are traced in.
        recorded: the inputs of the blocks of the latest forward, where they are observed.
        scored: what the stages of the latest forward went by, where they are asked.
        resume: the block at which forwards begin, and its input `[batch, tokens, width]`.
        departures: the stages of the latest forward, where a head needs every token back.
        soften: gives tokens of the unpruned model other sizes behind a block's attention (`Handle.softened`).
        real: bool `[batch, n_start]`, where a model's padding is not in its mask.
        mask: for an attention whose block passes no mask on.
        notes: what hooks around the blocks leave for each other within one call of the model.
    """

    def __init__(self, traced: bool) -> None:
        self.forward: ForwardState | None = None
        self.reductions: Reductions | None = None
        self.variant = ""
        self.twins: Mapping[int, Twin] = {}
        self.watchers: tuple[Callable[[], None], Callable[[], None]] | None = None
        self.trace: Trace | None = Trace() if traced else None
        self.recorded: list[Tensor] | None = None
        self.scored: list[Scored] | None = None
        self.resume: tuple[int, Tensor] | None = None
        self.departures: list[Departure] | None = None
        self.soften: Soften | None = None
        self.real: Tensor | None = None
        self.mask: Tensor | None = None
        self.notes: dict[str, Any] = {}

    @property
    def tokens(self) -> Tokens | None:
        """What flows in the latest forward, or what was left at its end; None if nothing was reduced."""
        return None if self.forward is None else self.forward.tokens

    @contextmanager
    def changed(self, **values: Any) -> Iterator[None]:
        """Within the block, attributes have these values."""
        before = {name: getattr(self, name) for name in values}
        try:
            for name, value in values.items():
                setattr(self, name, value)
            yield
        finally:
            for name, value in before.items():
                setattr(self, name, value)


class Threads(threading.local):
    """Finds the state of the calling thread, `state`. A copy, pickled ones too, starts with nothing.

    It is never set again: torch.compile follows what is put on plain objects alone.
    """

    def __init__(self, traced: bool = False) -> None:
        self.traced = traced
        self.state = ThreadState(traced)

    def __reduce__(self) -> tuple[Any, ...]:
        return Threads, (self.traced,)


class Host(Protocol):
    """What a family's attachments may know of the model that carries a schedule."""

    @property
    def base(self) -> PreTrainedModel:
        """The model without its head."""

    @property
    def cores(self) -> Sequence[nn.Module]:
        """The attention modules of its blocks, in order; one that serves several blocks is there several times."""

    @property
    def leading(self) -> int:
        """Protected tokens at the start of a row."""

    @property
    def state(self) -> ThreadState:
        """What the calling thread is doing with it."""

    @property
    def reduces(self) -> bool:
        """Whether forwards of the calling thread take tokens away."""

    @property
    def asks_tower(self) -> bool:
        """Whether a stage of the calling thread's forwards reads what a tower attended to."""

    @property
    def asks_frames(self) -> bool:
        """Whether a stage of the calling thread's forwards compares the frames of videos."""

    @property
    def left_by_tower(self) -> float:
        """The fraction of tokens that their stages in the tower leave; 1: all."""

    def in_tower(self) -> AbstractContextManager[ThreadState | None]:
        """Within the block, the tower's forwards take away what those stages say; yields what it is doing."""

    def start(self, *_: Any) -> None:
        """A forward begins, before the first of its blocks."""


def show_state(core: nn.Module, threads: Threads) -> None:
    """Let an attention module find the forward that it is in."""
    core.__dict__[_STATE] = threads


def hide_state(core: nn.Module) -> None:
    """Undo `show_state`."""
    core.__dict__.pop(_STATE, None)


def state_of(core: nn.Module) -> ThreadState | None:
    """The calling thread's state, if an attention module was shown it."""
    threads: Threads | None = getattr(core, _STATE, None)  # torch.compile does not notice core.__dict__ change
    return None if threads is None else threads.state


def looked_at(core: nn.Module) -> ForwardState | None:
    """The forward that an attention module is to leave its view with, if it is to."""
    state = state_of(core)
    forward = None if state is None else state.forward
    return forward if forward is not None and forward.looking is core else None


@contextmanager
def given_mask(core: nn.Module, mask: Tensor | None) -> Iterator[None]:
    """Within the block, attention that `core` asks for without a mask gets this one: some blocks pass none on."""
    state = state_of(core)
    if state is None:
        yield
        return
    with state.changed(mask=mask):
        yield


def mark_carrier(base: nn.Module, handle: object | None) -> None:
    """Note that the encoder `base` carries the schedule of `handle`; None: no more."""
    if handle is None:
        base.__dict__.pop(_CARRIER, None)
    else:
        base.__dict__[_CARRIER] = handle


def carrier_of(model: nn.Module) -> Any:
    """The handle that `model`, or a model inside it, was marked with, or None."""
    return next((m.__dict__[_CARRIER] for m in model.modules() if _CARRIER in m.__dict__), None)
