"""Watching a model's blocks from within: what happens at the border of each half."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

from prunesearch.core.plans.schedule import Schedule
from prunesearch.pruning.apply import Handle, apply_, handle_of

Watcher = Callable[[], None]


@contextmanager
def watched(handle: Handle, entering: Watcher, passing: Watcher = lambda: None) -> Iterator[None]:
    """Within the block, every forward calls the watchers at the borders of the model's blocks.

    Args:
        entering: called where a block begins.
        passing: called where its attention ends, where its MLP begins and where that ends; the stage is in between.
    """
    with handle.watched(entering, passing):
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
