"""The one door to a measured cost table, whatever runs the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from prunesearch.core.plans.plan import Change, Options
from prunesearch.core.tables.names import load_target
from prunesearch.cost.devices.kind import Clock
from prunesearch.cost.shape import device_of
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.timing.modes import check_measurable
from prunesearch.cost.timing.wanted import TableWanted


def measure_table(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    *,
    counts: Sequence[int],
    methods: Sequence[str],
    time_budget_s: float = 45.0,
    seed: int = 0,
    clock: Clock | None = None,
    mode: str = "eager",
    error: float | None = None,
    unseen: int | None = None,
    min_rounds: int = 5,
    patience_s: float = 0.0,
    concurrency: int = 1,
    label: str = "measuring cost table",
    variants: Sequence[tuple[Change, ...]] = ((),),
    keep: Path | None = None,
    options: Options | None = None,
    in_tower: Sequence[str] = (),
) -> CostTable:
    """Measure what the pieces of `model` cost on a batch, and the table's error on schedules it has not seen.

    The row of `mode` in `RUNTIMES` says who measures: pieces timed inside whole forwards, or each by itself.

    Args:
        model: a supported model, or a module around one; left as it was.
        inputs: a batch without padding, on the model's device.
        counts: tokens after a stage that schedules may ask for, protected ones included.
        methods: `scorer+merge`, or a merge that needs no scorer.
        time_budget_s: wall time of the timing in seconds.
        seed: of the order of things, and of the schedules.
        clock: None for the one of the device.
        mode: how forwards are executed, a name in `RUNTIMES`.
        error: where pieces are timed inside forwards, measuring stops before its time once the mean error on unseen
            schedules, at its 95 % upper bound, is no more; other schedules than those give the error that is stored.
        unseen: schedules for the error; None: as many as suit the runtime.
        min_rounds: timings of each of them in any case.
        patience_s: wait up to so many seconds for others to leave the device alone.
        concurrency: forwards under way at once; others than the measured one run in processes of their own.
        label: of the progress bar.
        variants: changes that the model is measured with too, in the same run; the first is none.
        keep: file of what was timed, written as it comes: the same call goes on where one was interrupted. Whoever
            keeps the table takes it away.
        options: what may be done to halves of its blocks: plans of all of it are measured.
        in_tower: methods of stages in the tower before a decoder; empty: its time is measured at all of its tokens.

    Raises:
        PruneSearchError: for a count, method or mode that cannot be.
        UnsupportedModelError: if the model's family is unknown.
    """
    row = check_measurable(mode, device_of(inputs))
    wanted = TableWanted(
        counts=counts,
        methods=methods,
        mode=mode,
        time_budget_s=time_budget_s,
        seed=seed,
        clock=clock,
        error=error,
        unseen=unseen,
        min_rounds=min_rounds,
        patience_s=patience_s,
        concurrency=concurrency,
        label=label,
        variants=variants,
        keep=keep,
        options=options or {},
        in_tower=in_tower,
    )
    table: CostTable = load_target(row.table)(model, inputs, wanted)
    return table
