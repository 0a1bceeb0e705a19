"""What a measured cost table is wanted of: what every runtime's table builder is given."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunesearch import __version__
from prunesearch.core.appended import Appended
from prunesearch.core.plans.plan import Change, Options, variant_of
from prunesearch.cost.devices.kind import Clock
from prunesearch.cost.shape import Shape, conditions_of
from prunesearch.pruning.apply import Handle

_ORDER = 2  # of `plan_walks`: timings kept by place are of other schedules once it changes


@dataclass(frozen=True)
class TableWanted:
    """See `measure.measure_table`, whose arguments these are.

    Attributes:
        mode: the row of `RUNTIMES` whose builder is asked.
        error: mean error on unseen schedules at which measuring may stop before its time; None: never for that.
        unseen: schedules for the error; None: as many as the runtime's builder takes by itself.
        variants: changes that the model is measured with; the first is none.
        keep: file of what was timed; None: nothing is kept.
        options: what may be done to halves of its blocks.
        in_tower: methods of stages in the tower before a decoder.
    """

    counts: Sequence[int]
    methods: Sequence[str]
    in_tower: Sequence[str] = ()
    mode: str = "eager"
    time_budget_s: float = 45.0
    seed: int = 0
    clock: Clock | None = None
    error: float | None = None
    unseen: int | None = None
    min_rounds: int = 5
    patience_s: float = 0.0
    concurrency: int = 1
    label: str = "measuring cost table"
    variants: Sequence[tuple[Change, ...]] = ((),)
    keep: Path | None = None
    options: Options = field(default_factory=dict)

    def kept(self, handle: Handle, inputs: Mapping[str, Tensor], shape: Shape) -> Appended:
        """What was timed of this table before, of a model of that shape, on this machine and by the same software."""
        conditions: dict[str, Any] = {
            "walks": _ORDER,
            **{name: getattr(self, name) for name in ("seed", "unseen", "min_rounds")},
            "counts": sorted(self.counts),
            "methods": [*self.methods, "|", *self.in_tower],
            "variants": [variant_of(changes) for changes in self.variants],
            "options": [str(change) for known in self.options.values() for change in known],
            "shape": shape.model_dump(),
            **conditions_of(handle, inputs, shape.tokens, self.mode, self.concurrency),
            "machine": [platform.node(), torch.__version__, __version__],
        }
        return Appended(self.keep, conditions)
