"""Small tensors that hang on counts alone: made once, and kept for all forwards, models and threads.

On a GPU each would be a launch in every stage. Nothing may write into them.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, cast

import torch
from torch import Tensor

P = ParamSpec("P")
_tracing: Any = torch._C._is_tracing
_compiling = torch.compiler.is_compiling
_KEPT, _KEPT_BYTES = 1024, 2**26  # of each kind
_LONGEST = 1024  # tokens of a row up to which there are tables of rows of every length: 8 MiB in int64
_STORAGES: weakref.WeakValueDictionary[int, torch.UntypedStorage] = weakref.WeakValueDictionary()
_local = threading.local()


def in_making() -> bool:
    """Whether this thread makes a constant now: what later forwards do without is no part of a forward."""
    return getattr(_local, "making", False)


def is_constant(storage: torch.UntypedStorage) -> bool:
    """Whether it is that of a constant, or made on the way to one: like weights, these are no activations."""
    return in_making() or id(storage) in _STORAGES


def kept_storages() -> list[torch.UntypedStorage]:
    """Those of all constants that there are."""
    return list(_STORAGES.values())


def _registered(make: Callable[..., Tensor], device: torch.device, *args: Any) -> Tensor:
    _local.making = True
    try:
        found = make(device, *args)
    finally:
        _local.making = False
    storage = found.untyped_storage()
    _STORAGES[id(storage)] = storage
    return found


def constant(asked: Callable[Concatenate[torch.device, P], Tensor]) -> Callable[Concatenate[Tensor, P], Tensor]:
    """Keep what a function `(device, *counts)` gives: what is returned takes a tensor of that device in its place.

    Whoever traces is given a tensor of its own, and so is a CUDA graph, which outlives what is kept here. On CUDA each
    stream has its own, so that none reads what another has not written yet.
    """

    make: Callable[..., Tensor] = asked

    known: dict[tuple[Any, ...], Tensor] = {}

    def new(key: tuple[Any, ...]) -> Tensor:
        device, _, *args = key
        with torch.inference_mode(False):  # one that was made in inference mode could not be trained with
            found = _registered(make, device, *args)
        if type(found) is Tensor:  # and not what a mode of fake tensors makes beside real ones
            held = sum(x.untyped_storage().nbytes() for x in (found, *known.values()))
            if len(known) >= _KEPT or held > _KEPT_BYTES:
                known.clear()
            known[key] = found
        return found

    def get(like: Tensor, /, *args: Any) -> Tensor:
        device, stream = like.device, 0
        if _compiling() or _tracing():
            return make(device, *args)
        if type(like) is not Tensor:
            return _registered(make, device, *args)
        if like.is_cuda:
            if torch.cuda.is_current_stream_capturing():
                return make(device, *args)
            stream = torch.cuda.current_stream(device).cuda_stream
        key = device, stream, *args
        found = known.get(key)
        return new(key) if found is None else found

    return cast(Callable[Concatenate[Tensor, P], Tensor], wraps(asked)(get))


def are_kept(like: Tensor) -> bool:
    """Whether constants for a tensor are kept, and not made in every forward."""
    if _compiling() or _tracing() or type(like) is not Tensor:
        return False
    return not (like.is_cuda and torch.cuda.is_current_stream_capturing())


def is_looked_up(length: Tensor, longest: int) -> bool:
    """Whether what hangs on the lengths of rows is looked up in a table of every length up to `longest`."""
    return longest <= _LONGEST and are_kept(length)


def by_length(asked: Callable[Concatenate[Tensor, P], Tensor]) -> Callable[Concatenate[Tensor, int, P], Tensor]:
    """Look up what hangs on the lengths of rows: of every length it is made once, and kept.

    `asked` takes lengths `[m, 1]` and counts, and gives `[m, ...]`; what is returned takes lengths `[batch]`, the
    longest that there can be, and the counts. Whoever traces works the rows out, and so do rows of many tokens.
    """
    make: Callable[..., Tensor] = asked

    def of_every_length(device: torch.device, longest: int, *args: Any) -> Tensor:
        return make(torch.arange(longest + 1, device=device)[:, None], *args)

    table = constant(of_every_length)

    def get(length: Tensor, longest: int, /, *args: Any) -> Tensor:
        if not is_looked_up(length, longest):
            return make(length[:, None], *args)
        return table(length, longest, *args).index_select(0, length)

    return cast(Callable[Concatenate[Tensor, int, P], Tensor], wraps(asked)(get))


@constant
def places(device: torch.device, n: int, first: int = 0, step: int = 1) -> Tensor:
    """`[1, m]` int64: `first`, `first + step`, and so on below `n`."""
    return torch.arange(first, n, step, device=device)[None]


@constant
def row_starts(device: torch.device, batch: int, n: int) -> Tensor:
    """`[batch, 1]` int64: where each row of `n` starts among all rows, one after another."""
    return (torch.arange(batch, device=device) * n)[:, None]


@constant
def ones(device: torch.device, count: int, dtype: torch.dtype) -> Tensor:
    """`[count]` of 1."""
    return torch.ones(count, device=device, dtype=dtype)


@constant
def unit_rows(device: torch.device, count: int, dtype: torch.dtype) -> Tensor:
    """`[count, count]`: 1 where row and column are the same, else 0."""
    return torch.eye(count, device=device, dtype=dtype)


@constant
def zero(device: torch.device, dtype: torch.dtype) -> Tensor:
    """`[1, 1, 1]` of 0."""
    return torch.zeros(1, 1, 1, device=device, dtype=dtype)


@constant
def single(device: torch.device, value: float, dtype: torch.dtype) -> Tensor:
    """`[1, 1]` of one value: with a number in its place, `where` makes a tensor of it every time."""
    return torch.full((1, 1), value, device=device, dtype=dtype)


@constant
def at_the_ends(device: torch.device, n: int, leading: int, trailing: int) -> Tensor:
    """Bool `[1, n]`: the first `leading` and the last `trailing` of `n`."""
    place = torch.arange(n, device=device)
    return ((place < leading) | (place >= n - trailing))[None]


@constant
def in_between(device: torch.device, n: int, leading: int, trailing: int) -> Tensor:
    """Bool `[1, n]`: all but the first `leading` and the last `trailing` of `n`."""
    place = torch.arange(n, device=device)
    return ((place >= leading) & (place < n - trailing))[None]


@constant
def closed_ends(device: torch.device, n: int, leading: int, trailing: int, dtype: torch.dtype) -> Tensor:
    """`[1, 1, n]`: -inf where `at_the_ends`, else 0."""
    place = torch.arange(n, device=device)
    ends = (place < leading) | (place >= n - trailing)
    return torch.zeros(n, device=device, dtype=dtype).masked_fill(ends, -torch.inf)[None, None]
