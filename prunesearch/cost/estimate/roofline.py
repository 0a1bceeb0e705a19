"""How long a GPU takes for a kernel: a roofline with tiles and waves, and the host that launches it.

A product cannot run faster than the device's own large products do, nor than its operands can be moved; it is cut into
tiles, and the last wave of tiles keeps all multiprocessors waiting (NVIDIA, "Matrix Multiplication Background User's
Guide"). All other kernels cost the bytes they move. Launches go ahead of the device, so that an eager forward takes
about the greater of what its kernels take and what launching them takes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import ceil
from typing import Literal, cast

import torch
from pydantic import BaseModel, ConfigDict, Field

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.tables.registry import RUNTIMES
from prunesearch.cost.estimate.ops import Op
from prunesearch.cost.tables.specs import DeviceSpec, Dtype

_TILE = 64  # output rows and columns that one multiprocessor works out at a time
_QUERIES = 128  # rows of the attention that one multiprocessor takes at a time
_KEYS, _HEAD = 64, 32  # keys and head widths that fused attention pads to
_SPLITS = (1, 2, 4, 8)  # ways in which the depth of a product may be shared out
_LANES = 8  # halves that tensor cores load at once


class Efficiency(BaseModel):
    """What a device makes of its datasheet. Fitted to public measurements, the same for all devices.

    Args:
        product: share of the device's own best square product that other well-shaped products reach.
        half_depth: depth K at which a product reaches half of that.
        unaligned: share of that which half-precision products reach whose rows are no multiples of 16 bytes.
        attention: share of that best product that fused attention reaches.
        memory: share of the memory's bandwidth that other kernels reach.
        floor_us: what any kernel takes, in microseconds.
        host_us: what launching a kernel takes the host, by mode, in microseconds; nothing in a CUDA graph.
        gemm_share: share of the datasheet's peak that the best square product reaches where it was not measured, for
            `float32` and for `tensor` cores: `a` times (watts per 1e12 operations of peak) to the power of `b`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    product: float = Field(gt=0)
    half_depth: float = Field(ge=0)
    unaligned: float = Field(gt=0, le=1)
    attention: float = Field(gt=0)
    memory: float = Field(gt=0)
    floor_us: float = Field(ge=0)
    host_us: dict[str, float]
    gemm_share: dict[Literal["float32", "tensor"], tuple[float, float]]


class Roofline:
    """Prices kernels on one device.

    Args:
        spec: the device.
        efficiency: fitted.
        tf32: float32 products on tensor cores (`torch.set_float32_matmul_precision("high")`).
    """

    def __init__(self, spec: DeviceSpec, efficiency: Efficiency, tf32: bool = False) -> None:
        self.spec, self.efficiency, self.tf32 = spec, efficiency, tf32
        self._seen: dict[Op, float] = {}

    def ceiling(self, dtype: torch.dtype) -> float:
        """What the device's best products reach in a dtype, in floating-point operations a microsecond.

        Raises:
            PruneSearchError: for a dtype that the device has no units for.
        """
        name = cast(Dtype, str(dtype).removeprefix("torch."))
        if name == "float32" and self.tf32:
            name = "tf32"
        peak = self.spec.peak_tflops.get(name)
        if peak is None:
            known = ", ".join(self.spec.peak_tflops)
            raise PruneSearchError(f"{self.spec.name} has no units for {name} products: use one of {known}")
        a, b = self.efficiency.gemm_share["float32" if name == "float32" else "tensor"]
        assumed = peak * a * float((self.spec.tdp_w / peak) ** b)
        return self.spec.gemm_tflops.get(name, assumed) * 1e6

    def device_us(self, op: Op) -> float:
        """Microseconds that the device is busy with `op`."""
        found = self._seen.get(op)
        if found is None:
            found = self._seen[op] = self.efficiency.floor_us + max(self._compute_us(op), self.memory_us(op.moved))
        return found

    def memory_us(self, moved: int) -> float:
        """Microseconds for moving bytes."""
        return moved / (self.spec.bandwidth_gbs * 1e3 * self.efficiency.memory)

    def _compute_us(self, op: Op) -> float:
        if op.kind == "matmul":
            return self._product_us(op)
        if op.kind == "attention":
            return self._attention_us(op)
        return 0.0

    def _product_us(self, op: Op) -> float:
        fit, sms = self.efficiency, self.spec.sm_count
        rate = self.ceiling(op.dtype) * fit.product / sms
        if op.dtype != torch.float32 and (op.n % _LANES or op.k % _LANES):
            rate *= fit.unaligned

        tiles = op.batch * ceil(op.m / _TILE) * ceil(op.n / _TILE)
        splits = _SPLITS if tiles < sms else (1,)  # sharing out the depth pays while multiprocessors are idle
        waves = min(ceil(tiles * split / sms) * (op.k / split + fit.half_depth) for split in splits)
        return waves * 2 * _TILE * _TILE / rate

    def _attention_us(self, op: Op) -> float:
        sms = self.spec.sm_count
        keys, width = ceil(op.n / _KEYS) * _KEYS, ceil(op.k / _HEAD) * _HEAD
        rows = min(ceil(op.m / _KEYS) * _KEYS, _QUERIES)
        blocks = op.batch * ceil(op.m / rows)
        rate = self.ceiling(op.dtype) * self.efficiency.attention / sms
        return ceil(blocks / sms) * 4 * rows * keys * width / rate


def fused(run: Sequence[Op]) -> Op:
    """One kernel for a run of memory-bound ones: only what the first reads and the last writes goes through memory."""
    first, last = run[0], run[-1]
    return Op("memory", last.dtype, first.read + last.moved - last.read, first.read)


class RooflineClock:
    """A `Clock` that tells the time a device would have, from the kernels it hears of.

    Two hands: the host launches kernel after kernel, the device starts each when it is launched and the one before has
    ended. Reading the time between marks waits for the device, as a synchronisation does.

    Args:
        roofline: prices the kernels.
        mode: one of torch's in `RUNTIMES`. One that compiles fuses runs of memory-bound kernels into one within the
            halves of blocks, which alone are compiled (`modes.Compiled`); one without launches costs the host nothing.

    A forward leaves a mark at its start, at its end, and before and after each half of a block: every other stretch
    between two marks is the inside of one.
    """

    def __init__(self, roofline: Roofline, mode: str = "eager") -> None:
        row = RUNTIMES.entry(mode)
        if not row.by_torch:
            known = ", ".join(name for name in RUNTIMES if RUNTIMES.entry(name).by_torch)
            raise PruneSearchError(f"mode must be one of torch's ({known}) to be estimated, but got '{mode}'")
        self.roofline, self._compiles = roofline, row.compiles
        self._host_costs = {name: us * row.launches for name, us in roofline.efficiency.host_us.items()}
        self._marks = 0
        self._host_us = self._device_us = 0.0
        self._launching_us = self._busy_us = 0.0
        self._run: list[Op] = []

    def hear(self, op: Op) -> None:
        """Note that a kernel is launched."""
        if self._inside and op.kind == "memory":
            self._run.append(op)
            return
        self._flush()
        self._launch(op)

    def mark(self) -> float:
        """See `Clock`; microseconds."""
        self._flush()
        self._marks += 1
        return max(self._host_us, self._device_us)

    def between_ms(self, marks: Sequence[float]) -> list[float]:
        """See `Clock`."""
        self._marks = 0
        self._host_us = self._device_us = max(self._host_us, self._device_us)
        return [(b - a) / 1e3 for a, b in itertools.pairwise(marks)]

    @property
    def host_bound(self) -> bool:
        """Whether launching all that was heard takes longer than running it."""
        return self._launching_us > self._busy_us

    @property
    def _inside(self) -> bool:
        """Whether what is heard is compiled."""
        return self._compiles and self._marks > 0 and self._marks % 2 == 0

    def _flush(self) -> None:
        if self._run:
            self._launch(fused(self._run))
            self._run.clear()

    def _launch(self, op: Op) -> None:
        launch_us = self._host_costs["compile" if self._inside else "eager"]
        busy_us = self.roofline.device_us(op)
        self._launching_us += launch_us
        self._busy_us += busy_us
        self._host_us += launch_us
        self._device_us = max(self._host_us, self._device_us) + busy_us
