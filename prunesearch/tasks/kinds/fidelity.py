"""Any model on data without labels: how close it stays to its own unpruned outputs."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import track
from prunesearch.tasks.base import Forward, Outputs, Prepared, Task, named
from prunesearch.tasks.batching.batches import Batch, EvalSet, Labels
from prunesearch.tasks.data.columns import content_kind, find_columns
from prunesearch.tasks.data.split import split_rows
from prunesearch.tasks.kinds.audio import load_sounds
from prunesearch.tasks.kinds.image import load_images
from prunesearch.tasks.kinds.pooled import Pooled, embeddings, lacking
from prunesearch.tasks.kinds.text import load_texts
from prunesearch.tasks.kinds.video import load_videos
from prunesearch.tasks.loading import missing_note
from prunesearch.tasks.metrics.classes import Accuracy
from prunesearch.tasks.metrics.metric import RowMean, agreement, kl_divergence
from prunesearch.tasks.request import TaskRequest
from prunesearch.tasks.table import FIDELITY, choose_metric, fidelity_metric, metric_facts

_LOADERS: dict[str, Callable[..., Prepared]] = {
    "image": load_images,
    "audio": load_sounds,
    "video": load_videos,
    "text": load_texts,
}
_SAME = 0.999  # a cosine from which on two states count as the same answer


class Agreement(Accuracy):
    """Share of rows whose largest logit is the unpruned model's, which is the label."""

    name = "agreement"


class Cosine(RowMean):
    """Mean cosine of the pooled last state `[b, width]` to the unpruned model's, which is the label."""

    name, binary, lowest = "cosine", False, -1.0

    def statistics(self, answers: Tensor, wanted: Tensor) -> Tensor:
        """The cosines, `[b, 1]`."""
        return cosine(answers, wanted.to(answers.device))[:, None]


@dataclass
class Fidelity(Task):
    """A model held against itself: labels are the unpruned model's classes `[b]`, or its pooled states `[b, width]`."""

    def outputs(self, forward: Forward, batch: Batch) -> Outputs:
        """Logits `[b, classes]` of a head, else the mean over the tokens' last states `[b, width]`, by their sizes."""
        found = forward(**batch.inputs)
        logits = named(found, "logits")
        if logits is not None:
            return {"logits": logits}
        return {"state": embeddings(lambda **inputs: found, self.model, batch.inputs)}

    @property
    def answering(self) -> nn.Module:
        """The model; without a head, with its pooling."""
        return Pooled(self.model).eval() if metric_facts(self.metric).of_states else self.model

    def unable(self, given: Collection[str]) -> str:
        """Pooling needs to know what the tokens that are left stand for."""
        return lacking(given)

    def divergence(self, reference: Outputs, outputs: Outputs, batch: Batch) -> Tensor:
        """KL divergence of the classes in nats, or `1 - cosine` of the states: `[b]`."""
        if "logits" in outputs:
            return kl_divergence(reference["logits"], outputs["logits"])
        return 1 - cosine(reference["state"], outputs["state"])

    def agrees(self, reference: Outputs, outputs: Outputs, batch: Batch) -> Tensor:
        """Whether both choose the same class; of states, whether their cosine is 0.999 at least: `[b]`."""
        if "logits" in outputs:
            return agreement(reference["logits"], outputs["logits"])
        return cosine(reference["state"], outputs["state"]) >= _SAME

    def answers(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Logits or states."""
        return outputs["logits"] if "logits" in outputs else outputs["state"]

    def shown(self, outputs: Outputs, batch: Batch) -> list[str]:
        """The classes, or the cosines to the unpruned states."""
        if "logits" in outputs:
            return [self._name(int(label)) for label in outputs["logits"].argmax(dim=-1)]
        return [f"cosine {float(c):.4f}" for c in cosine(outputs["state"], torch.as_tensor(batch.labels))]

    def shown_labels(self, batch: Batch) -> list[str]:
        """The unpruned model's classes, or nothing that could be written in a line."""
        labels = torch.as_tensor(batch.labels)
        return [self._name(int(label)) if labels.ndim == 1 else "unlabelled" for label in labels]

    def _name(self, label: int) -> str:
        return self.label_names[label] if label < len(self.label_names) else str(label)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosines of rows, `[b, width]` twice -> float32 `[b]`."""
    return torch.nn.functional.cosine_similarity(a.float(), b.float(), dim=-1)


def load_fidelity_task(request: TaskRequest) -> Task:
    """Load model and rows, and label them with what the unpruned model makes of them."""
    first = next(iter(request.source.splits.values()))
    kind = content_kind(first, request.columns)
    if kind is None:
        raise PruneSearchError(
            f"no text, image, audio or video column was recognised in '{request.source.name}' (its columns: "
            f"{', '.join(first.column_names)}): name it with columns text=NAME, image=NAME, audio=NAME or video=NAME"
        )
    given = {role: name for role, name in request.columns.items() if role != "label"}
    columns = find_columns(request.source, first, kind, given, labelled=False)
    splits = split_rows(request.source, columns, request.sizes, seed=request.seed)
    model, missing = request.load_model(_class_of(request.config))
    rows = _LOADERS[kind](request, splits, columns, model)
    rows = replace(rows, sets={role: _label(data, model) for role, data in rows.sets.items()})
    states = torch.as_tensor(rows.sets["calibration"].labels).ndim > 1
    has = fidelity_metric(states)
    metric = choose_metric(FIDELITY, request.metric) if request.metric else has
    if metric != has:
        raise PruneSearchError(
            f"metric {metric} needs a model {'with' if states else 'without'} a classification head: use {has}"
        )
    says = "1 - cosine of the mean last states" if states else "KL divergence of the classes"
    notes = [
        f"columns: {columns}",
        f"no labels: fidelity to the unpruned model ({says}; {metric}); if there are some, columns label=NAME",
    ]
    return Fidelity(
        name=FIDELITY,
        model=model,
        label_names=[] if states else list(dict(sorted(request.config.id2label.items())).values()),
        metric=metric,
        notes=[*notes, *request.source.notes, *splits.notes, *missing_note(missing), *rows.notes],
        **rows.for_task,
    )


def _class_of(config: Any) -> Any:
    """The transformers class that the checkpoint was saved from; the bare encoder where it names none."""
    names = config.architectures or []
    return getattr(transformers, names[0], transformers.AutoModel) if names else transformers.AutoModel


@torch.inference_mode()
def _label(data: EvalSet, model: nn.Module) -> EvalSet:
    """The split with the unpruned model's classes or states for labels."""
    task = Fidelity(FIDELITY, model, {}, 0, lambda rows: {})
    labels: list[Labels] = []
    for batch in track(data.batches, len(data.batches), "Running the unpruned model"):
        outputs = task.outputs(model, batch)
        labels.append(outputs["logits"].argmax(dim=-1) if "logits" in outputs else outputs["state"])
    return replace(data, batches=data.batches.relabelled(labels))
