"""A real model on a machine whose clock only moves while it works: every half of a block takes a known time and power.

Attention takes 2 ms a token at 100 W, the MLP 4 ms at 200 W, the embeddings 20 ms at 30 W, a stage 6 ms at 40 W.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.tables.registry import DEVICE_KINDS
from prunesearch.core.tables.token_tables import MERGES
from prunesearch.cost.devices.cpu import Cpu
from tests.support.energy_machine import Machine

ATTENTION_MS, MLP_MS, STEM_MS, STAGE_MS = 2.0, 4.0, 20.0, 6.0
ATTENTION_W, MLP_W, STEM_W, STAGE_W = 100.0, 200.0, 30.0, 40.0


def true_costs(schedule: Schedule, depth: int, tokens: int, rows: int) -> tuple[float, float]:
    """Milliseconds of a batch, and gross mJ of one of its rows, added up by hand; one token is protected."""
    ms, mj, n = STEM_MS, STEM_MS * STEM_W, tokens
    for n_out in schedule.counts(depth, tokens, 1):
        ms, mj = ms + ATTENTION_MS * n, mj + ATTENTION_MS * n * ATTENTION_W
        if n_out < n:
            ms, mj = ms + STAGE_MS, mj + STAGE_MS * STAGE_W
        ms, mj, n = ms + MLP_MS * n_out, mj + MLP_MS * n_out * MLP_W, n_out
    return ms, mj / rows


class HookedClock:
    """The machine's time, as the meter of latencies wants it; `jitter` is the most it is off by, as a share."""

    def __init__(self, machine: Machine, jitter: float = 0.0) -> None:
        self.machine, self.jitter, self.random = machine, jitter, random.Random(0)

    def mark(self) -> float:
        return float(self.machine.now)

    def between_ms(self, marks: Sequence[float]) -> list[float]:
        off = [1 + self.jitter * self.random.uniform(-1, 1) for _ in marks]
        return [(b - a) * 1e3 * by for (a, b), by in zip(itertools.pairwise(marks), off, strict=False)]


def hook(machine: Machine, model: nn.Module) -> list[Any]:
    """Let time pass whenever a ViT's parts run; returns the hooks."""

    def parts(ending: str) -> list[nn.Module]:
        found = [m for name, m in model.named_modules() if name.endswith(ending) and ".layers." in f".{name}."]
        if not found:
            raise LookupError(f"no module ends with {ending}: {[n for n, _ in model.named_modules()]}")
        return found

    def spend(ms: float, watts: float) -> Any:
        def after(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
            hidden = out[0] if isinstance(out, tuple) else out
            machine.spend(ms * hidden.shape[1] * 1e-3, watts)

        return after

    stem = next(m for name, m in model.named_modules() if name.endswith("embeddings"))
    hooks = [stem.register_forward_hook(lambda *_: machine.spend(STEM_MS * 1e-3, STEM_W))]
    hooks += [m.register_forward_hook(spend(ATTENTION_MS, ATTENTION_W)) for m in parts(".attention")]
    return hooks + [m.register_forward_hook(spend(MLP_MS, MLP_W)) for m in parts(".mlp")]


@contextmanager
def hooked(model: nn.Module, **options: Any) -> Iterator[Machine]:
    """The machine that `model` runs on within the block; its counter ticks every 20 ms."""
    machine = Machine(**{"period_s": 0.02, **options})
    hooks = hook(machine, model)

    def spending(merge: Any) -> Any:
        def and_spend(given: Any) -> Any:
            machine.spend(STAGE_MS * 1e-3, STAGE_W)
            return merge(given)

        return and_spend

    with ExitStack() as stack:
        for name in MERGES:
            stack.enter_context(MERGES.replaced(name, spending(MERGES.load(name))))
        try:
            yield machine
        finally:
            for one in hooks:
                one.remove()


@contextmanager
def telling_time(machine: Machine, jitter: float = 0.0) -> Iterator[None]:
    """Within the block tables and whole forwards are timed by the machine's clock."""
    clock = HookedClock(machine, jitter)

    class Told(Cpu):
        """This CPU, with that clock."""

        def clock(self) -> Any:
            return clock

    with DEVICE_KINDS.replaced("cpu", Told):
        yield
