"""What a forward asks of a device: the kernels that PyTorch would launch, recorded on the `meta` device.

On `meta` nothing is computed and no weight exists, so that a forward of a large model at a large batch costs
milliseconds of one core. `record` sees every operation that the real model, the scorers and the merges execute; views
are free and leave no record.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import chain
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from prunesearch.core.errors import PruneSearchError
from prunesearch.pruning.forward.constants import in_making

KINDS = ("matmul", "attention", "memory")

_aten = torch.ops.aten
# operands of each product: positions of the left and the right matrix among the arguments
PRODUCTS = {_aten.mm: (0, 1), _aten.bmm: (0, 1), _aten.addmm: (1, 2), _aten.baddbmm: (1, 2)}
_IS_PRODUCT = re.compile(r"mm$|mv$|matmul|einsum|(^|_)linear|conv|dot|_lstm|_gru")
# an allocation launches nothing; the rest only look at a tensor in another way, although their schemas do not say so
_FREE = (
    _aten.empty, _aten.empty_like, _aten.new_empty, _aten.empty_strided, _aten.new_empty_strided,
    _aten._unsafe_view, _aten._reshape_alias, _aten.lift_fresh, _aten.detach,
)  # fmt: skip
_READS_ONCE = (_aten.index_select, _aten.gather, _aten.index, _aten.embedding)


@dataclass(frozen=True)
class Op:
    """One kernel, as far as its cost goes.

    `kind` is a name in `KINDS`. A matmul is `batch` products of `[m, k]` and `[k, n]`; attention has `m` queries, `n`
    keys and head width `k` in each of `batch` heads; of the others only `moved`, the bytes read and written, counts.
    `masked`: attention with an additive or boolean mask.
    """

    kind: str
    dtype: torch.dtype
    moved: int
    read: int
    batch: int = 1
    m: int = 0
    n: int = 0
    k: int = 0
    masked: bool = False

    @property
    def flops(self) -> int:
        """Floating-point operations of the products in it: a multiply-add is two."""
        products = {"matmul": 1, "attention": 2}.get(self.kind, 0)
        return 2 * products * self.batch * self.m * self.n * self.k


@contextmanager
def record(listen: Callable[[Op], None]) -> Iterator[None]:
    """Within the block, `listen` is told of every kernel that PyTorch operations on `meta` tensors stand for.

    Fused attention is one kernel, as on a GPU; on `meta` it would fall apart into a matrix of all pairs.
    """
    with _Dispatched(listen), _Attention(listen):
        yield


def record_forward(model: nn.Module, inputs: Mapping[str, Tensor]) -> list[Op]:
    """The kernels of one forward of a model on `meta`, in order."""
    ops: list[Op] = []
    with torch.inference_mode(), record(ops.append):
        model(**inputs)
    return ops


def to_meta(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of `model` on the `meta` device: its structure without its weights. `model` is left as it is.

    Args:
        model: any module; its parameters and buffers are not copied, nor read.
        dtype: of the copy's floating-point parameters and buffers.
    """
    weights: dict[int, Any] = {}
    for tensor in chain(model.parameters(), model.buffers()):
        wanted = dtype if tensor.is_floating_point() else tensor.dtype
        ghost = torch.empty_like(tensor, device="meta", dtype=wanted)
        is_parameter = isinstance(tensor, nn.Parameter)
        weights[id(tensor)] = nn.Parameter(ghost, requires_grad=False) if is_parameter else ghost
    return copy.deepcopy(model, weights)


def inputs_to_meta(inputs: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The shapes of a batch without padding on the `meta` device; floating-point inputs in `dtype`.

    A padding mask is left out: models look into it, to find that there is nothing to mask.
    """
    return {
        name: torch.empty_like(x, device="meta", dtype=dtype if x.is_floating_point() else x.dtype)
        for name, x in inputs.items()
        if name != "attention_mask"
    }


class _Attention(TorchFunctionMode):
    """Takes fused attention out of the stream before `meta` decomposes it."""

    def __init__(self, listen: Callable[[Op], None]) -> None:
        super().__init__()
        self.listen = listen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, key, value, mask = _attention_inputs(*args, **(kwargs or {}))
        *lead, m, k = query.shape
        moved = [_size(x) for x in (query, key, value, query)] + ([_size(mask)] if mask is not None else [])
        self.listen(
            Op(
                "attention", query.dtype, sum(moved), sum(moved) - _size(query), batch=prod(lead),
                m=m, n=key.shape[-2], k=k, masked=mask is not None,
            )
        )  # fmt: skip
        # fused kernels write `[batch, tokens, heads, width]`, so that joining the heads afterwards copies nothing
        return query.new_empty(*lead[:-1], m, lead[-1], value.shape[-1]).transpose(-3, -2)


def _attention_inputs(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *_: Any, **__: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    return query, key, value, attn_mask


class _Dispatched(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Turns what reaches the dispatcher into records.

    Working out what an operation returns takes PyTorch longer than everything else here, and a forward asks the same
    over and over: the answers are kept.
    """

    def __init__(self, listen: Callable[[Op], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.listen = listen
        self.known: dict[Any, tuple[Op | None, Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket is _aten.dropout and not args[2]:
            return args[0]  # what the device is spared too; taken apart in Python, it would come out as a copy
        if _has_parts(func):
            with self:
                return func.decompose(*args, **kwargs)
        key = None if func.is_view or func._schema.is_mutable else _signature((func, args, sorted(kwargs.items())))
        if key in self.known:
            op, made = self.known[key]
            out = _rebuild(made)
        else:
            out = func(*args, **kwargs)
            op = _describe(func, args, kwargs, out)
            made = _results(out)
            if key is not None and made is not None:
                self.known[key] = op, made
        if op is not None and not in_making():
            self.listen(op)
        return out


@cache
def _has_parts(func: Any) -> bool:
    """Whether a device is asked for the parts of an operation; in inference mode it reaches the dispatcher whole."""
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"))


class _Made(NamedTuple):
    """A tensor on `meta`, as far as it can be told from others."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype


def _signature(tree: Any) -> Any:
    """A hashable form of arguments; None if they hold a tensor that is not on `meta`."""
    if isinstance(tree, Tensor):
        return _Made(tuple(tree.shape), tree.stride(), tree.dtype) if tree.device.type == "meta" else None
    if isinstance(tree, (list, tuple)):
        parts = tuple(_signature(part) for part in tree)
        return None if None in parts else parts
    return (type(tree), tree)  # 1, 1.0 and True are equal, but not the same


def _results(out: Any) -> Any:
    """What `_rebuild` makes the results of an operation from; None if they are more than tensors on `meta`."""
    made = tuple(_signature(x) for x in out) if isinstance(out, tuple) else _signature(out)
    parts = made if isinstance(out, tuple) else (made,)
    return made if all(isinstance(part, _Made) for part in parts) else None


def _rebuild(made: Any) -> Any:
    if isinstance(made, _Made):
        return torch.empty_strided(made.shape, made.strides, dtype=made.dtype, device="meta")
    return tuple(_rebuild(part) for part in made)


def _describe(func: Any, args: Any, kwargs: Any, out: Any) -> Op | None:
    packet = func.overloadpacket
    if func.is_view or packet in _FREE:
        return None
    read, written = _tensors((args, list(kwargs.values()))), _tensors(out)
    if not written or any(x.device.type != "meta" for x in (*read, *written)):
        return None  # nothing that the device would do: a scalar worked out on the host, a question about a shape
    if packet is _aten.convolution:
        return _convolution(args, out)
    if packet in PRODUCTS:
        left, right = (args[i] for i in PRODUCTS[packet])
        inputs = sum(map(_size, read))
        batch = left.shape[0] if left.dim() == 3 else 1
        return Op(
            "matmul", left.dtype, inputs + _size(out), inputs, batch, left.shape[-2], right.shape[-1], left.shape[-1]
        )
    if _IS_PRODUCT.search(packet.__name__):
        raise PruneSearchError(f"every product must be priced, but {func} has no rule: add one to cost/estimate/ops.py")
    # of a table that rows are picked from, only those rows are read
    inputs = sum(min(_size(x), _size(out)) for x in read) if packet in _READS_ONCE else sum(map(_size, read))
    moved = inputs + sum(map(_size, written))
    return Op("memory", written[0].dtype, moved, inputs)


def _convolution(args: Any, out: Tensor) -> Op:
    """A convolution as the product of weights and unfolded patches that it is."""
    image, weight = args[0], args[1]
    inputs = _size(image) + _size(weight)
    places, depth = out.numel() // out.shape[1], weight.numel() // weight.shape[0]
    return Op("matmul", image.dtype, inputs + _size(out), inputs, 1, places, weight.shape[0], depth)


def _tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, (list, tuple)):
        return [x for part in tree for x in _tensors(part)]
    return []


def _size(x: Tensor) -> int:
    """Bytes of memory behind a tensor: an axis it is expanded over is stored once."""
    stored = prod(n for n, step in zip(x.shape, x.stride(), strict=True) if step != 0)
    return stored * x.element_size()
