"""Peak activation memory of a forward: measured where the device tells (CUDA); else counted live, `estimated`.

`torch.distributed._tools.mem_tracker.MemTracker` keeps the same books, and is what the tests hold this account
against. It is not used here: it is private, is made for training (it hooks modules and optimizers, and is missing from
builds without torch.distributed), and forwards by shapes alone would still have to be arranged around it.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from prunesearch.core.errors import PruneSearchError
from prunesearch.cost.devices.device import kind_of
from prunesearch.pruning.forward.constants import is_constant

_MIB = 2**20


@dataclass(frozen=True)
class Memory:
    """Peak activation memory of one forward, in MiB (2^20 bytes), for the whole batch; weights and inputs apart."""

    value_mib: float
    status: Literal["measured", "estimated"]


def peak_activation_mib(model: nn.Module, inputs: Mapping[str, Tensor]) -> Memory:
    """Peak memory of the activations of one forward without gradients; a schedule that the model carries is at work.

    Where the device tells, it is measured: the allocator's peak during the forward, less what was allocated before.
    Elsewhere it is estimated: the most bytes that the tensors of the forward held at one time, views counted with
    what they look at. What an operation allocates and frees inside its kernel is seen by the first, not by the second.

    If the model or the inputs lie on the meta device, shapes alone flow, through the operations that a CPU would run:
    no memory and next to no time, whatever the size. Leave an attention mask of ones out then: real models look into
    it and do without, which needs its values.

    Args:
        model: in eval mode; on a device of a kind in `DEVICE_KINDS`, or meta.
        inputs: one batch, by the names of the forward's arguments.

    Raises:
        PruneSearchError: if there are no inputs, or they lie on several devices.
    """
    devices = {value.device for value in inputs.values()}
    if len(devices) != 1:
        found = ", ".join(sorted(map(str, devices))) or "no inputs"
        raise PruneSearchError(f"the inputs must lie on one device to tell the memory of a forward, but got {found}")
    weights = [*model.parameters(), *model.buffers()]
    device = devices.pop()
    on_meta = device.type == "meta"
    with torch.inference_mode():
        measured = None if on_meta else kind_of(device).peak_bytes(lambda: model(**inputs), device)
    if measured is not None:
        return Memory(measured / _MIB, "measured")
    if on_meta or any(w.is_meta for w in weights):
        return Memory(_bytes_by_shape(model, inputs) / _MIB, "estimated")
    with recorded_peak([*weights, *inputs.values()]) as live:
        model(**inputs)
    return Memory(live.peak / _MIB, "estimated")


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within the block, keeps account of the bytes held by tensors that operations make: `now`, and `peak`.

    Args:
        known: tensors that are there before (weights, inputs); they and their views are not counted.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        # held on to, so that no new storage can take the identity of a known one
        self._known = {id(s): s for s in (t.untyped_storage() for t in known)}
        self._live: dict[int, tuple[weakref.ref[torch.UntypedStorage], int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, then enter what it made; its inputs are still held while it is entered."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._enter(leaf.untyped_storage())
        return result

    def _enter(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)  # one storage has one Python object for as long as it lives
        if key in self._known or key in self._live or is_constant(storage):
            return
        size = storage.nbytes()
        self._live[key] = (weakref.ref(storage, lambda _: self._leave(key)), size)
        self.now += size
        self.peak = max(self.peak, self.now)

    def _leave(self, key: int) -> None:
        self.now -= self._live.pop(key)[1]


@contextmanager
def recorded_peak(known: Iterable[Tensor]) -> Iterator[LiveBytes]:
    """Within the block no gradients are kept and live bytes are counted; `known` tensors are not."""
    # out of inference mode: in it, composite operations do not show the tensors they make on the way
    with torch.inference_mode(False), torch.no_grad(), LiveBytes(known) as live:
        yield live


class ByShape:
    """Forwards on a CPU of which only shapes are computed; the weights are made once.

    Fake CPU tensors rather than meta ones: attention asks for the device, and on meta it takes the N x N way that no
    CPU goes.

    Args:
        model: in eval mode, on any device; the schedule that it carries at each forward is at work in it.
        inputs: one batch, by the names of the forward's arguments, without an attention mask.
    """

    def __init__(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> None:
        self._model, self._mode = model, FakeTensorMode(allow_non_fake_inputs=True)  # tables that models keep

        def fake(tensor: Tensor) -> Tensor:
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")

        with self._mode:
            self._weights = {n: fake(w) for n, w in (*model.named_parameters(), *model.named_buffers())}
            self._inputs = {name: fake(value) for name, value in inputs.items()}

    @contextmanager
    def recorded(self) -> Iterator[LiveBytes]:
        """Within the block, `forward` keeps account of its live bytes."""
        known = [*self._weights.values(), *self._inputs.values()]
        with torch.inference_mode(False), torch.no_grad(), self._mode, recorded_peak(known) as live:
            yield live

    def forward(self) -> None:
        """One forward."""
        torch.func.functional_call(self._model, self._weights, (), self._inputs)


def _bytes_by_shape(model: nn.Module, inputs: Mapping[str, Tensor]) -> int:
    """The same account of a forward on a CPU of which only shapes are computed."""
    shapes = ByShape(model, inputs)
    with shapes.recorded() as live:
        shapes.forward()
    return live.peak
