"""What lies beside a model's parameters, and moves with it, but is in no state dict of its.

Weights of learned scorers, and those of halves of blocks that are smaller, where a training has made them its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

SCORER = "scorers/"  # what the names of such tensors in files begin with: `scorers/NAME/BLOCK/PART`
FIT = "fits/"  # and what those of weights of changes begin with: `fits/CHANGE/NAME`
_SCORERS, _FITS = "prunesearch_scorers", "prunesearch_fits"  # attributes of a model


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


class HeldFits(nn.Module):
    """Weights that changes of halves of blocks have, trained, by the change as it prints itself; buffers, as above.

    Args:
        tensors: by their names in files.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._names: dict[str, dict[str, str]] = {}
        for number, (name, value) in enumerate(tensors.items()):
            _, change, part = name.split("/")
            self.register_buffer(f"fit{number}", value, persistent=False)
            self._names.setdefault(change, {})[part] = f"fit{number}"

    def of(self, change: str) -> dict[str, Tensor] | None:
        """The weights of a change, by what they are; None where it has none here."""
        names = self._names.get(change)
        return None if names is None else {part: getattr(self, key) for part, key in names.items()}

    @property
    def changes(self) -> list[str]:
        """Those that have any."""
        return list(self._names)


class Beside(NamedTuple):
    """What lies beside a model's parameters."""

    probes: Probes | None = None
    fits: HeldFits | None = None

    @classmethod
    def of(cls, module: nn.Module) -> Beside:
        """What a module holds itself."""
        probes, fits = module._modules.get(_SCORERS), module._modules.get(_FITS)
        return cls(probes if isinstance(probes, Probes) else None, fits if isinstance(fits, HeldFits) else None)

    @classmethod
    def made(cls, tensors: Mapping[str, Tensor], device: torch.device) -> Beside:
        """Of tensors by their names in files, on a device."""
        parts = {
            start: {name: value.to(device) for name, value in tensors.items() if name.startswith(start)}
            for start in (SCORER, FIT)
        }
        return cls(
            Probes(parts[SCORER]) if parts[SCORER] else None,
            HeldFits(parts[FIT]) if parts[FIT] else None,
        )

    def put_into(self, model: nn.Module) -> None:
        """Let `model` hold these, and nothing else."""
        for place, held in ((_SCORERS, self.probes), (_FITS, self.fits)):
            if held is not None:
                model._modules[place] = held
            else:
                model._modules.pop(place, None)

    def over(self, other: Beside) -> Beside:
        """What another has where this has nothing."""
        return Beside(self.probes or other.probes, self.fits or other.fits)


def probes_of(holders: Iterable[nn.Module]) -> Probes | None:
    """The probes that one of some modules holds."""
    return next((found for module in holders if (found := Beside.of(module).probes) is not None), None)


def fits_of(holders: Iterable[nn.Module]) -> HeldFits | None:
    """The weights of changes that one of some modules holds."""
    return next((found for module in holders if (found := Beside.of(module).fits) is not None), None)


def split_tensors(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Of what is in a file of weights: the model's parameters, and what lies beside them."""
    beside = {name: value for name, value in tensors.items() if name.startswith((SCORER, FIT))}
    return {name: value for name, value in tensors.items() if name not in beside}, beside


def named_fits(fits: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Weights of changes by their names in files; what was learnt is no parameter any more."""
    return {f"{FIT}{change}/{name}": value.detach() for change, own in fits.items() for name, value in own.items()}
