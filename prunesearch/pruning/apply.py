"""`apply_`: put a plan into a model, in place, and take it out again exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule, refuse_by_row
from prunesearch.core.plans.stage import ENCODER, Stage, parse_method
from prunesearch.core.tables.token_tables import MERGES
from prunesearch.pruning.decide import Scored
from prunesearch.pruning.driver import COMPILED, NO_BIAS, Driver
from prunesearch.pruning.families.blocks import Layout
from prunesearch.pruning.families.compiled import CompiledLayout
from prunesearch.pruning.families.find import Encoder, find_reduced
from prunesearch.pruning.families.restoring import restore_places
from prunesearch.pruning.families.surroundings import check_surroundings, holders
from prunesearch.pruning.forward.leaves import Leaves
from prunesearch.pruning.forward.state import (
    Departure,
    Reductions,
    Soften,
    carrier_of,
    hide_state,
    mark_carrier,
    show_state,
)
from prunesearch.pruning.forward.tokens import Tokens
from prunesearch.pruning.forward.trace import Trace
from prunesearch.pruning.forward.twins import Fits, Twins
from prunesearch.pruning.hooks import Hooks
from prunesearch.pruning.interface import ObservedConfig

if TYPE_CHECKING:
    from prunesearch.core.plans.plan import Plan


def apply_(
    model: nn.Module,
    schedule: Schedule | Plan | Iterable[Stage],
    *,
    trace: bool = False,
    seed: int = 0,
    fits: Fits | None = None,
) -> Handle:
    """Reduce tokens inside `model` from now on, as `schedule` says. In place; undone by `handle.remove()`.

    A plan may change the model too (`Plan.changes`): its weights are converted once, into twins of its modules that run
    in their place, and stay as they are, so that everything is undone to the last bit. Twins follow weights that are
    changed or moved, but not what is written through `.data`, which torch does not count: apply the plan anew then.

    A head that answers for every token (`restoring.RESTORED`: tags, spans, CTC) is given all of them, put back in their
    places; any other reads the tokens that are left.

    The model may run in several threads at once. A copy of it (`copy.deepcopy`, `pickle`, `torch.save`) carries the
    schedule by itself, with a handle of its own (`handle_of(copy)`).

    Training works, but gradient checkpointing saves no memory while a schedule is applied: transformers wraps the
    forward of the block's class, which the handle stands in for.

    Args:
        model: a supported transformers model (`prunesearch.pruning.families.find`), or a module that contains one.
        schedule: a `Plan`, or its stages alone, as a `Schedule` or a list of them; an empty one leaves the computation
            as it was.
        trace: keep, for the latest forward, which inputs every surviving token holds (`handle.trace`).
        seed: of the `random` scorer.
        fits: weights that were fitted for changes of halves of blocks (`width`, `rank`), as `load_fits` reads them.

    Returns:
        The handle that takes other schedules (`set`, `under`) and undoes everything (`remove`).

    Raises:
        UnsupportedModelError: if the model's family is unknown.
        PruneSearchError: if the model already carries a schedule, the schedule does not fit it, or the plan has weights
            of its own.
    """
    return Handle(model, schedule, trace=trace, seed=seed, fits=fits)


def handle_of(model: nn.Module) -> Handle | None:
    """Return the handle of the schedule that `model` (or a model inside it) carries, or None."""
    found = carrier_of(model)
    return found if isinstance(found, Handle) else None


def runnable(methods: Iterable[str], attention: str) -> list[str]:
    """The methods that an attention implementation can run: flash kernels cannot add `log(size)` to the keys."""
    if attention not in NO_BIAS:
        return list(methods)
    return [m for m in methods if not MERGES.entry(parse_method(m)[1]).makes_sizes]


def twins_of(encoder: Encoder, around: Sequence[nn.Module], fits: Fits | None = None) -> Twins:
    """Those of an encoder's blocks; `around`: the modules that have it in them (`holders`)."""
    bound = getattr(encoder.family.positions, "by_head", "")
    found = Twins(encoder.blocks, encoder.family.layout.core, bound, around)
    found.fits.update(fits or {})
    return found


class Handle:
    """A plan at work in a model: puts it in and takes it out; the model's own `Driver` runs the blocks.

    Attributes:
        tower: of what makes a decoder's pictures, where stages may be in it; it does what this one says.

    What forwards leave (`tokens`, `trace`) and what `under`, `traced`, `observing` and `resuming` change is of the
    calling thread: others go on as they were.
    """

    def __init__(
        self, model: nn.Module, schedule: Any, *, trace: bool = False, seed: int = 0, fits: Fits | None = None
    ) -> None:
        encoder, schedule = find_reduced(model), as_planned(schedule)
        if carrier_of(model) is not None:  # of this package, or of an exported file
            raise PruneSearchError(
                "the model already carries a schedule: use handle.set(schedule), or handle.remove() first"
            )
        check_surroundings(model, encoder.base)
        self._driver = Driver(encoder, traced=trace, seed=seed)
        self._hooks = Hooks()
        self.tower: Handle | None = None
        self._leaves = Leaves(
            model, encoder.blocks, [*encoder.blocks, *encoder.cores], self._driver.threads, self._hooks
        )
        self._driver.around = holders(model, encoder.base)
        self._twins = twins_of(encoder, self._driver.around, fits)
        self._driver.check(Reductions.of(schedule).schedule)
        try:
            self._install(model)
            self.set(schedule)
        except BaseException:
            self.remove()
            raise

    def _install(self, model: nn.Module) -> None:
        driver, encoder, hooks = self._driver, self._driver.encoder, self._hooks
        mark_carrier(encoder.base, self)
        if encoder.tower is not None:
            self.tower = Handle(encoder.tower.base, Schedule())
            within, driver.tower = self.tower._driver, self.tower._driver
            within.places, within.around = True, [*within.around, *driver.around]
        for block in dict.fromkeys(encoder.blocks):
            places = [i for i, other in enumerate(encoder.blocks) if other is block]
            # a forward of the block's own, such as accelerate's, comes back with remove()
            hooks.put(block, "forward", BlockForward(driver, block, places[0] if len(places) == 1 else None))
        for core in dict.fromkeys(encoder.cores):
            show_state(core, driver.threads)
            if "config" in core.__dict__:
                hooks.put(core, "config", ObservedConfig(core.__dict__["config"]))
        hooks.before(encoder.base, self._enter)
        if model is not encoder.base:
            hooks.before(model, self._choose)
        for attach in (*encoder.family.attachments, restore_places):
            attach(driver, model, hooks)
        if encoder.family.start is not None:
            hooks.before(encoder.base.get_submodule(encoder.family.start), driver.start)

    def _enter(self, base: nn.Module, _: Any) -> None:
        if base is not self.encoder.base:
            raise PruneSearchError(
                "a schedule cannot run in a shallow copy of its model (nn.DataParallel makes them): "
                "use DistributedDataParallel, or one process a device"
            )
        self._choose()

    def _choose(self, *_: Any) -> None:
        """A forward begins: the twins of the calling thread's plan run until the next one does."""
        state, reductions = self._driver.state, self._driver.reductions
        state.variant = reductions.variant
        if state.variant:
            self._leaves.refresh(state.variant)
        changes = getattr(reductions.given, "changes", ())
        state.twins = self._twins.of(changes) if changes else {}

    @property
    def encoder(self) -> Encoder:
        """The encoder that is reduced."""
        return self._driver.encoder

    # -- the plan --------------------------------------------------------------------------------------

    @property
    def schedule(self) -> Schedule:
        """The stages of the calling thread's next forward."""
        return self._driver.reductions.schedule

    @property
    def plan(self) -> Plan:
        """What the calling thread's next forward does."""
        from prunesearch.core.plans.plan import Plan

        return Plan.of(self._driver.reductions.given)

    def set(self, schedule: Any) -> None:
        """Put another plan in place of the present one.

        It is given as to `apply_`. Forwards under way end as they began. Within `under`, what that put in place is
        replaced.
        """
        reductions = self._reductions(schedule)
        if self._driver.state.reductions is not None:
            self._driver.state.reductions = reductions
        else:
            self._driver.standing = reductions
        self._driver.state.variant = reductions.variant
        self._driver.state.twins = self._twins.of(getattr(reductions.given, "changes", ()))

    def give(self, fits: Fits) -> None:
        """Take weights that were fitted for changes, beside those that are known."""
        self._twins.fits.update(fits)

    def _reductions(self, given: Any) -> Reductions:
        """A plan as blocks look it up, checked, its twins made."""
        given = as_planned(given)
        if self.encoder.family.part != ENCODER and getattr(given, "halves", {}):
            raise PruneSearchError("halves of blocks can be changed in encoders, but this model's decoder is reduced")
        reductions = Reductions.of(given)
        self._driver.check(reductions.schedule)
        if self.tower is not None and reductions.tower is not None:
            self.tower._driver.check(reductions.tower.schedule)
        self._leaves.prepare(reductions.variant, getattr(given, "whole", ()))
        return reductions

    @contextmanager
    def under(self, schedule: Any, *, traced: bool | None = None) -> Iterator[Handle]:
        """Within the block, the calling thread's forwards run another plan; afterwards the one from before.

        Args:
            schedule: any that fits the model, given as to `apply_`.
            traced: whether they are traced; None: as before.
        """
        reductions = self._reductions(schedule)
        tracing: dict[str, Any] = {} if traced is None else {"trace": Trace() if traced else None}
        twins = self._twins.of(getattr(reductions.given, "changes", ()))
        with self._driver.state.changed(reductions=reductions, variant=reductions.variant, twins=twins, **tracing):
            yield self

    @property
    def within(self) -> bool:
        """Whether the calling thread is inside a block of `under`."""
        return self._driver.state.reductions is not None

    def remove(self) -> None:
        """Undo `apply_`: the model computes, bit for bit, what it did before. Safe to call twice."""
        base = self.encoder.base
        if carrier_of(base) is not self:
            return
        self._driver.installed = False
        self._driver.state.variant, self._driver.state.twins = "", {}
        self._hooks.remove()
        if self.tower is not None:
            self.tower.remove()
        for core in self.encoder.cores:
            hide_state(core)
        mark_carrier(base, None)

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    # -- looking on ------------------------------------------------------------------------------------

    @property
    def tokens(self) -> Tokens | None:
        """What the calling thread's latest forward left at its end; None if nothing was reduced."""
        return self._driver.state.tokens

    @property
    def trace(self) -> Trace | None:
        """The trace of the calling thread's latest forward, if it was asked for."""
        return self._driver.state.trace

    @contextmanager
    def traced(self) -> Iterator[Trace]:
        """Within the block, forwards are traced: what is yielded has the stages of the latest."""
        trace = Trace()
        with self._driver.state.changed(trace=trace):
            yield trace

    @contextmanager
    def observing(self) -> Iterator[list[Tensor]]:
        """Within the block, `[batch, tokens, width]` inputs of every block of the latest forward are collected."""
        inputs: list[Tensor] = []
        with self._driver.state.changed(recorded=inputs):
            yield inputs

    @contextmanager
    def scoring(self) -> Iterator[list[Scored]]:
        """Within the block, the scores that the stages of the latest forward went by are collected."""
        found: list[Scored] = []
        with self._driver.state.changed(scored=found):
            yield found

    def watched(self, entering: Callable[[], None], passing: Callable[[], None]) -> AbstractContextManager[None]:
        """Within the block, the calling thread's forwards call `entering` where a block begins, and `passing` where its
        attention ends, where its MLP begins and where that ends."""
        return self._driver.state.changed(watchers=(entering, passing))

    def resuming(self, layer: int, hidden: Tensor) -> AbstractContextManager[None]:
        """Within the block, forwards skip the blocks before `layer` and give it `hidden` as its input.

        `hidden` must come from a forward on the same inputs without a stage before `layer` (`observing`).
        """
        return self._driver.state.changed(resume=(layer, hidden))

    def softened(self, soften: Soften) -> AbstractContextManager[None]:
        """Within the block, tokens of the calling thread's forwards count for less behind a block's attention.

        Args:
            soften: `(block, hidden states [batch, n, width], tokens) -> sizes [batch, n]` in (0, 1], or None;
                `log(size)` is added to every later attention to a token. It has gradients, and near 0 is as good as
                removal.
        """
        return self._driver.state.changed(soften=soften)

    @contextmanager
    def departing(self) -> Iterator[list[Departure]]:
        """Within the block, what each stage of the latest forward did is collected, for heads that need all tokens."""
        stages: list[Departure] = []
        with self._driver.state.changed(departures=stages):
            yield stages

    # -- how blocks run --------------------------------------------------------------------------------

    def compile(self) -> None:
        """Compile the halves of every block with `torch.compile`, for fixed shapes; `remove` undoes it."""
        layout = self.encoder.family.layout
        if not isinstance(layout, CompiledLayout):
            refuse_by_row(self.schedule, COMPILED)
            self._driver.compiled = True
            self.lay_out(CompiledLayout(layout))

    @contextmanager
    def laid_out(self, layout: Layout) -> Iterator[None]:
        """Within the block, the blocks of all threads compute as another layout says."""
        before = self.encoder
        self.lay_out(layout)
        try:
            yield
        finally:
            self._driver.encoder = before

    def lay_out(self, layout: Layout) -> None:
        """Let the blocks compute as `layout` says, which must come to what the model's own does."""
        encoder = self.encoder
        self._driver.encoder = replace(encoder, family=replace(encoder.family, layout=layout))

    def begin(self) -> None:
        """A forward begins, for whoever runs blocks by hand: nothing is reduced."""
        self._driver.begin()

    def run_block(self, index: int, x: Tensor, mask: Tensor | None, kwargs: dict[str, Any]) -> Tensor:
        """Compute block `index` on `x` `[batch, n, width]`, its stage included."""
        return self._driver.run_block(index, x, mask, kwargs)


class BlockForward:
    """Stands in for the forward of a block; held on to by somebody when the schedule is gone, it is the block's."""

    ours = True  # see `forward.twins.shadow`

    def __init__(self, driver: Driver, block: nn.Module, place: int | None) -> None:
        self.driver, self.block, self.place = driver, block, place
        self.own = block.__dict__.get("forward")

    def __call__(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Compute the block, its stage included."""
        if self.driver.installed:
            return self.driver.run(self.place, hidden_states, args, kwargs)
        if self.own is not None:
            return self.own(hidden_states, *args, **kwargs)
        return type(self.block).forward(self.block, hidden_states, *args, **kwargs)


def as_planned(given: Any) -> Any:
    """A `Plan` or `Schedule` as it is, a list of stages as a schedule.

    Plans are asked, not imported: this goes into files that know of none.
    """
    weights = getattr(given, "weights", None)
    if weights is not None:
        raise PruneSearchError(
            f"the plan has weights of its own ({weights}), which are not in the model: load them first"
        )
    return given if isinstance(given, Schedule) or hasattr(given, "changes") else Schedule(given)
