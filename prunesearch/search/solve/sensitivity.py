"""One-stage sensitivities: what the model loses when its ONLY reduction is at one block.

D(layer, level, method) is the mean divergence from the unpruned outputs. Few of its cells are ever measured: those
where the front could change. A surface fitted to them stands for all (`loss_surface`); dynamic programming on its
optimistic side names the cells to measure next, until the front rests on measured cells or the allowance is spent.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunesearch.core.appended import Appended
from prunesearch.core.plans.plan import Options, Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import BEFORE
from prunesearch.pruning.apply import Handle
from prunesearch.search.solve.loss_surface import Cell, LossSurface
from prunesearch.search.solve.losses import Sensitivities
from prunesearch.search.space.moves import sites_of
from prunesearch.search.space.space import Space
from prunesearch.tasks.base import Outputs, Task
from prunesearch.tasks.batching.batches import Batch, EvalSet

if TYPE_CHECKING:
    from prunesearch.cost.costs import Costs
    from prunesearch.search.solve.seed import Solves

_ROUND = 12  # cells measured between two looks at the front
_OPTIMISM = 1.0  # standard deviations
_LEAST_ROWS = 16
_GOLDEN = 0.618034  # steps of this fraction fill an interval evenly at any number of them
# What enters every block is kept between rounds up to this size; beyond it it is computed again.
_CACHE_BYTES = 512 * 2**20
_FRONT = 500


def measure_sensitivities(
    task: Task,
    handle: Handle,
    split: EvalSet,
    space: Space,
    costs: Costs,
    limit: float,
    *,
    samples: int = 64,
    units: float = 5.0,
    seed: int = 0,
    advance: Callable[[float], None] = lambda units: None,
    keep: Appended | None = None,
) -> Sensitivities:
    """Measure D where the front could change, and predict it elsewhere.

    Args:
        split: the calibration rows of the search.
        costs: of the objective that the front is solved for.
        limit: the most that a schedule may cost.
        samples: rows a cell is measured on, at most; also an eighth of the split at most, but 16 at least.
        units: what measuring may cost, in evaluations of the unpruned model on the whole split.
        seed: of where the first cells lie.
        advance: told, after each round, the units spent since the last.
        keep: where losses are kept as they come; those that are there, of the same model, rows and space, count.
    """
    from prunesearch.search.solve.solver import solver_for

    started = time.monotonic()
    rows = split.take(min(samples, max(_LEAST_ROWS, split.n // 8)))
    probe, surface = KeptProbe(Probe(task, handle, rows, space, costs), keep or Appended()), LossSurface(space)
    solver = solver_for(space, costs, limit)
    wanted = first_cells(space, np.random.default_rng(seed))
    spent = 0.0
    while wanted:
        for cell in wanted:
            surface.add(cell, probe.losses(cell))
        units_now = probe.passes / split.n
        advance(min(units_now, units) - spent)
        spent = min(units_now, units)
        if units_now >= units:
            break
        wanted = next_cells(surface, solver)
    probe.close()
    mean, sd = surface.posterior()
    return Sensitivities(
        space.layers,
        space.keeps,
        space.methods,
        _loss_of(mean),
        sd,
        samples=rows.n,
        measured=len(surface.rows),
        passes=probe.passes,
        seconds=time.monotonic() - started + probe.before_s,
    )


class KeptProbe:
    """A probe that keeps what it finds, and takes what another process has found.

    Attributes:
        before_s: seconds that others spent on what was taken.
    """

    def __init__(self, probe: Probe, keep: Appended) -> None:
        self.probe, self.before_s, self._keep = probe, 0.0, keep
        self._known = {tuple(cell): rest for cell, *rest in keep.found}

    @property
    def passes(self) -> float:
        """Rows that went through the whole model, by all processes."""
        return self.probe.passes

    def losses(self, cell: Cell) -> NDArray[np.float64]:
        """As `Probe.losses`."""
        if cell in self._known:
            losses, passes, seconds = self._known[cell]
            self.probe.passes += passes
            self.before_s += seconds
            self.probe.counted = True
            return np.array(losses)
        started, passes = time.monotonic(), self.probe.passes
        found = self.probe.losses(cell)
        self._keep.add([cell, found.tolist(), self.probe.passes - passes, time.monotonic() - started])
        if self._keep.due:
            self._keep.flush()
        return found

    def close(self) -> None:
        """Let go of the activations, and write the last."""
        self.probe.close()
        self._keep.flush()


def measure_halves(
    task: Task,
    handle: Handle,
    rows: EvalSet,
    space: Space,
    costs: Costs,
    options: Options,
    advance: Callable[[int], None] = lambda done: None,
) -> dict[str, float]:
    """What each change of half a block loses by itself, by how it prints itself: mean divergence, as of one stage."""
    probe, found = Probe(task, handle, rows, space, costs), dict[str, float]()
    for (block, _), known in options.items():
        for change in known:
            found[str(change)] = float(probe.losses_under(Plan(changes=[change]), block).mean())
        advance(len(known))
    probe.close()
    return found


def first_cells(space: Space, rng: np.random.Generator) -> list[Cell]:
    """One cell for every method, and every block as often as any other, the levels spread evenly."""
    methods, layers = len(space.methods), len(space.layers)
    n = max(methods, 2 * layers)
    levels = ((np.arange(n) * _GOLDEN + rng.random()) % 1 * (len(space.keeps) - 1)).astype(int) + 1
    order = [rng.permutation(layers), rng.permutation(methods)]
    return list(
        dict.fromkeys(
            (int(order[0][k % layers]), int(levels[k]), int(order[1][k % methods]))
            for k in range(n)
            if space.takes(int(order[0][k % layers]), int(order[1][k % methods]))
        )
    )


def next_cells(surface: LossSurface, solver: Solves) -> list[Cell]:
    """The cells to measure next: unmeasured ones that the front would use if they lost as little as they well may."""
    mean, sd = surface.posterior()
    space = surface.space
    hopeful = Sensitivities.free(space).with_loss(_loss_of(mean - _OPTIMISM * sd))
    uses: dict[Cell, int] = {}
    for seed in solver.solve(hopeful, _FRONT):
        for cell in sites_of(space, seed.schedule):
            uses[cell] = uses.get(cell, 0) + 1
    unmeasured = [cell for cell in uses if cell not in surface.rows]
    return sorted(unmeasured, key=lambda cell: -sd[cell] * uses[cell] ** 0.5)[:_ROUND]


def _loss_of(log_loss: NDArray[np.float64]) -> NDArray[np.float64]:
    """Losses that no level has less of than a higher one; the whole sequence (level 0) loses nothing."""
    loss = np.exp(log_loss)
    loss[:, 0] = 0.0
    monotone: NDArray[np.float64] = np.maximum.accumulate(loss, axis=1)
    return monotone


class Probe:
    """Measures cells: every measurement restarts from the unpruned activations that enter its block.

    Args:
        rows: the rows to measure on.
        costs: prices what a measurement costs.
        cache_bytes: activations that enter the blocks are kept between measurements up to this size.

    Attributes:
        passes: rows that went through the whole model.
        counted: those that the kept activations took are in it already.
    """

    def __init__(
        self, task: Task, handle: Handle, rows: EvalSet, space: Space, costs: Costs, cache_bytes: int = _CACHE_BYTES
    ) -> None:
        self.task, self.handle, self.rows, self.space, self.costs = task, handle, rows, space, costs
        self.passes, self.cache_bytes, self.counted = 0.0, cache_bytes, False
        self._kept: dict[int, tuple[Outputs, list[Tensor]]] = {}
        self._bytes = 0

    @torch.inference_mode()
    def losses(self, cell: Cell) -> NDArray[np.float64]:
        """Divergence of every row under the one stage of `cell`, `[rows]`."""
        layer = self.space.layers[cell[0]]
        stage = self.space.stage(layer, cell[1], self.space.methods[cell[2]])
        return self.losses_under(Schedule([stage]), None if layer < BEFORE else max(layer, 0))

    @torch.inference_mode()
    def losses_under(self, plan: Plan | Schedule, layer: int | None) -> NDArray[np.float64]:
        """Divergence of every row under a plan that leaves the blocks before `layer` alone, `[rows]`; None: none."""
        found = []
        for index, batch in enumerate(self.rows.batches):
            reference, inputs = self._entering(index, batch)
            again = nullcontext() if layer is None else self.handle.resuming(layer, inputs[layer])
            with self.handle.under(plan), again:
                outputs = self.task.outputs(self.task.model, batch)
            # an output that is not finite loses everything: the method is not chosen there
            lost = self.task.divergence(reference, outputs, batch)
            found.append(lost.nan_to_num(1e3, 1e3).double().cpu().numpy())
        self.passes += self.rows.n * self._share(layer or 0, plan)
        losses: NDArray[np.float64] = np.maximum(np.concatenate(found), 0.0)
        return losses

    def close(self) -> None:
        """Let go of the activations."""
        self._kept.clear()

    def _share(self, layer: int, plan: Plan | Schedule) -> float:
        """Cost of the blocks from `layer` on, as a share of a forward of the unpruned model."""
        n = self.space.tokens
        skipped = sum(self.costs.attention(n, False, block) + self.costs.mlp(n, block) for block in range(layer))
        return (self.costs.predict(plan) - skipped) / self.costs.predict(Schedule())

    def _entering(self, index: int, batch: Batch) -> tuple[Outputs, list[Tensor]]:
        """Unpruned outputs of a batch, and what enters each block, `[batch, tokens, width]`."""
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        with self.handle.under(Schedule()), self.handle.observing() as recorded:
            reference = self.task.condensed(self.task.outputs(self.task.model, batch))
        found = (reference, list(recorded))
        size = sum(t.numel() * t.element_size() for t in recorded)
        fits = self._bytes + size <= self.cache_bytes
        if fits:
            self._bytes += size
            self._kept[index] = found
        self.passes += 0 if fits and self.counted else len(batch)
        return found
