"""Weights that changes of half a block are fitted with, on calibration rows without labels; and their file.

Each change is fitted by itself, to what the unchanged model computes in its block.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from prunesearch.compress.halves import find_half, layer_of
from prunesearch.compress.width import Moments
from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.plans.plan import Change, Plan
from prunesearch.core.tables.registry import CHANGES

FILE = "fits.safetensors"  # in the folder of a study
_FORMAT = "prunesearch.fits"
_MOST_BYTES = 2**29  # of moments that are gathered in one pass over the rows

Fits = dict[str, dict[str, Tensor]]


class Fitted(Protocol):
    """What a row of `CHANGES` that is `fitted` makes of a change's parameters."""

    def fit(self, block: nn.Module, core: str, moments: Mapping[str, Moments]) -> dict[str, Tensor]:
        """The weights, given the moments of the inputs of the block's linear layers by their paths."""


def fit_changes(
    blocks: Sequence[nn.Module],
    core: str,
    changes: Sequence[Change],
    forwards: Callable[[], None],
    *,
    most_bytes: int = _MOST_BYTES,
    advance: Callable[[int], None] = lambda done: None,
) -> Fits:
    """Fit changes of halves of blocks; those that have nothing to fit are left out.

    Args:
        blocks: of the encoder, unchanged; `core`: the path of their attention modules.
        changes: of any of them.
        forwards: runs the model as it is over the calibration rows.
        most_bytes: of moments at a time; what needs more takes several passes over the rows.
        advance: told how many changes are fitted after each block.

    Raises:
        PruneSearchError: for a block that a change does not fit.
    """
    wanted: dict[int, list[Change]] = {}
    for change in changes:
        if CHANGES.entry(change.kind).fitted:
            wanted.setdefault(change.block or 0, []).append(change)
    sizes = {index: _sizes(blocks[index], core, own) for index, own in wanted.items()}
    fits: Fits = {}
    for some in _portions(sizes, most_bytes):
        with _gathering(blocks, {index: sizes[index] for index in some}) as moments, torch.inference_mode():
            forwards()
        for index in some:
            for change in wanted[index]:
                makes: Fitted = CHANGES.load(change.kind)(**dict(change.params))
                fits[str(change)] = makes.fit(blocks[index], core, moments[index])
            advance(len(wanted[index]))
    return fits


def _sizes(block: nn.Module, core: str, changes: Sequence[Change]) -> dict[str, int]:
    """The layers of a block whose inputs are looked at, and how wide these are."""
    paths = dict.fromkeys(
        path for half in {c.half: None for c in changes} for path in find_half(block, core, half).layers
    )
    return {path: layer_of(block, path).in_features for path in paths}


def _portions(sizes: Mapping[int, Mapping[str, int]], most_bytes: int) -> Iterator[list[int]]:
    """Blocks whose moments are gathered together."""
    some: list[int] = []
    taken = 0
    for index, widths in sizes.items():
        need = sum(8 * width * width for width in widths.values())
        if some and taken + need > most_bytes:
            yield some
            some, taken = [], 0
        some.append(index)
        taken += need
    if some:
        yield some


@contextmanager
def _gathering(
    blocks: Sequence[nn.Module], sizes: Mapping[int, Mapping[str, int]]
) -> Iterator[dict[int, dict[str, Moments]]]:
    """Within the block, the inputs of linear layers are gathered; of a block of several passes, of all of them."""
    by_module: dict[int, tuple[nn.Module, Moments]] = {}
    found: dict[int, dict[str, Moments]] = {}
    for index, widths in sizes.items():
        for path, width in widths.items():
            module = blocks[index].get_submodule(path)
            moments = by_module.setdefault(id(module), (module, Moments.of(width)))[1]
            found.setdefault(index, {})[path] = moments
    hooks = [m.register_forward_pre_hook(partial(_gather, moments)) for m, moments in by_module.values()]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _gather(moments: Moments, module: nn.Module, inputs: tuple[Any, ...]) -> None:
    moments.add(inputs[0])


def save_fits(fits: Mapping[str, Mapping[str, Tensor]], path: Path) -> None:
    """Write as safetensors; a killed run leaves the old file or the new one."""
    names = list(fits)
    tensors = {
        f"{place}/{name}": value.contiguous() for place, key in enumerate(names) for name, value in fits[key].items()
    }
    scratch = path.with_name(f".{path.name}.new")
    save_file(tensors, scratch, {"format": _FORMAT, "changes": json.dumps(names)})
    scratch.replace(path)


def load_fits(path: Path | str) -> Fits:
    """Read what a search fitted: its file, or the folder of the study.

    Raises:
        PruneSearchError: if there is none.
        CorruptFileError: for another file.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    if not path.exists():
        raise PruneSearchError(f"there is no '{path}': a search that may change halves of blocks writes it (--free)")
    try:
        with safe_open(path, "pt") as file:
            told = file.metadata() or {}
            if told.get("format") != _FORMAT:
                raise CorruptFileError(f"'{path}' is no file of fitted weights: it must say format '{_FORMAT}'")
            fits: Fits = {name: {} for name in json.loads(told["changes"])}
            names = list(fits)
            for key in file.keys():  # noqa: SIM118
                place, _, name = key.partition("/")
                fits[names[int(place)]][name] = file.get_tensor(key)
    except (SafetensorError, KeyError, ValueError, IndexError):
        raise CorruptFileError(f"'{path}' cannot be read: delete it, and the run fits the weights again") from None
    return fits


def fits_for(plans: Iterable[Plan], folder: Path) -> Fits:
    """What some plans of a study need of what it fitted; nothing where they need none.

    Raises:
        PruneSearchError, CorruptFileError: as `load_fits`.
    """
    needed = any(CHANGES.entry(change.kind).fitted for plan in plans for change in plan.halves.values())
    return load_fits(folder) if needed else {}
