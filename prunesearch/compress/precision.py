"""Precisions: the twins of a model's modules that compute in other numbers.

A twin has its module's weights converted once; the module itself keeps its own, to the last bit. Who runs which is
`pruning.forward.leaves`' affair.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from prunesearch.compress.torch_ao import TORCH_AO
from prunesearch.compress.torchao_linear import TORCHAO_DYNAMIC, TORCHAO_FP8, TORCHAO_WEIGHTS
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.tables.registry import DTYPES, PRECISIONS


class Quantiser(Protocol):
    """A library that makes linear layers of fewer bits."""

    @property
    def name(self) -> str:
        """Of it, for people."""

    def absent(self) -> str:
        """Why it is not here, in a clause; empty where it is."""

    def twin(self, linear: nn.Linear) -> nn.Module:
        """The same layer with quantised weights; takes and gives floating-point numbers."""


class Precision(Protocol):
    """What a row of `PRECISIONS` names."""

    def twin(self, module: nn.Module) -> nn.Module | None:
        """What runs in the place of a module, its children left out; None: the module as it is."""

    def spared(self, model: nn.Module) -> nn.Module | None:
        """What of a model stays as it is, where others of its kind have twins; None: nothing."""

    def by(self, device: torch.device) -> str:
        """What makes it in torch on such a device, for people; empty where nothing does."""

    def absent(self, device: torch.device) -> str:
        """Why torch does not have it on this device, in a clause; empty where it has."""


def make_precision(to: str) -> Precision:
    """The precision of that name: what a change of kind `precision` comes to."""
    found: Precision = PRECISIONS.load(to)
    return found


# keys of `torch.cpu.get_capabilities`, one of which a CPU has whose products are computed in that dtype
_UNITS = {"bfloat16": ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16"), "float16": ("avx512_fp16", "amx_fp16")}


@dataclass(frozen=True)
class Cast:
    """Floating-point weights and activations in another dtype, as `model.to(dtype)` would have them.

    Attributes:
        name: of the dtype, a row of `DTYPES`.
    """

    name: str

    def twin(self, module: nn.Module) -> nn.Module | None:
        """See `Precision`: of a module with weights of its own, which casts what it is given."""
        dtype: torch.dtype = DTYPES.load(self.name)
        own = [*module._parameters.values(), *module._buffers.values()]
        if not any(value is not None and value.is_floating_point() and value.dtype != dtype for value in own):
            return None
        inner = copy.copy(module)  # children are the module's own
        inner.__dict__ = {**module.__dict__}
        inner.__dict__.pop("forward", None)
        inner._parameters = {name: _cast(value, dtype) for name, value in module._parameters.items()}
        inner._buffers = {name: _cast(value, dtype) for name, value in module._buffers.items()}
        return _Casting(inner, dtype)

    def spared(self, model: nn.Module) -> nn.Module | None:
        """See `Precision`."""
        return None

    def by(self, device: torch.device) -> str:
        """See `Precision`."""
        return "" if self.absent(device) else "torch"

    def absent(self, device: torch.device) -> str:
        """See `Precision`; a CPU that has no such products converts every one of them."""
        told = _CAN.get(device.type)
        return "" if told is None else told(self.name)


def _cpu_can(name: str) -> str:
    units = _UNITS.get(name)
    if units is None:
        return ""
    known: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return "" if any(known.get(unit) for unit in units) else f"this CPU has no products in {name}"


_CAN = {"cpu": _cpu_can}


def _cast(value: Tensor | None, dtype: torch.dtype) -> Any:
    if value is None or not value.is_floating_point():
        return value
    cast = value.detach().to(dtype)
    return nn.Parameter(cast, requires_grad=False) if isinstance(value, nn.Parameter) else cast


class _Casting(nn.Module):
    """Gives a module what it is given in its own dtype."""

    def __init__(self, inner: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.__dict__["inner"] = inner  # no child: its children are those of the model
        self.dtype, self.compute = dtype, type(inner).forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.compute(
            self.inner,
            *(self._cast(value) for value in args),
            **{name: self._cast(value) for name, value in kwargs.items()},
        )

    def _cast(self, value: Any) -> Any:
        return value.to(self.dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


@dataclass(frozen=True)
class Quantised:
    """Linear layers in fewer bits; everything else as it is.

    Attributes:
        libraries: for each kind of device, what makes them, the best first.
    """

    libraries: Mapping[str, tuple[Quantiser, ...]] = field(default_factory=dict)

    def twin(self, module: nn.Module) -> nn.Module | None:
        """See `Precision`.

        Raises:
            PruneSearchError: where nothing makes them.
        """
        if type(module) is not nn.Linear:  # a subclass may do more than a product
            return None
        device = module.weight.device
        found = self._library(device)
        if found is None:  # the module as it is would be taken for one of fewer bits
            raise PruneSearchError(
                f"linear layers cannot be put in fewer bits on '{device.type}' ({self.absent(device)}): move the "
                "model, or leave that precision out of the plan"
            )
        return found.twin(module)

    def spared(self, model: nn.Module) -> nn.Module | None:
        """See `Precision`: a linear layer that is the first of a model with weights, which reads raw features.

        One scale does not hold these (spectrograms, sensors): it alone cost a keyword transformer 2.1 of the 2.1 points
        that int8 lost, and it is a small part of the work. What quantisers of graphs leave alone is
        `cost.graphs.quantisers`' affair.
        """
        leaves = (m for m in model.modules() if next(m.children(), None) is None)
        first = next((m for m in leaves if next(m.parameters(recurse=False), None) is not None), None)
        return first if type(first) is nn.Linear else None

    def by(self, device: torch.device) -> str:
        """See `Precision`."""
        found = self._library(device)
        return "" if found is None else found.name

    def absent(self, device: torch.device) -> str:
        """See `Precision`."""
        known = self.libraries.get(device.type, ())
        if self._library(device) is not None:
            return ""
        return known[0].absent() if known else f"nothing makes it on '{device.type}'"

    def _library(self, device: torch.device) -> Quantiser | None:
        return next((one for one in self.libraries.get(device.type, ()) if not one.absent()), None)


FLOAT32, BFLOAT16, FLOAT16 = Cast("float32"), Cast("bfloat16"), Cast("float16")
# in eager torch on a CPU, torch.ao's is faster than torchao's dynamic int8
INT8 = Quantised({"cpu": (TORCH_AO, TORCHAO_DYNAMIC), "cuda": (TORCHAO_DYNAMIC,)})
INT8_WEIGHTS = Quantised({"cpu": (TORCHAO_WEIGHTS,), "cuda": (TORCHAO_WEIGHTS,)})
FP8 = Quantised({"cuda": (TORCHAO_FP8,)})
