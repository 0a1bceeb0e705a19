"""Watching a model's blocks from within: what happens at the border of each half."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from prunesearch.pruning.apply import Handle
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
    encoder = handle.encoder
    layout = _Watched(encoder.family.layout, entering, passing)
    handle.encoder = replace(encoder, family=replace(encoder.family, layout=layout))
    try:
        yield
    finally:
        handle.encoder = encoder
