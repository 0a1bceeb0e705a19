"""How sure a run wants to be of what it finds: what each preset promises, and what it lets a run spend on that."""

from __future__ import annotations

from dataclasses import dataclass

from prunesearch.core.tables.names import make_table
from prunesearch.core.tables.row_kinds import AccuracyRow


@dataclass(frozen=True)
class Promise:
    """What a preset promises. A verdict is at 95 % confidence in any of them; what differs is how often there is one.

    Attributes:
        table_error: mean relative error of a cost table on schedules that it has not seen, at its 95 % upper bound, at
            which measuring it stops before its time.
        loss_error: standard error of a schedule's loss on the rows of the search, relative to the loss: as many rows
            are taken as that needs.
        search_samples: calibration rows of a trial, at most.
        sensitivity_units: what the one-stage losses may cost, in evaluations of the unpruned model on these rows.
        growth: relative growth of the hypervolume, at its upper end, below which a search has converged.
        interval: half the 95 % interval of the change in quality of a point that is no contender for the verdict, as a
            share of the unpruned quality; a large change need be known to a quarter of itself only.
        latency_error: half the 95 % interval of a latency that is measured end to end, relative to it, at which
            measuring stops before its time.
        robust_rows: rows in each view of `--robust`.
        severity: of these views; 0: each of them in turn.
    """

    table_error: float
    loss_error: float
    search_samples: int
    sensitivity_units: float
    growth: float
    interval: float
    latency_error: float
    robust_rows: int
    severity: int


STANDARD = "standard"
ACCURACIES = make_table(
    "accuracy",
    {
        "quick": AccuracyRow(
            Promise(0.05, 0.20, 512, 3.0, 0.01, 0.04, 0.03, 64, 3),
            "cost tables to 5 %, losses to 20 %, quality to 4 %, latencies to 3 %",
        ),
        STANDARD: AccuracyRow(
            Promise(0.03, 0.10, 1024, 5.0, 0.005, 0.02, 0.02, 128, 3),
            "cost tables to 3 %, losses to 10 %, quality to 2 %, latencies to 2 %",
        ),
        "thorough": AccuracyRow(
            Promise(0.015, 0.05, 2048, 8.0, 0.0025, 0.01, 0.01, 500, 0),
            "cost tables to 1.5 %, losses to 5 %, quality to 1 %, latencies to 1 %",
        ),
    },
    AccuracyRow,
    "accuracies",
)
