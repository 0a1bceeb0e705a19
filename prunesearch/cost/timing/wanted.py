"""What a measured cost table is wanted of: what every runtime's table builder is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prunesearch.core.plans.plan import Change
from prunesearch.cost.devices.kind import Clock


@dataclass(frozen=True)
class TableWanted:
    """See `measure.measure_table`, whose arguments these are.

    Attributes:
        mode: the row of `RUNTIMES` whose builder is asked.
        unseen: schedules for the error; None: as many as the runtime's builder takes by itself.
        variants: changes that the model is measured with; the first is none.
    """

    counts: Sequence[int]
    methods: Sequence[str]
    mode: str = "eager"
    time_budget_s: float = 45.0
    seed: int = 0
    clock: Clock | None = None
    unseen: int | None = None
    min_rounds: int = 5
    patience_s: float = 0.0
    concurrency: int = 1
    label: str = "measuring cost table"
    variants: Sequence[tuple[Change, ...]] = ((),)
