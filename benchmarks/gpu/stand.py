"""Where the day happens: a GPU, or this CPU standing in for one so that every part can be tried without.

Whatever differs between the two is a method here; the parts ask nothing.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from prunesearch.cost.devices.counter import Unavailable
from prunesearch.cost.energy.counters import Reading
from prunesearch.cost.energy.schedules import open_meter
from prunesearch.cost.energy.window import EnergyMeter

Run = Callable[[], Any]
_WARM_UPS = 3
_ASKS = ("item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__", "nonzero")


class Stand(Protocol):
    """A place to run steps at.

    Attributes:
        device: where models lie.
        stand_in: nothing that is found here is true of a GPU; everything is small.
        dtypes: what correctness is tried in; speed, in the first.
        modes: rows of `RUNTIMES` that speed is measured in without compiling.
    """

    device: torch.device
    stand_in: bool
    dtypes: tuple[torch.dtype, ...]
    modes: tuple[str, ...]

    def waits(self, run: Run) -> int:
        """How often `run` makes the host wait for the device."""

    def forbidding_waits(self) -> Any:
        """A context in which such a wait raises."""

    def replaying(self, run: Run) -> Run:
        """`run` as it will be replayed: on what its inputs hold then, into the same output."""

    def synchronize(self) -> None:
        """Wait until all work is done."""

    def alive(self) -> bool:
        """Whether this process can still use the device."""

    def meter(self) -> EnergyMeter | Unavailable:
        """The device's energy."""

    def size(self, real: Any, small: Any) -> Any:
        """`real` on a GPU, `small` on the stand-in."""


class OnGpu:
    """See `Stand`: the first CUDA device."""

    stand_in = False
    dtypes = (torch.bfloat16, torch.float32, torch.float16)
    modes = ("eager", "cuda-graph")

    def __init__(self) -> None:
        self.device = torch.device("cuda:0")
        self.usable = True

    def waits(self, run: Run) -> int:
        """See `Stand`."""
        run()  # a first forward loads kernels
        self.synchronize()
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                run()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("called a synchronizing" in str(one.message) for one in heard)

    @contextmanager
    def forbidding_waits(self) -> Iterator[None]:
        """See `Stand`."""
        self.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def replaying(self, run: Run) -> Run:
        """See `Stand`: a CUDA graph."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                out = run()
        except RuntimeError:
            self.usable = False  # the allocator still believes in the capture: this process must measure nothing more
            raise

        def replay() -> Any:
            graph.replay()
            return out

        return replay

    def synchronize(self) -> None:
        """See `Stand`."""
        torch.cuda.synchronize(self.device)

    def alive(self) -> bool:
        """See `Stand`: after an illegal access every call of the process fails."""
        try:
            torch.zeros(8, device=self.device).sum().item()
        except RuntimeError:
            self.usable = False
        return self.usable

    def meter(self) -> EnergyMeter | Unavailable:
        """See `Stand`."""
        return open_meter(self.device)

    def size(self, real: Any, small: Any) -> Any:
        """See `Stand`."""
        return real


class _Asks(TorchFunctionMode):
    """Counts how often Python asks a tensor for its values."""

    count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += getattr(func, "__name__", "") in _ASKS
        return func(*args, **(kwargs or {}))


class StandIn:
    """See `Stand`: this CPU. Its energy is made up: 50 W at work and idle 20 W, twenty times as fast as time."""

    stand_in = True
    dtypes = (torch.float32, torch.bfloat16)
    modes = ("eager",)

    def __init__(self) -> None:
        self.device = torch.device("cpu")

    def waits(self, run: Run) -> int:
        """See `Stand`."""
        with _Asks() as asked:
            run()
        return asked.count

    @contextmanager
    def forbidding_waits(self) -> Iterator[None]:
        """See `Stand`."""
        with _Asks() as asked:
            yield
        if asked.count:
            raise RuntimeError(f"called a synchronizing operation ({asked.count} times)")

    def replaying(self, run: Run) -> Run:
        """See `Stand`: the output is the first one's memory, as a graph's is."""
        out: Tensor | None = None

        def replay() -> Any:
            nonlocal out
            found = run()
            out = found.clone() if out is None else out.copy_(found)
            return out

        replay()
        return replay

    def synchronize(self) -> None:
        """See `Stand`."""

    def alive(self) -> bool:
        """See `Stand`."""
        return True

    def meter(self) -> EnergyMeter | Unavailable:
        """See `Stand`."""
        made_up = MadeUpPower()
        return EnergyMeter(made_up, clock=made_up.now, sleep=made_up.sleep)

    def size(self, real: Any, small: Any) -> Any:
        """See `Stand`."""
        return small


class MadeUpPower:
    """A counter that knows work from rest by nothing but whether the meter sleeps; its clock runs `FAST` times."""

    name, covers, update_period_s = "made-up", "nothing: a stand-in", None
    FAST, WORK_W, IDLE_W, TICK_S = 20.0, 50.0, 20.0, 0.02

    def __init__(self) -> None:
        self.slept = self.told_mj = 0.0
        self.began = time.monotonic()

    def now(self) -> float:
        """Seconds, fast."""
        return (time.monotonic() - self.began) * self.FAST

    def sleep(self, seconds: float) -> None:
        """Sleep so long on the fast clock."""
        before = self.now()
        time.sleep(seconds / self.FAST)
        self.slept += self.now() - before

    def read(self) -> Reading:
        """See `EnergyCounter`: as of the last tick."""
        now = self.now()
        told = now // self.TICK_S * self.TICK_S
        energy_mj = 1e3 * (self.WORK_W * (told - self.slept) + self.IDLE_W * self.slept)
        self.told_mj = max(self.told_mj, energy_mj)  # counters never go back
        return Reading(now, self.told_mj)

    def temperature_c(self) -> float | None:
        """See `EnergyCounter`."""
        return None

    def close(self) -> None:
        """See `EnergyCounter`."""


STANDS: Mapping[str, Callable[[], Stand]] = {"cuda": OnGpu, "cpu": StandIn}
