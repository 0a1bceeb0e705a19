"""What is measured of a plan beside time and quality: operations a stage, and how unlike it treats two inputs."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from prunesearch.core.plans.plan import Plan
from prunesearch.cost.counting.operations import counted
from prunesearch.pruning.apply import Handle
from prunesearch.tasks.base import Task
from prunesearch.tasks.batching.batches import EvalSet

_PAIRS = 500  # of rows, of one length


def kernels_a_stage(task: Task, handle: Handle, plan: Plan) -> float | None:
    """Operations that its stages add to a forward of one row, by the stage; None without stages.

    A stage that makes sizes has what they cost in every later block among them.
    """
    if not len(plan):
        return None
    inputs = task.timing_inputs(1)
    with handle.under(plan):
        mine = counted(lambda: task.model(**inputs)).total()
    with handle.under(Plan(changes=plan.changes)):
        whole = counted(lambda: task.model(**inputs)).total()
    return (mine - whole) / len(plan)


@torch.inference_mode()
def varies(task: Task, handle: Handle, plan: Plan, split: EvalSet) -> float | None:
    """How unlike the fate of tokens is in two inputs of one length, 0 (the same tokens in all) to 1; None: not known.

    The fate of a row's tokens is a matrix over pairs of them: how much of both stands in the same tokens after a stage.
    Where tokens are dropped it has ones for those that are kept. It is one minus the cosine, mean over pairs of rows,
    and over stages.
    """
    fates: dict[tuple[int, int], list[Tensor]] = defaultdict(list)  # by stage and length
    with handle.under(plan), handle.traced() as trace:
        for batch in split.batches:
            task.outputs(task.model, batch)
            mask = batch.inputs.get("attention_mask")
            for place, stage in enumerate(trace.stages):
                source = stage.source.float().cpu()
                known = mask is not None and mask.shape == (len(source), source.shape[2])
                lengths = mask.sum(1).tolist() if mask is not None and known else [source.shape[2]] * len(source)
                for row, length in zip(source, lengths, strict=True):
                    fates[place, int(length)].append(row.T @ row)
    by_stage: dict[int, list[list[Tensor]]] = defaultdict(list)
    for (place, _), rows in fates.items():
        by_stage[place].append(rows)
    found = [apart for groups in by_stage.values() if (apart := _unlike(groups)) is not None]
    return sum(found) / len(found) if found else None


def _unlike(groups: Sequence[Sequence[Tensor]]) -> float | None:
    """Mean of one minus the cosine of two matrices of a group, which may be of unlike padding."""
    pairs = (pair for group in groups for pair in itertools.combinations(group, 2))
    found = []
    for one, other in itertools.islice(pairs, _PAIRS):
        wide = min(len(one), len(other))
        one, other = one[:wide, :wide], other[:wide, :wide]
        found.append(1 - float((one * other).sum() / (one.norm() * other.norm())))
    return max(0.0, sum(found) / len(found)) if found else None
