"""Which parameters of a model are trained: all, norms and biases, or low-rank additions that are merged after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from prunesearch.pruning.families.find import find_encoder
from prunesearch.tasks.libraries import package

_RANK, _ALPHA = 8, 16


@dataclass(frozen=True)
class Trainable:
    """A choice of parameters, which a row of `PARAMETERS` names.

    Attributes:
        prepare: makes the chosen ones trainable, in place; all others are frozen before.
        end: undoes what `prepare` put into the model beside the parameters; what was learnt stays in these.
    """

    prepare: Callable[[nn.Module], None]
    end: Callable[[nn.Module], None]


def freeze(model: nn.Module) -> None:
    """Let nothing be trained."""
    model.requires_grad_(False)


def _full(model: nn.Module) -> None:
    for value in model.parameters():
        value.requires_grad_(value.is_floating_point())


def _norms(model: nn.Module) -> None:
    """The parameters of layer norms, and every bias (BitFit, Ben Zaken 2022)."""
    for module in model.modules():
        for name, value in module.named_parameters(recurse=False):
            value.requires_grad_("norm" in type(module).__name__.lower() or name.endswith("bias"))


def _lora(model: nn.Module) -> None:
    """Low-rank additions to every linear layer of the encoder's blocks (Hu 2022)."""
    peft = package("peft", "parameters 'lora' need peft, which is not installed: pip install 'prunesearch[train]'")
    blocks = {id(part) for block in find_encoder(model).blocks for part in block.modules()}
    names = [name for name, part in model.named_modules() if id(part) in blocks and type(part) is nn.Linear]
    torch.manual_seed(0)  # of the additions' start
    peft.inject_adapter_in_model(peft.LoraConfig(r=_RANK, lora_alpha=_ALPHA, target_modules=names), model)


def _merge(model: nn.Module) -> None:
    """Add the additions to the layers that they stand beside, and put these back in their places."""
    tuners = package("peft.tuners.tuners_utils", "peft is gone")
    for name, part in list(model.named_modules()):
        if isinstance(part, tuners.BaseTunerLayer):
            part.merge()
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, part.get_base_layer())


def _nothing(model: nn.Module) -> None:
    return


FULL = Trainable(_full, _nothing)
NORMS = Trainable(_norms, _nothing)
LORA = Trainable(_lora, _merge)
