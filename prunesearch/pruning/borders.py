"""Watching a model's blocks from within: what happens at the border of each half."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from prunesearch.core.plans.schedule import Schedule
from prunesearch.pruning.apply import Handle, apply_, handle_of
from prunesearch.pruning.families.blocks import Layout

Watcher = Callable[[], None]


def _nothing() -> None:
    """A border that nobody watches."""


@dataclass(frozen=True)
class _Watched:
    """A layout that calls `entering` where a block begins, and `passing` at the other three borders of its halves."""

    inner: Layout
    entering: Watcher
    passing: Watcher

    @property
    def kind(self) -> str:
        """See `Layout`."""
        return self.inner.kind

    @property
    def core(self) -> str:
        """See `Layout`."""
        return self.inner.core

    def attend(self, layer: nn.Module, x: Tensor, mask: Tensor | None, kwargs: dict[str, Any]) -> Tensor:
        """See `Layout`."""
        self.entering()
        out = self.inner.attend(layer, x, mask, kwargs)
        self.passing()
        return out

    def feed(self, layer: nn.Module, x: Tensor) -> Tensor:
        """See `Layout`."""
        self.passing()
        out = self.inner.feed(layer, x)
        self.passing()
        return out


@contextmanager
def watched(handle: Handle, entering: Watcher, passing: Watcher = _nothing) -> Iterator[None]:
    """Within the block, every forward calls the watchers at the borders of the model's blocks.

    Args:
        entering: called where a block begins.
        passing: called where its attention ends, where its MLP begins and where that ends; the stage is in between.
    """
    with handle.laid_out(_Watched(handle.encoder.family.layout, entering, passing)):
        yield


@contextmanager
def borrowed(model: nn.Module) -> Iterator[Handle]:
    """Yield the handle of `model`, a new one if it carries none; afterwards the model is as it was before."""
    handle = handle_of(model)
    if handle is None:
        with apply_(model, Schedule()) as handle:
            yield handle
        return
    # tracing costs time that no deployed model pays
    with handle.under(handle.schedule, traced=False), handle.laid_out(handle.encoder.family.layout):
        yield handle
