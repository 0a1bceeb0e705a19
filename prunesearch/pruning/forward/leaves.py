"""Modules that compute otherwise under the changes of a plan: each thread's forwards by themselves.

A module that a change has a twin of (`MakesTwins`) is given a forward that runs the twin where the calling thread's
plan says so, and the module's own otherwise. The module keeps its weights, so that undoing is taking that forward off.
Nothing is touched before a plan with changes is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from torch import nn

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.tables.registry import CHANGES
from prunesearch.pruning.forward.state import Threads
from prunesearch.pruning.forward.twins import Seen
from prunesearch.pruning.hooks import Hooks


class MakesTwins(Protocol):
    """What a row of `CHANGES` makes of a change's parameters."""

    def twin(self, module: nn.Module) -> nn.Module | None:
        """What runs in the place of a module, its children left out; None: the module as it is."""

    def spared(self, model: nn.Module) -> nn.Module | None:
        """A module of a model that it has no twin of, though it has of others of its kind; None: there is none."""


class Leaves:
    """The modules of a model that plans have changed.

    Args:
        model: all of it, its head too.
        blocks: those of its encoder, for changes of one of them.
        apart: modules that no change may stand in for.
        threads: say what the calling thread does.
        hooks: take off what is put in.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[nn.Module],
        apart: Iterable[nn.Module],
        threads: Threads,
        hooks: Hooks,
    ) -> None:
        self.model, self.blocks, self.threads, self.hooks = model, list(blocks), threads, hooks
        self.apart = list(apart)
        self.forwards: list[LeafForward] = []
        self._ready: set[str] = set()

    def prepare(self, variant: str, changes: Iterable[Any]) -> None:
        """Make the twins that some changes need, which are called `variant`.

        Raises:
            PruneSearchError: for a change of a block that the model does not have.
        """
        if not variant or variant in self._ready:
            return
        known = {id(leaf.module): leaf for leaf in self.forwards}
        for change in changes:
            makes: MakesTwins = CHANGES.load(change.kind)(**dict(change.params))
            spared = makes.spared(self.model)
            for module in self._changed(change):
                twin = None if module is spared else makes.twin(module)
                if twin is None:
                    continue
                leaf = known.get(id(module))
                if leaf is None:
                    leaf = known[id(module)] = LeafForward(module, self.threads)
                    self.forwards.append(leaf)
                    self.hooks.put(module, "forward", leaf)
                leaf.take(variant, twin, makes)
        self._ready.add(variant)

    def _changed(self, change: Any) -> list[nn.Module]:
        """The modules that a change is of; one with a forward of its own (accelerate's, a head's) stays as it is."""
        if change.block is not None and change.block >= len(self.blocks):
            raise PruneSearchError(
                f"`block < {len(self.blocks)}` must hold for a model of {len(self.blocks)} blocks, but got {change}"
            )
        within = self.model if change.block is None else self.blocks[change.block]
        apart = {id(module) for module in self.apart}
        mine = {id(leaf.module) for leaf in self.forwards}
        return [
            module
            for module in within.modules()
            if id(module) not in apart and (id(module) in mine or "forward" not in module.__dict__)
        ]

    def refresh(self, variant: str) -> None:
        """Make the twins anew whose modules have other weights than they had, or were copied."""
        for leaf in self.forwards:
            leaf.refresh(variant)


class LeafForward:
    """Stands in for the forward of a module that has twins; held on to by somebody later, it is the module's."""

    ours = True  # see `twins.shadow`

    def __init__(self, module: nn.Module, threads: Threads) -> None:
        self.module, self.threads = module, threads
        self.makes: dict[str, MakesTwins] = {}
        self.twins: dict[str, nn.Module | None] = {}
        self.seen: dict[str, Seen] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "twins": {}, "seen": {}}  # a copy makes its own

    def take(self, variant: str, twin: nn.Module, makes: MakesTwins) -> None:
        """Note a twin, and what makes it."""
        self.twins[variant], self.makes[variant] = twin, makes
        self.seen[variant] = Seen(self.module, below=False)

    def refresh(self, variant: str) -> None:
        """See `Leaves`."""
        makes, seen = self.makes.get(variant), self.seen.get(variant)
        if makes is not None and (seen is None or not seen.same()):
            self.twins[variant] = makes.twin(self.module)
            self.seen[variant] = Seen(self.module, below=False)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The twin's forward, or the module's own."""
        variant = self.threads.state.variant
        twin = self.twins.get(variant) if variant else None
        if twin is not None:
            return twin(*args, **kwargs)
        return type(self.module).forward(self.module, *args, **kwargs)
