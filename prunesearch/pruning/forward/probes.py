"""Weights of learned scorers in a model: they lie beside it, and move with it, but are none of its parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

SCORER = "scorers/"  # what the names of such tensors in files begin with: `scorers/NAME/BLOCK/PART`
_PLACE = "prunesearch_scorers"  # the attribute of a model


class Probes(nn.Module):
    """Tensors by scorer, block and part; buffers that are in no state dict, so that a model is saved as it was.

    Args:
        tensors: by their names in files.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._names: dict[tuple[str, int], dict[str, str]] = {}
        for name, value in tensors.items():
            _, scorer, block, part = name.split("/")
            key = name.replace("/", "__").replace(".", "_")
            self.register_buffer(key, value, persistent=False)
            self._names.setdefault((scorer, int(block)), {})[part] = key

    def of(self, scorer: str, block: int) -> dict[str, Tensor] | None:
        """The tensors of a scorer at a block of the encoder, by part; None where it has none."""
        names = self._names.get((scorer, block))
        return None if names is None else {part: getattr(self, key) for part, key in names.items()}

    @property
    def scorers(self) -> list[str]:
        """The scorers that have any."""
        return sorted({scorer for scorer, _ in self._names})


def probes_of(holders: Iterable[nn.Module]) -> Probes | None:
    """The probes that one of some modules holds."""
    return next((found for module in holders if (found := held_probes(module)) is not None), None)


def held_probes(module: nn.Module) -> Probes | None:
    """Those that a module holds itself."""
    found = module._modules.get(_PLACE)
    return found if isinstance(found, Probes) else None


def hold_probes(model: nn.Module, probes: Probes | None) -> None:
    """Let `model` hold these, or none."""
    if probes is not None:
        model._modules[_PLACE] = probes
    else:
        model._modules.pop(_PLACE, None)


def split_tensors(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Of what is in a file of weights: the model's parameters, and the tensors of scorers."""
    scorers = {name: value for name, value in tensors.items() if name.startswith(SCORER)}
    return {name: value for name, value in tensors.items() if name not in scorers}, scorers


def made_probes(tensors: Mapping[str, Tensor], device: torch.device) -> Probes | None:
    """Probes of tensors on a device; None where there are none."""
    return Probes({name: value.to(device) for name, value in tensors.items()}) if tensors else None
