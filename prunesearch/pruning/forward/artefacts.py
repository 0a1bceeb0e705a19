"""Weights that belong to plans: files of a study, called by the digest of what is in them.

A plan names its weights `sha256:…`, the digest of the file's bytes, so that nothing else can stand in for them. A file
holds the parameters that differ from the model's own, and no others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.files import write_bytes_atomic
from prunesearch.core.plans.plan import WEIGHTS, Plan
from prunesearch.pruning.forward.beside import Beside, split_tensors

_SHORT = 16  # characters of a digest that a file is called by


def weights_path(folder: Path, name: str) -> Path:
    """Where the weights that a plan calls `name` lie, in a folder of weights."""
    return folder / f"{name.removeprefix(WEIGHTS)[:_SHORT]}.safetensors"


def save_weights(folder: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """Write parameters by their names, with what is to be known `about` them; returns what a plan calls them."""
    data = save({name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}, dict(about))
    name = WEIGHTS + hashlib.sha256(data).hexdigest()
    write_bytes_atomic(weights_path(folder, name), data)
    return name


def read_weights(folder: Path, name: str) -> dict[str, Tensor]:
    """The parameters that a plan calls `name`, from a folder of weights.

    Raises:
        PruneSearchError: if the file is not there.
        CorruptFileError: if it is another one than the plan was judged with.
    """
    path = weights_path(folder, name)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PruneSearchError(
            f"the plan has weights of its own ({name[:23]}…), but {path} cannot be read ({error.strerror}): put the "
            "study's folder of weights back, or tune the point again"
        ) from None
    found = WEIGHTS + hashlib.sha256(data).hexdigest()
    if found != name:
        raise CorruptFileError(
            f"{path} must hold what the plan was judged with, but its digest is {found[:23]}… and the plan says "
            f"{name[:23]}…: put the file back, or tune the point again"
        )
    try:
        return load(data)
    except safetensors.SafetensorError as error:
        raise CorruptFileError(f"{path} is no safetensors file ({error}): tune the point again") from None


def changed_weights(model: nn.Module, before: nn.Module) -> dict[str, Tensor]:
    """The parameters of `model`, by name, that are not those of `before`, to the last bit, which has as many."""
    own = dict(before.named_parameters())
    return {
        name: value.detach()
        for name, value in model.named_parameters()
        if not torch.equal(value.detach().to(own[name].device), own[name].to(value.dtype))
    }


def load_(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give `model` these parameters in place of its own, which are returned, and what lies beside them.

    Raises:
        PruneSearchError: if they are another model's; nothing is changed then.
    """
    weights, beside = split_tensors(weights)
    own = dict(model.named_parameters())
    for name, value in weights.items():
        if name not in own or own[name].shape != value.shape:
            there = "it has none" if name not in own else f"its own is {tuple(own[name].shape)}"
            raise PruneSearchError(
                f"weights must be those of the model that they are loaded into, but {name} {tuple(value.shape)} is not "
                f"{type(model).__name__}'s ({there}): give the model that was tuned"
            )
    before = {name: own[name].data for name in weights}
    for name, value in weights.items():
        own[name].data = value.to(own[name].device, own[name].dtype)
    if beside:
        Beside.made(beside, next(iter(own.values())).device).over(Beside.of(model)).put_into(model)
    return before


@contextmanager
def loaded(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[nn.Module]:
    """Within the block, `model` has these parameters; its own come back to the last bit. See `load_`."""
    held = Beside.of(model)
    before = load_(model, weights)
    try:
        yield model
    finally:
        load_(model, before)
        held.put_into(model)


@contextmanager
def with_weights(model: nn.Module, plan: Plan, folder: Path | None) -> Iterator[Plan]:
    """Within the block, `model` has the weights of a plan; yields the plan as `apply_` takes it, without them.

    Args:
        model: the one that was tuned.
        plan: any; one that has no weights of its own changes nothing.
        folder: of weights; None where nobody knows it.

    Raises:
        PruneSearchError: if the weights are not there, or are another model's.
    """
    if plan.weights is None:
        yield plan
        return
    if folder is None:
        raise PruneSearchError(f"the plan has weights of its own ({plan.weights[:23]}…): say in which folder they are")
    with loaded(model, read_weights(folder, plan.weights)):
        yield plan.on_own_weights
