"""`torch.compile` for a model that carries a schedule: each half of a block by itself.

Blocks share their code, so a half is compiled once for each token count that flows through it, not once a block
("regional compilation"). What a schedule changes, the stage in between, stays outside and runs eagerly.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from prunesearch.pruning.families.blocks import Layout

# a half meets one graph for each count, with and without sizes, observed or not; torch's default of 8 would fall back
_MOST_GRAPHS = 256


class CompiledLayout:
    """A layout whose two halves are compiled for fixed shapes."""

    def __init__(self, inner: Layout) -> None:
        config: Any = torch._dynamo.config
        config.recompile_limit = max(config.recompile_limit, _MOST_GRAPHS)
        config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, 4 * _MOST_GRAPHS)
        self.inner = inner
        self.kind, self.core = inner.kind, inner.core
        self._attend = torch.compile(inner.attend, dynamic=False)
        self._feed = torch.compile(inner.feed, dynamic=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return CompiledLayout, (self.inner,)  # a copy compiles anew

    def attend(self, layer: nn.Module, x: Tensor, mask: Tensor | None, kwargs: dict[str, Any]) -> Tensor:
        """See `Layout`."""
        return self._attend(layer, x, mask, kwargs)

    def feed(self, layer: nn.Module, x: Tensor) -> Tensor:
        """See `Layout`."""
        return self._feed(layer, x)
