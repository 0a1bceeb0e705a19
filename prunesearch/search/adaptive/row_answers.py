"""What several plans answer on the same rows, and what an early block says of a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import track
from prunesearch.core.plans.plan import Plan
from prunesearch.pruning.apply import Handle
from prunesearch.pruning.families.find import Encoder
from prunesearch.search.trials.evaluate import Evaluation
from prunesearch.tasks.base import Task
from prunesearch.tasks.batching.batches import EvalSet, Inputs


@dataclass(frozen=True)
class RowAnswers:
    """One plan on some rows, in the order of their batches, on the CPU.

    Attributes:
        evaluation: against labels; its divergence and agreement are from the unpruned model.
        logits: of the classes, `[n, classes]`.
    """

    evaluation: Evaluation
    logits: Tensor


class _Enough(Exception):  # noqa: N818  # no error
    """Ends a forward; it has the states that were wanted."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states


class EarlyStates:
    """What the unpruned model's first blocks make of rows; the forward ends there.

    Args:
        model: that is run.
        encoder: in it.
        block: the last one that is run, from 0.

    Raises:
        PruneSearchError: if there is no block after it.
    """

    def __init__(self, model: nn.Module, encoder: Encoder, block: int) -> None:
        if not 0 <= block < encoder.depth - 1:
            raise PruneSearchError(f"`0 <= block < {encoder.depth - 1}` must hold for a router, but got {block}")
        self._model, self._next, self.block = model, encoder.blocks[block + 1], block

    def __call__(self, inputs: Inputs) -> Tensor:
        """First token and mean of all that are real, `[b, 2 * width]`."""

        def look(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            raise _Enough(args[0] if args else kwargs["hidden_states"])

        hook = self._next.register_forward_pre_hook(look, with_kwargs=True)
        try:
            self._model(**inputs)
        except _Enough as found:
            states, mask = found.states.float(), inputs.get("attention_mask")
            first = states[:, 0]
            if mask is None or mask.shape != states.shape[:2]:
                return torch.cat([first, states.mean(dim=1)], dim=1)
            real = mask[..., None].float()  # what fills a short row says nothing of it
            return torch.cat([first, (states * real).sum(dim=1) / real.sum(dim=1)], dim=1)
        finally:
            hook.remove()
        raise PruneSearchError(
            f"a forward must pass block {self.block + 1}, but this model's does not: use --kind cascade"
        )


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
        with handle.under(Plan()):
            states.append(early(batch.inputs).cpu())
    made = {}
    for name, parts in found.items():
        statistics, kl, agrees, logits = (torch.cat(column) for column in zip(*parts, strict=True))
        made[name] = RowAnswers(Evaluation(statistics, kl, agrees, task.scoring), logits)
    return made, torch.cat(states)
