"""One-stage losses: what the model loses when its only reduction is at one block."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prunesearch.core.errors import CorruptFileError
from prunesearch.core.files import parse_json, write_text_atomic
from prunesearch.core.plans.plan import Options, Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.search.space.space import Space


@dataclass(frozen=True)
class Sensitivities:
    """`loss[i, g, m]`: mean `Task.divergence` at `layers[i]`, keep level `g` (0: whole sequence), `methods[m]`.

    Attributes:
        sd: standard deviation of its logarithm, of the same shape.
        samples: calibration rows that a cell was measured on.
        measured: cells that were measured; the others are predicted from them.
        passes: what measuring cost, in forwards of one row through the unpruned model.
        seconds: how long it took.
        base: what changes of the model lose without a stage, by `Plan.variant`.
        halves: what each change of half a block loses by itself, by how it prints itself.
    """

    layers: list[int]
    keeps: list[float]
    methods: list[str]
    loss: NDArray[np.float64]
    sd: NDArray[np.float64]
    samples: int
    measured: int
    passes: float = 0.0
    seconds: float = 0.0
    base: dict[str, float] = field(default_factory=dict)
    halves: dict[str, float] = field(default_factory=dict)

    def added(self, layer: int, before: int, after: int) -> NDArray[np.float64]:
        """What a stage from one level to another adds to the loss, by every method, `[methods]`.

        D(after) times the share of tokens that the stage removes over the share removed since the start: tokens gone
        before cannot be lost again, but those that are left are worth more. On verified schedules of trained
        classifiers this is twice as close as the difference D(after) - D(before), which a change of method fools.

        Args:
            layer: index into `layers`.
            before, after: keep levels, `before < after`.
        """
        gone = 1 - self.keeps[after] / self.keeps[before]
        stage: NDArray[np.float64] = self.loss[layer, after] * (gone / (1 - self.keeps[after]))
        return stage

    def estimate(self, plan: Plan | Schedule) -> float:
        """Additive estimate of a plan's loss: what its changes lose, and the sum of what its stages add."""
        total, last = self.of_changes(Plan.of(plan)), 0
        for stage in plan:
            i, g = self.layers.index(stage.place.site), self.keeps.index(stage.keep)
            total += float(self.added(i, last, g)[self.methods.index(stage.method)])
            last = g
        return total

    def is_of(self, space: Space) -> bool:
        """Whether these are losses of the stages of a space."""
        return (self.layers, self.keeps) == (space.layers, space.keeps) and set(space.methods) <= set(self.methods)

    def of_changes(self, plan: Plan) -> float:
        """What a plan's changes lose."""
        return self.base.get(plan.variant, 0.0) + self.of_halves(plan)

    def of_halves(self, plan: Plan) -> float:
        """What its changes of halves of blocks lose, each by itself."""
        return sum(self.halves.get(str(change), 0.0) for change in plan.halves.values())

    def with_loss(self, loss: NDArray[np.float64]) -> Sensitivities:
        """The same with other losses."""
        return replace(self, loss=loss)

    @classmethod
    def free(cls, space: Space, options: Options | None = None) -> Sensitivities:
        """As if nothing were lost anywhere."""
        zeros = np.zeros((len(space.layers), len(space.keeps), len(space.methods)))
        halves = {str(change): 0.0 for known in (options or {}).values() for change in known}
        return cls(space.layers, space.keeps, space.methods, zeros, zeros, 0, 0, halves=halves)

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        data = {**self.__dict__, "loss": self.loss.tolist(), "sd": self.sd.tolist()}
        write_text_atomic(path, json.dumps(data))

    @classmethod
    def load(cls, path: Path) -> Sensitivities:
        """Read what `save` wrote."""
        try:
            data = parse_json(path.read_text(encoding="utf-8"))
            arrays = {name: np.asarray(data[name], dtype=float) for name in ("loss", "sd")}
            found = cls(**{**data, **arrays})
            shape = len(found.layers), len(found.keeps), len(found.methods)
            if found.loss.shape != shape or found.sd.shape != shape:
                raise ValueError(f"losses have the shape {shape}, but got {found.loss.shape} and {found.sd.shape}")
            return found
        except (ValueError, TypeError, KeyError, OverflowError):
            raise CorruptFileError(f"'{path}' is not readable: delete it, and the run measures it again") from None
