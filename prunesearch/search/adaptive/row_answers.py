"""What several plans answer on the same rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import track
from prunesearch.core.plans.plan import Plan
from prunesearch.export.by_row.row_rule import EarlyStates
from prunesearch.pruning.apply import Handle
from prunesearch.search.trials.evaluate import Evaluation
from prunesearch.tasks.base import Task
from prunesearch.tasks.batching.batches import EvalSet


@dataclass(frozen=True)
class RowAnswers:
    """One plan on some rows, in the order of their batches, on the CPU.

    Attributes:
        evaluation: against labels; its divergence and agreement are from the unpruned model.
        logits: of the classes, `[n, classes]`.
    """

    evaluation: Evaluation
    logits: Tensor


@torch.inference_mode()
def answers_of(
    task: Task, handle: Handle, plans: Mapping[str, Plan], split: EvalSet, early: EarlyStates
) -> tuple[dict[str, RowAnswers], Tensor]:
    """Every plan on the rows of a split, the unpruned model among them as the first; and what an early block says.

    Raises:
        PruneSearchError: if the model's answers are no classes.
    """
    found: dict[str, list[tuple[Tensor, ...]]] = {name: [] for name in plans}
    states = []
    for batch in track(split.batches, len(split.batches), f"{len(plans)} plans on {split.n} {split.name} rows"):
        reference: dict[str, Tensor] = {}
        for name, plan in plans.items():
            with handle.under(plan):
                outputs = task.outputs(task.model, batch)
                logits = outputs.get("logits")
                if logits is None or logits.ndim != 2 or logits.shape[1] < 2:
                    raise PruneSearchError(
                        f"a plan is chosen by how sure an answer is of its class, but task {task.name} has no classes"
                    )
                reference = reference or task.condensed(outputs)
                rows = task.statistics(outputs, batch), task.divergence(reference, outputs, batch)
                same = task.agrees(reference, outputs, batch)
            found[name].append(tuple(x.cpu() for x in (*rows, same, logits.float())))
        states.append(early(batch.inputs).cpu())
    made = {}
    for name, parts in found.items():
        statistics, kl, agrees, logits = (torch.cat(column) for column in zip(*parts, strict=True))
        made[name] = RowAnswers(Evaluation(statistics, kl, agrees, task.scoring), logits)
    return made, torch.cat(states)
