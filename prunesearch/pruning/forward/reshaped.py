"""A model whose layers are smaller already: what a plan makes of halves of blocks, as the model's own from now on."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.pruning.forward.beside import Beside
from prunesearch.pruning.forward.twins import Twins


@dataclass(frozen=True)
class WithoutHalves:
    """A schedule, and the halves of blocks that are left out: what is left of a plan whose layers are in the model."""

    schedule: Schedule
    skips: frozenset[tuple[int, str]]
    changes: tuple[Any, ...] = ()


def take_shape_(model: nn.Module, shape: Mapping[str, Any]) -> None:
    """Give a model other linear layers, whose weights are still to be loaded, and say to its attention what it has.

    Args:
        model: as its class makes it.
        shape: `layers` has by path what stands there: of each linear layer its inputs, outputs, and whether it has a
            bias; several come one after the other. `said` has numbers of modules by path.
    """
    for path, sizes in shape["layers"].items():
        above, _, name = path.rpartition(".")
        made = [nn.Linear(into, out, bias) for into, out, bias in sizes]
        setattr(model.get_submodule(above), name, made[0] if len(made) == 1 else nn.Sequential(*made))
    for path, numbers in shape["said"].items():
        model.get_submodule(path).__dict__.update(numbers)


def reshaped(model: nn.Module, twins: Twins, changes: Iterable[Any]) -> tuple[nn.Module, dict[str, Any]]:
    """A copy of a model with smaller layers in the places of its own, and its shape as `take_shape_` reads it.

    Raises:
        PruneSearchError: for a block that serves several passes.
    """
    changes = list(changes)
    wanted: dict[str, nn.Module] = {}
    said: dict[str, dict[str, int]] = {}
    paths = {id(module): path for path, module in model.named_modules()}
    for index, shadow in twins.shadows(changes).items():
        block = twins.blocks[index]
        if sum(other is block for other in twins.blocks) > 1:
            raise PruneSearchError(
                f"block {index} serves several passes of this model, one of which cannot be smaller in what is written:"
                " choose --to json for the plan, or a point without"
            )
        wanted |= {f"{paths[id(block)]}.{path}": module for path, module in shadow.others.items()}
        said |= {f"{paths[id(block)]}.{path}".rstrip("."): numbers for path, numbers in shadow.said.items()}
    made = copy.deepcopy(model)
    for module in list(made.modules()):
        Beside(Beside.of(module).probes).put_into(module)  # what layers were made of is in them
    for path, module in wanted.items():
        above, _, name = path.rpartition(".")
        setattr(made.get_submodule(above), name, copy.deepcopy(module))
    for path, numbers in said.items():
        made.get_submodule(path).__dict__.update(numbers)
    return made, {"layers": {path: _sizes(module) for path, module in wanted.items()}, "said": said}


def _sizes(module: nn.Module) -> list[list[Any]]:
    return [[m.in_features, m.out_features, m.bias is not None] for m in module.modules() if isinstance(m, nn.Linear)]
