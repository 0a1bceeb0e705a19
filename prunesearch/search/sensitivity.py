"""One-stage sensitivities: what the model loses when its ONLY reduction is at one block.

D(layer, level, method) is the mean divergence from the unpruned outputs. Every measurement restarts from the unpruned
activations that enter its block, so that what comes before is computed once per batch, not once per measurement.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunesearch.core.errors import CorruptFileError
from prunesearch.core.files import write_text_atomic
from prunesearch.core.schedule import Schedule
from prunesearch.pruning.apply import Handle
from prunesearch.search.space import Space
from prunesearch.tasks.base import Batch, EvalSet, Task
from prunesearch.tasks.metrics import kl_divergence

Site = tuple[int, int, str]  # layer, keep level, method
_SCREEN_DEPTHS = (0.1, 0.4, 0.7)  # of the model, where methods are screened
_SCREEN_KEEPS = (0.5, 0.25)


@dataclass(frozen=True)
class Sensitivities:
    """`loss[i, g, m]`: mean divergence in nats at `layers[i]`, keep level `g` (0: whole sequence), `methods[m]`.

    `samples` rows were used; `seconds` is what measuring took, screening included.
    """

    layers: list[int]
    keeps: list[float]
    methods: list[str]
    loss: NDArray[np.float64]
    samples: int
    seconds: float = 0.0

    def estimate(self, schedule: Schedule) -> float:
        """Additive estimate of a schedule's loss: the sum over stages of what each adds to the one before.

        Stage s adds `max(0, D(l_s, n_s) - D(l_s, n_{s-1}))`: tokens gone before cannot be lost again.
        """
        total, last = 0.0, 0
        for stage in schedule:
            i, g = self.layers.index(stage.layer), self.keeps.index(stage.keep)
            row = self.loss[i, :, self.methods.index(stage.method)]
            total += max(0.0, float(row[g] - row[last]))
            last = g
        return total

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        data = {**self.__dict__, "loss": self.loss.tolist()}
        write_text_atomic(path, json.dumps(data))

    @classmethod
    def load(cls, path: Path) -> Sensitivities:
        """Read what `save` wrote."""
        try:
            data = json.loads(path.read_text())
            return cls(**{**data, "loss": np.asarray(data["loss"], dtype=float)})
        except (ValueError, TypeError, KeyError):
            raise CorruptFileError(f"'{path}' is not readable: delete it, and the run measures it again") from None


def screen_methods(
    task: Task, handle: Handle, split: EvalSet, space: Space, advance: Callable[[int], None]
) -> list[str]:
    """Choose the few methods that together lose least: a trial of all at a few sites on few samples.

    Greedy cover: each method added is the one that lowers most the sum, over sites, of the best loss so far; the
    best `drop` is always among them, since it is the cheapest merge.
    """
    sites = screening_sites(space)
    total = _measure(task, handle, split, space, ((*s, m) for s in sites for m in space.methods), advance)
    table = np.array([[total[(*s, m)] for s in sites] for m in space.methods]) / split.n
    # sites where everything is lost would outvote the others: compare on a logarithmic scale
    table = np.log(table + 1e-4)
    drops = [i for i, m in enumerate(space.methods) if m.endswith("+drop")]
    chosen = [min(drops, key=lambda i: table[i].sum())] if drops else [int(table.sum(1).argmin())]
    while len(chosen) < min(space.file.screened_methods, len(space.methods)):
        best = table[chosen].min(0)
        rest = [i for i in range(len(table)) if i not in chosen]
        # where none improves on the best at any site, the one that is best by itself comes next
        chosen.append(min(rest, key=lambda i: (np.minimum(best, table[i]).sum(), table[i].sum())))
    return [space.methods[i] for i in chosen]


def screening_sites(space: Space) -> list[tuple[int, int]]:
    """The `(layer, level)` pairs at which methods are screened."""
    layers = sorted({space.layers[int(d * len(space.layers))] for d in _SCREEN_DEPTHS})
    levels = sorted({int(np.abs(np.array(space.keeps[1:]) - k).argmin()) + 1 for k in _SCREEN_KEEPS})
    return [(layer, level) for layer in layers for level in levels]


def measure_sensitivities(
    task: Task, handle: Handle, split: EvalSet, space: Space, advance: Callable[[int], None]
) -> Sensitivities:
    """Measure D on a whole grid: every layer, keep level and method of `space`.

    Losses are made monotone in the tokens kept (a level never loses less than a higher one), which shares the noise
    of few samples between neighbouring levels.
    """
    grid = [(la, g, m) for la in space.layers for m in space.methods for g in range(1, len(space.keeps))]
    total = _measure(task, handle, split, space, grid, advance)
    loss = np.zeros((len(space.layers), len(space.keeps), len(space.methods)))
    for la, g, m in grid:
        loss[space.layers.index(la), g, space.methods.index(m)] = total[la, g, m] / split.n
    loss = np.maximum.accumulate(loss, axis=1)
    return Sensitivities(space.layers, space.keeps, space.methods, loss, split.n)


@torch.inference_mode()
def _measure(
    task: Task,
    handle: Handle,
    split: EvalSet,
    space: Space,
    sites: Iterable[Site],
    advance: Callable[[int], None],
) -> dict[Site, float]:
    """Summed divergence over `split` of every one-stage schedule in `sites`."""
    schedules = {site: Schedule([space.stage(*site)]) for site in sites}
    total = dict.fromkeys(schedules, 0.0)
    for batch in split.batches:
        handle.set(Schedule())
        with handle.record_inputs() as inputs:
            reference = task.logits(task.model(**batch.inputs))
        for site, schedule in schedules.items():
            handle.set(schedule)
            losses = _resumed_loss(task, handle, batch, reference, site[0], inputs[site[0]])
            total[site] += losses
            advance(len(batch))
    handle.set(Schedule())
    return total


def _resumed_loss(task: Task, handle: Handle, batch: Batch, reference: Tensor, layer: int, hidden: Tensor) -> float:
    with handle.resume_at(layer, hidden):
        logits = task.logits(task.model(**batch.inputs))
    # an output that is not finite loses everything: the method is not chosen there
    return float(kl_divergence(reference, logits).nan_to_num(1e3, 1e3).sum())
