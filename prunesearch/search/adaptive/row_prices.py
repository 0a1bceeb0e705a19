"""What batches cost whose rows have counts of their own: by the cost table, at the counts that the rows have.

A batch is as wide as its widest row. What counting adds to a stage (the host waits for one number, and rows that have
fewer tokens are masked) is no part of a cost table: it is timed once, beside a stage that leaves as many by a fraction.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from prunesearch.core.plans.flow import Geometry, SeenFlow
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import TOP_K, Stage
from prunesearch.cost.costs import Costs
from prunesearch.export.by_row.serving import Server, time_forwards
from prunesearch.pruning.apply import Handle
from prunesearch.tasks.batching.batches import Inputs

_SAMPLES = 11  # rows that what counting adds is timed on


@dataclass
class RowPrices:
    """Prices of plans on some batches.

    Attributes:
        costs: of the model at the batches' number of rows.
        model: that runs.
        handle: on it.
        batches: of real rows.
        counting: ms that a stage by row takes beside one with a fraction.
        seen: rows that were run to count their tokens.
    """

    costs: Costs
    model: nn.Module
    handle: Handle
    batches: Sequence[Inputs]
    counting: float = 0.0
    seen: int = field(default=0, init=False)

    def of(self, plan: Plan) -> list[float]:
        """What each batch costs, in the unit of the costs."""
        costs = self.costs.under(plan.changes) if plan.changes else self.costs
        waits = self.counting * sum(stage.by_row for stage in plan)
        return [costs.price(flow) + waits for flow in self.flows(plan)]

    def mean(self, plan: Plan) -> float:
        """Of a batch, on average."""
        return statistics.fmean(self.of(plan))

    def flows(self, plan: Plan) -> list[SeenFlow]:
        """How tokens flowed in each batch."""
        found = []
        for inputs in self.batches:
            widths, rows = _widths(self.model, self.handle, plan, inputs)
            self.seen += rows
            geometry = replace(self.costs.geometry, tokens=widths[0])
            found.append(SeenFlow(geometry, tuple(plan), widths))
        return found


@torch.inference_mode()
def _widths(model: nn.Module, handle: Handle, plan: Plan, inputs: Inputs) -> tuple[tuple[int, ...], int]:
    """Tokens that enter each block and leave the last, and rows of the batch."""
    with handle.under(plan), handle.observing() as blocks:
        model(**inputs)
        tokens = handle.tokens
        entering = [int(hidden.shape[1]) for hidden in blocks]
    return (*entering, entering[-1] if tokens is None else tokens.n), len(blocks[0])


def counting_ms(model: nn.Module, handle: Handle, stage: Stage, batches: Sequence[Inputs], geometry: Geometry) -> float:
    """What a stage by row takes beside the same stage with a fraction that leaves as many, ms, at least 0.

    It is timed on batches that hold one row over and over, so that both leave the same.

    Args:
        model: that runs.
        handle: on it.
        stage: by row.
        batches: of real rows; of each the first row is taken.
        geometry: of the model.
    """
    server, extra = Server(model, handle), []
    for inputs in batches[:_SAMPLES]:
        alike = {name: value[:1].expand_as(value).contiguous() for name, value in inputs.items()}
        widths, _ = _widths(model, handle, Plan(Schedule([stage])), alike)
        left = (widths[-1] - geometry.protected) / (widths[0] - geometry.protected)
        twin = stage.replace(keep=min(1.0, left), selection=TOP_K, params=())
        forwards = {name: server.static(Plan(Schedule([one]))) for name, one in (("row", stage), ("part", twin))}
        times = time_forwards(forwards, [alike] * 3, seed=0)
        extra.append(statistics.median(times["row"]) - statistics.median(times["part"]))
    return max(0.0, statistics.median(extra))
