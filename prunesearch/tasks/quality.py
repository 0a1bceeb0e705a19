"""The quality of what was made of a task's model (a graph, a quantised copy), on the rows that it can take."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import track
from prunesearch.tasks.base import Forward, Task
from prunesearch.tasks.batching.batches import Batch, EvalSet, Inputs, trimmed

CALIBRATED = 128  # rows that activations are scaled by


@dataclass(frozen=True)
class Quality:
    """The task's metric on `rows` rows; `left_out` more are longer than what the forward takes."""

    value: float
    rows: int
    left_out: int


class _Named(dict[str, Tensor]):
    """Outputs that are read as those of a model are: `outputs["logits"]`, `outputs.logits`."""

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def unjudged(task: Task, given: Collection[str]) -> str:
    """Why a forward that is not the task's model cannot be judged, if its outputs are called `given`; empty if it can.

    Args:
        task: says what an answer is.
        given: names of outputs.
    """
    if task.scoring.runs_model:
        return f"{task.metric} is of the model in torch, which it runs itself"
    return task.unable(given)


def quality_of(task: Task, forward: Forward, split: EvalSet, fixed: Mapping[str, int] | None = None) -> Quality:
    """Measure the task's own metric of a forward.

    Args:
        task: says what an answer is. Ask `unjudged` first.
        forward: on the device of the split's batches.
        split: the rows.
        fixed: lengths of inputs `[b, ..., n]`, by name, where the forward takes one length only: shorter rows are
            padded to it, longer ones left out.

    Raises:
        PruneSearchError: if no row is short enough.
    """
    found = statistics_of(task, forward, split, fixed)
    return Quality(task.scoring.value(found), len(found), split.n - len(found))


@torch.inference_mode()
def statistics_of(task: Task, forward: Forward, split: EvalSet, fixed: Mapping[str, int] | None = None) -> Tensor:
    """The metric's numbers of every row, `[n, k]`, in the order of the split's batches; see `quality_of`."""
    lengths = {name: n for name, n in (fixed or {}).items() if name in split.padding}
    padded, found = padded_to(lengths, forward, split), []
    for batch in track(split.batches, len(split.batches), "Measuring the quality"):
        fits = _fitting(batch, lengths)
        if len(fits):
            kept = trimmed(batch.rows(fits), split.padding)
            found.append(task.statistics(task.outputs(padded, kept), kept).cpu())
    if not found:
        raise PruneSearchError(
            f"rows must be {max(lengths.values())} long at most for this forward, but all {split.n} of {split.name} "
            "are longer: export it for a greater length"
        )
    return torch.cat(found)


def padded_to(lengths: Mapping[str, int], forward: Forward, split: EvalSet) -> Forward:
    """The forward of inputs that are as long as they are, with those in `lengths` padded for it as the split pads."""

    def padded(**inputs: Tensor) -> Any:
        given = {name: filled(value, lengths.get(name), split.padding.get(name, 0)) for name, value in inputs.items()}
        found = forward(**given)
        return _Named(found) if type(found) is dict else found

    return padded


def inputs_to_calibrate(task: Task, inputs: Inputs, n: int = CALIBRATED) -> list[dict[str, Tensor]]:
    """Batches of calibration rows for a quantiser of graphs, as long as `inputs`; rows that are longer are left out."""
    split = task.calibration.take(n)
    lengths = {name: inputs[name].shape[-1] for name in split.padding if name in inputs}
    found = []
    for batch in split.batches:
        fits = _fitting(batch, lengths)
        if len(fits):
            kept = trimmed(batch.rows(fits), split.padding).inputs
            found.append({name: filled(kept[name], lengths.get(name), split.padding.get(name, 0)) for name in inputs})
    return found or [dict(inputs)]


def _fitting(batch: Batch, lengths: Mapping[str, int]) -> Tensor:
    """Positions of the rows, int64 `[k]`, whose every text or sound is no longer than `lengths`."""
    fits = torch.ones(len(batch), dtype=torch.bool)
    for name, length in lengths.items():
        value = batch.inputs[name]
        mask = batch.inputs.get("decoder_attention_mask" if name.startswith("decoder_") else "attention_mask")
        # without a mask a row is as long as its batch
        longest = torch.full((len(batch),), value.shape[-1]) if mask is None else mask.sum(-1).reshape(len(batch), -1)
        fits &= (longest.reshape(len(batch), -1).amax(dim=1) <= length).cpu()
    return fits.nonzero().flatten()


def filled(value: Tensor, length: int | None, fill: int) -> Tensor:
    """`[b, ..., n]` padded on the right to `[b, ..., length]`; None: as it is."""
    if length is None or value.shape[-1] == length:
        return value
    return nn.functional.pad(value, (0, length - value.shape[-1]), value=fill)
