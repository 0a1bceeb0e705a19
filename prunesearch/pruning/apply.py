"""`apply_`: put a schedule into a model, in place, and take it out again exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plan import Plan
from prunesearch.core.registry import MERGES, SCORERS
from prunesearch.core.schedule import Schedule
from prunesearch.core.stage import Stage, parse_method
from prunesearch.pruning.assignment import Assignment
from prunesearch.pruning.attention import AttentionView, attention_name, base_name, close_slot, open_slot, slot_of
from prunesearch.pruning.compiled import CompiledLayout
from prunesearch.pruning.families.find import find_encoder
from prunesearch.pruning.families.positions import Followed
from prunesearch.pruning.families.restoring import Departure, restore_places
from prunesearch.pruning.merges import MergeInput
from prunesearch.pruning.scorers import ScorerInput
from prunesearch.pruning.tokens import Tokens, key_validity
from prunesearch.pruning.trace import Trace

_HANDLE = "_prunesearch_handle"
# kernels that take no additive mask, which proportional attention needs
NO_BIAS = ("flash_attention_2", "flash_attention_3", "flash_attention_4")
_BACKENDS = ("sdpa", "eager", *NO_BIAS)


def apply_(model: nn.Module, schedule: Schedule | Plan, *, trace: bool = False, seed: int = 0) -> Handle:
    """Reduce tokens inside `model` from now on, as `schedule` says. In place; undone by `handle.remove()`.

    A head that answers for every token (`restoring.RESTORED`: tags, spans, CTC) is given all of them, put back in their
    places; any other reads the tokens that are left.

    Training works, but gradient checkpointing saves no memory while a schedule is applied: transformers wraps the
    forward of the block's class, which the handle stands in for.

    Args:
        model: a supported transformers model (`prunesearch.pruning.families.find`), or a module that contains one.
        schedule: the stages, or a plan that has nothing else; an empty schedule leaves the computation as it was.
        trace: keep, for the latest forward, which inputs every surviving token holds (`handle.trace`).
        seed: of the `random` scorer.

    Returns:
        The handle that takes other schedules (`set`) and undoes everything (`remove`).

    Raises:
        UnsupportedModelError: if the model's family is unknown.
        PruneSearchError: if the model already carries a schedule, the schedule does not fit it, or the plan changes
            more than tokens.
    """
    return Handle(model, Plan.of(schedule).tokens_only, trace=trace, seed=seed)


def handle_of(model: nn.Module) -> Handle | None:
    """Return the handle of the schedule that `model` (or a model inside it) carries, or None."""
    for module in model.modules():
        handle = module.__dict__.get(_HANDLE)
        if isinstance(handle, Handle):
            return handle
    return None


def runnable(methods: Iterable[str], attention: str) -> list[str]:
    """The methods that an attention implementation can run: flash kernels cannot add `log(size)` to the keys."""
    if attention not in NO_BIAS:
        return list(methods)
    return [m for m in methods if not MERGES.entry(parse_method(m)[1]).makes_sizes]


class Handle:
    """A schedule at work in a model. `trace` describes the latest forward if it was asked for, `tokens` its end."""

    def __init__(self, model: nn.Module, schedule: Schedule, *, trace: bool = False, seed: int = 0) -> None:
        self.encoder = find_encoder(model)
        if handle_of(model) is not None:
            raise PruneSearchError(
                "the model already carries a schedule: use handle.set(schedule), or handle.remove() first"
            )
        self._config = self.encoder.attention_config
        self._attention = base_name(self._config._attn_implementation)  # another model may share the config
        self._check(schedule)
        self.seed = seed
        self.trace: Trace | None = Trace() if trace else None
        self.tokens: Tokens | None = None
        self.departures: list[Departure] | None = None  # of this forward, where a head needs every token back
        self.recorded: list[Tensor] | None = None
        self.real: Tensor | None = None  # [batch, n_start], where a model's padding is not in its mask
        self._resume: tuple[int, Tensor] | None = None
        self._next = 0
        self._left: Followed | None = None
        self._stages: dict[int, Stage] = {}
        self._keep_before: dict[int, float] = {}
        self._slots: dict[int, Any] = {}
        self.schedule = schedule
        self._config._attn_implementation = {"": attention_name(self._attention)}  # of it alone, not of its parts
        # a forward of the block's own, such as accelerate's, comes back with remove()
        self._forwards = {block: block.__dict__.get("forward") for block in self.encoder.blocks}
        for block in self._forwards:
            places = [i for i, other in enumerate(self.encoder.blocks) if other is block]
            block.forward = partial(self._forward, places[0] if len(places) == 1 else None)
        self.encoder.base.__dict__[_HANDLE] = self
        self._undos = [attach(self, model) for attach in (*self.encoder.family.attachments, restore_places)]
        self._undos.append(self._attach_start())
        self.set(schedule)

    def set(self, schedule: Schedule) -> None:
        """Put another schedule in place of the present one; the model itself is not touched again."""
        self._check(schedule)
        for layer in self._slots:
            close_slot(self.encoder.cores[layer])
        before = [1.0, *(s.keep for s in schedule)]
        self.schedule = schedule
        self._stages = {s.layer: s for s in schedule}
        self._keep_before = {s.layer: k for s, k in zip(schedule, before, strict=False)}
        self._slots = {s.layer: open_slot(self.encoder.cores[s.layer]) for s in schedule}

    def compile(self) -> None:
        """Compile the halves of every block with `torch.compile`, for fixed shapes; `remove` undoes it."""
        encoder = self.encoder
        if not isinstance(encoder.family.layout, CompiledLayout):
            layout = CompiledLayout(encoder.family.layout)
            self.encoder = replace(encoder, family=replace(encoder.family, layout=layout))

    def remove(self) -> None:
        """Undo `apply_`: the model computes, bit for bit, what it did before. Safe to call twice."""
        if self.encoder.base.__dict__.get(_HANDLE) is not self:
            return
        for layer in self._slots:
            close_slot(self.encoder.cores[layer])
        for block, forward in self._forwards.items():
            del block.forward
            if forward is not None:
                block.forward = forward
        for undo in self._undos:
            undo()
        self._config._attn_implementation = {"": self._attention}
        del self.encoder.base.__dict__[_HANDLE]

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    @contextmanager
    def record_inputs(self) -> Iterator[list[Tensor]]:
        """Within the block, `[batch, tokens, width]` inputs of every block of the latest forward are collected."""
        self.recorded = []
        try:
            yield self.recorded
        finally:
            self.recorded = None

    @contextmanager
    def resume_at(self, layer: int, hidden: Tensor) -> Iterator[None]:
        """Within the block, forwards skip the blocks before `layer` and give it `hidden` as its input.

        `hidden` must come from a forward on the same inputs without a stage before `layer` (`record_inputs`).
        """
        self._resume = (layer, hidden)
        try:
            yield
        finally:
            self._resume = None

    def _check(self, schedule: Schedule) -> None:
        schedule.check_depth(self.encoder.depth)
        if self._attention not in _BACKENDS:
            raise PruneSearchError(
                f"attention must be one of {', '.join(_BACKENDS)}, but the model has '{self._attention}': "
                "load it with attn_implementation='sdpa'"
            )
        if self._attention in NO_BIAS:
            merging = [s for s in schedule if MERGES.entry(s.merge).makes_sizes]
            if merging:
                raise PruneSearchError(
                    f"merge '{merging[0].merge}' needs `+ log(size)` on the keys, which {self._attention} cannot add: "
                    "use merge='drop', or load the model with attn_implementation='sdpa'"
                )
            positions = self.encoder.family.positions
            if positions is not None and positions.in_mask and schedule.stages:
                raise PruneSearchError(
                    f"relative positions go through the mask of '{self.encoder.family.model_type}', which "
                    f"{self._attention} does not take: load the model with attn_implementation='sdpa'"
                )

    # -- the forward ---------------------------------------------------------------------------------

    @property
    def additive(self) -> bool:
        """Whether attention wants numbers in a mask even where a boolean one would do."""
        return self._attention == "eager"

    def _attach_start(self) -> Callable[[], None]:
        path = self.encoder.family.start
        if path is None:
            return lambda: None
        return self.encoder.base.get_submodule(path).register_forward_pre_hook(lambda *_: self._begin()).remove

    def _begin(self) -> None:
        """A forward begins: nothing is reduced."""
        self.tokens, self._left, self._next = None, None, 0
        if self.trace is not None:
            self.trace.clear()
        if self.departures is not None:
            self.departures = []

    def _forward(self, place: int | None, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Stand in for the forward of the block at `place`; None for a block that serves several, one after another."""
        index, family = self._next if place is None else place, self.encoder.family
        if index == 0 or (self._resume is not None and index == self._resume[0]):
            self._begin()
        self._next = index + 1
        kwargs.update(zip(("attention_mask", *family.positional), args, strict=False))
        mask = kwargs.pop("attention_mask", None)
        if self._resume is not None:
            start, hidden = self._resume
            if index < start:
                return family.returns(hidden_states, kwargs)
            if index == start:
                hidden_states = hidden
        if self.recorded is not None:
            if index == 0:
                self.recorded.clear()
            self.recorded.append(hidden_states)
        if family.positions is not None:
            family.positions.prepare(self.encoder.blocks, hidden_states, kwargs)
        return family.returns(self.run_block(index, hidden_states, mask, kwargs), kwargs)

    def run_block(self, index: int, x: Tensor, mask: Tensor | None, kwargs: dict[str, Any]) -> Tensor:
        """Compute block `index` on `x` `[batch, n, width]`, its stage included; keeps `self.tokens` up to date."""
        block, layout = self.encoder.blocks[index], self.encoder.family.layout
        given_mask, given = self._for_tokens_left(block, x, mask, kwargs)
        x = layout.attend(block, x, given_mask, given)
        if "weights" in given:
            kwargs["weights"] = given["weights"]
        stage, slot = self._stages.get(index), slot_of(self.encoder.cores[index])
        if stage is not None:
            x = self.reduce(stage, x, mask, self._slots[index].take())
        elif slot is not None:  # of another pass through the same block
            slot.view = None
        return layout.feed(block, x)

    def _for_tokens_left(
        self, block: nn.Module, x: Tensor, mask: Tensor | None, kwargs: dict[str, Any]
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """The mask and the arguments of the next attention: the model's own until a stage has reduced."""
        keys, positions, tokens = self.block_mask(x, mask), self.encoder.family.positions, self.tokens
        if positions is None or tokens is None:
            return keys, kwargs
        if self._left is None or self._left.tokens is not tokens:
            self._left = Followed(tokens)
        return positions.follow(block, self._left, keys, mask, kwargs)

    def block_mask(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        """The mask for the next attention: the model's own until a stage has reduced, then that of the tokens left."""
        if self.tokens is None:
            return mask
        if self._attention in NO_BIAS:
            return self.tokens.valid
        return self.tokens.attention_mask(x.dtype, additive=self.additive)

    def reduce(self, stage: Stage, x: Tensor, mask: Tensor | None, view: AttentionView) -> Tensor:
        """Carry out `stage` on `x` `[batch, n, width]`; returns `[batch, n_out, width]` and updates `self.tokens`."""
        tokens = self.tokens
        if tokens is None:
            tokens = self._start(x, mask)
        if not tokens.gives(self._keep_before[stage.layer], stage.keep):
            return x
        n_out = tokens.width_after(stage.keep)
        assignment = self._decide(stage, tokens, view, n_out)
        if self.trace is not None:
            self.trace.add(stage, assignment, tokens, x)
        if self.departures is not None:
            self.departures.append(Departure(assignment, x, tokens.valid))
        self.tokens = assignment.advance(tokens)
        return assignment.features(x)

    def _start(self, x: Tensor, mask: Tensor | None) -> Tokens:
        encoder, positions = self.encoder, self.encoder.family.positions
        if positions is not None:
            mask = positions.padding(x, mask)
        if self.real is not None:
            mask = self.real if mask is None else self.real & key_validity(mask, *x.shape[:2])
        return Tokens.start(x, mask, encoder.leading, encoder.family.trailing, places=positions is not None)

    def _decide(self, stage: Stage, tokens: Tokens, view: AttentionView, n_out: int) -> Assignment:
        score: Tensor | None = None
        if MERGES.entry(stage.merge).uses_scores:
            score = SCORERS.load(stage.scorer)(self._scorer_input(stage, tokens, view, n_out))
        merge_input = MergeInput(
            tokens=tokens,
            attention=view,
            score=score,
            keep=stage.keep,
            keep_before=self._keep_before[stage.layer],
            n_out=n_out,
            params=stage.merge_params,
        )
        assignment: Assignment = MERGES.load(stage.merge)(merge_input)
        return assignment

    def _scorer_input(self, stage: Stage, tokens: Tokens, view: AttentionView, n_out: int) -> ScorerInput:
        counts = tokens.row_counts(stage.keep)
        keep: int | Tensor = n_out - tokens.n_protected
        if counts is not None:
            keep = counts - tokens.protected.sum(1)
        return ScorerInput(
            attention=view,
            tokens=tokens,
            keep=keep,
            layer=stage.layer,
            depth=self.encoder.depth,
            seed=self.seed,
            cls=self.encoder.family.cls,
            params=stage.scorer_params,
        )
