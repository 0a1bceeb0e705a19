"""What plans in fewer bits answer in a runtime that is not torch: each has a quantiser of its own."""

from __future__ import annotations

import torch

from prunesearch.core.plans.plan import Plan
from prunesearch.core.tables.registry import RUNTIMES
from prunesearch.cost.graphs.graph_files import answers_of
from prunesearch.cost.timing.modes import runner_for
from prunesearch.pruning.borders import borrowed
from prunesearch.tasks.base import Forward, Task
from prunesearch.tasks.batching.batches import Batch, EvalSet
from prunesearch.tasks.quality import inputs_to_calibrate, padded_to, unjudged


def answers_elsewhere(mode: str, plan: Plan) -> bool:
    """Whether what a plan answers in the runtime `mode` is not what it answers in torch: it is in fewer bits there."""
    return bool(plan.whole) and not RUNTIMES.entry(mode).by_torch


@torch.inference_mode()
def unjudged_in(mode: str, task: Task) -> str:
    """Why answers of the runtime `mode` cannot be judged, in a clause; empty if they can."""
    if RUNTIMES.entry(mode).by_torch:
        return ""
    return unjudged(task, tuple(answers_of(task.answering(**task.timing_inputs(1)))))


def forward_in(mode: str, task: Task, plan: Plan, split: EvalSet) -> Forward:
    """The forward of a plan in the runtime `mode`, for all rows of a split.

    A graph takes one length: that of the longest row, to which others are padded. A row keeps as many tokens as it does
    by itself.

    Raises:
        PruneSearchError: if the runtime cannot hold it.
    """
    widest = _widest(split)
    inputs = {name: value[:1] for name, value in widest.inputs.items()}
    with borrowed(task.answering) as handle, handle.under(Plan()), torch.inference_mode():
        runner = runner_for(mode, task.answering, handle, inputs)
        runner.calibration = inputs_to_calibrate(task, inputs)
        runner.prepare(plan)
        forward = runner.forward_of(plan)
    return padded_to({name: inputs[name].shape[-1] for name in split.padding if name in inputs}, forward, split)


def _widest(split: EvalSet) -> Batch:
    """The batch that has the longest row; any, where all are of one length."""
    batches = split.batches
    if not split.padding:
        return batches.bare(0)
    lengths = [max(batch.inputs[name].shape[-1] for name in split.padding if name in batch.inputs) for batch in batches]
    return batches.bare(max(range(len(lengths)), key=lengths.__getitem__))
