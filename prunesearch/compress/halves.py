"""The linear layers of half a block by what they do, and what a change of it is given.

Read off shapes: whatever the names in its class, an attention half has layers that make what all heads read and one
that brings it back to the width; an MLP has layers that lead to its neurons and one that leads back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, cast

from torch import nn

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import HALVES, Change
from prunesearch.core.tables.registry import CHANGES

_HEADS = ("num_attention_heads", "num_heads", "n_heads")
_HEAD = ("head_dim", "attention_head_size", "key_value_proj_dim")


class Changing(Protocol):
    """A block that is being changed, as another that stands in for it (`pruning.forward.twins.Shadow`)."""

    block: nn.Module  # the other block so far
    core: str  # path, from the block, of the module that computes its attention

    def put(self, path: str, module: nn.Module) -> None:
        """Put a module where another is."""

    def recount(self, before: int, after: int, size: int) -> None:
        """Tell its attention that there are fewer heads, of `size` each."""


@dataclass(frozen=True)
class Half:
    """Half a block.

    Attributes:
        into: paths, from the block, of the layers that make what `out` reads.
        out: path of the layer that brings it back to the width.
        ways: for each of `into`, how many parts lie in its outputs one after the other (3 of queries, keys and values
            in one layer; 2 of an MLP that is gated).
        groups: what can be removed one by one: heads, or neurons.
        size: columns of `out` that each of them takes.
    """

    into: tuple[str, ...]
    out: str
    ways: tuple[int, ...]
    groups: int
    size: int

    @property
    def layers(self) -> tuple[str, ...]:
        """All of its linear layers."""
        return (*self.into, self.out)


class Left(NamedTuple):
    """What is left of half a block: weights of each linear layer by path, in numbers, and what its last is given."""

    weights: dict[str, int]
    inner: int


class Smaller(Protocol):
    """What a row of `CHANGES` that makes halves smaller makes of a change's parameters."""

    def weights(self, block: nn.Module, half: Half) -> dict[str, int]:
        """What is left of the weights of each linear layer, in numbers."""

    def inner(self, half: Half) -> int:
        """Width of what its last layer is given."""


def layer_of(block: nn.Module, path: str) -> nn.Linear:
    """The linear layer at a path of `Half`."""
    return cast(nn.Linear, block.get_submodule(path))


def names_of(block: nn.Module, core: str, half: str) -> list[str]:
    """Paths of the linear layers of half a block."""
    path = core.split(".")
    around = ".".join(path[:-1] or path)
    linear = [name for name, module in block.named_modules() if isinstance(module, nn.Linear)]
    return [name for name in linear if name.startswith(f"{around}.") == (half == HALVES[0])]


def left_of(block: nn.Module, core: str, change: Change) -> Left:
    """What a change of half a block leaves of it.

    Raises:
        PruneSearchError: as `find_half`, for a change that makes it smaller.
    """
    row = CHANGES.entry(change.kind)
    if row.removes:
        return Left(dict.fromkeys(names_of(block, core, change.half), 0), 0)
    makes: Smaller = CHANGES.load(change.kind)(**dict(change.params))
    parts = find_half(block, core, change.half)
    return Left(makes.weights(block, parts), makes.inner(parts))


def find_half(block: nn.Module, core: str, half: str) -> Half:
    """The attention or the MLP of a block whose attention is computed at `core`.

    Raises:
        PruneSearchError: for one that computes otherwise, with what it has; in one line.
    """
    linear = {name: module for name, module in block.named_modules() if isinstance(module, nn.Linear)}
    mine = {name: linear[name] for name in names_of(block, core, half)}
    out = next((name for name in reversed(mine) if mine[name].out_features == _width(linear)), None)
    into = [name for name in mine if name != out]
    if out is None or not into or any(type(m) is not nn.Linear for m in mine.values()):
        raise PruneSearchError(
            f"the {half} of {type(block).__name__} is not made of plain linear layers: leave it whole"
        )
    inner, width = mine[out].in_features, mine[out].out_features
    for name in into:
        if mine[name].in_features != width or mine[name].out_features % inner:
            raise PruneSearchError(
                f"the {half} of {type(block).__name__} has a layer besides ('{name}', {mine[name].in_features} to "
                f"{mine[name].out_features}), so that nothing can be taken out of it: leave it whole"
            )
    size = _head_size(block.get_submodule(core), inner) if half == "attention" else 1
    return Half(tuple(into), out, tuple(mine[name].out_features // inner for name in into), inner // size, size)


def _width(linear: dict[str, nn.Linear]) -> int:
    """Of what flows through the block: what most of its linear layers begin or end with."""
    sizes = [size for m in linear.values() for size in {m.in_features, m.out_features}]
    return max(sorted(set(sizes)), key=sizes.count, default=0)


def _head_size(core: nn.Module, inner: int) -> int:
    """The width of a head."""
    said = {name: getattr(core, name, None) for name in (*_HEAD, *_HEADS)}
    size = next((said[name] for name in _HEAD if isinstance(said[name], int)), None)
    count = next((said[name] for name in _HEADS if isinstance(said[name], int)), None)
    found = size or (inner // count if count else 0)
    if not found or inner % found or (count and count * found != inner):
        raise PruneSearchError(f"{type(core).__name__} does not say how wide its heads are: leave its heads alone")
    return int(found)
