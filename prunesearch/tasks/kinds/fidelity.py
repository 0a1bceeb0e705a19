"""Any model on data without labels: how close it stays to its own unpruned outputs."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.pruning.borders import borrowed
from prunesearch.tasks.base import Forward, Outputs, Prepared, Task, named
from prunesearch.tasks.batching.batches import Batch, EvalSet
from prunesearch.tasks.batching.self_labelled import SelfLabelled
from prunesearch.tasks.data.columns import unlabelled_content
from prunesearch.tasks.data.split import split_rows
from prunesearch.tasks.kinds.audio import load_sounds
from prunesearch.tasks.kinds.head_outputs import HeadOutputs, OneClass, head_outputs, spread_of
from prunesearch.tasks.kinds.image import load_images
from prunesearch.tasks.kinds.pooled import Pooled, embeddings, lacking
from prunesearch.tasks.kinds.text import load_texts
from prunesearch.tasks.kinds.video import load_videos
from prunesearch.tasks.kinds.visual_qa_data import load_unanswered
from prunesearch.tasks.loading import missing_note
from prunesearch.tasks.metrics.classes import Accuracy
from prunesearch.tasks.metrics.metric import RowMean
from prunesearch.tasks.request import TaskRequest, head_of
from prunesearch.tasks.table import FIDELITY, VISUAL_QA, choose_metric, fidelity_metric, metric_facts

LOADERS: dict[str, Callable[..., Prepared]] = {
    "image": load_images,
    "audio": load_sounds,
    "video": load_videos,
    "text": load_texts,
}
_SAME = 0.999  # a cosine from which on two states count as the same answer


class Agreement(Accuracy):
    """Share of rows that have the unpruned model's class, which is the label; of several, all as it has them."""

    name = "agreement"

    def statistics(self, answers: Tensor, wanted: Tensor) -> Tensor:
        """1 where both say the same, else 0: `[b, 1]`."""
        if wanted.ndim == 1:
            return super().statistics(answers, wanted)
        return ((answers > 0) == (wanted.to(answers.device) > 0)).all(dim=1, keepdim=True).float()

    def constant(self, wanted: Any) -> float | None:
        """The share of the most frequent class, or set of classes."""
        labels = torch.as_tensor(wanted)
        return super().constant(labels if labels.ndim == 1 else torch.unique(labels, dim=0, return_inverse=True)[1])


class Cosine(RowMean):
    """Mean cosine of the pooled last state `[b, width]` to the unpruned model's, which is the label."""

    name, binary, lowest = "cosine", False, -1.0

    def statistics(self, answers: Tensor, wanted: Tensor) -> Tensor:
        """The cosines, `[b, 1]`."""
        return cosine(answers, wanted.to(answers.device))[:, None]

    def constant(self, wanted: Any) -> float | None:
        """The mean direction for every row."""
        return float(nn.functional.normalize(torch.as_tensor(wanted).double(), dim=-1).mean(dim=0).norm())


@dataclass
class Fidelity(Task):
    """A model held against itself: labels are what the unpruned one says, or its pooled states `[b, width]`.

    Attributes:
        head: what the model's outputs say, where it has a head.
    """

    head: HeadOutputs = field(default_factory=OneClass)

    def outputs(self, forward: Forward, batch: Batch) -> Outputs:
        """Logits `[b, k]` of a head, else the mean over the tokens' last states `[b, width]`, by their sizes."""
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
        """What fits the head, or `1 - cosine` of the states: `[b]`."""
        if "logits" in outputs:
            return self.head.divergence(reference["logits"], outputs["logits"])
        return 1 - cosine(reference["state"], outputs["state"])

    def agrees(self, reference: Outputs, outputs: Outputs, batch: Batch) -> Tensor:
        """Whether both say the same; of states, whether their cosine is 0.999 at least: `[b]`."""
        if "logits" in outputs:
            return self.head.agrees(reference["logits"], outputs["logits"])
        return cosine(reference["state"], outputs["state"]) >= _SAME

    def answers(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Logits or states."""
        return outputs["logits"] if "logits" in outputs else outputs["state"]

    def shown(self, outputs: Outputs, batch: Batch) -> list[str]:
        """What the head says, or the cosines to the unpruned states."""
        if "logits" in outputs:
            return [self.head.shown(answer) for answer in self.head.answers(outputs["logits"])]
        return [f"cosine {float(c):.4f}" for c in cosine(outputs["state"], torch.as_tensor(batch.labels))]

    def shown_labels(self, batch: Batch) -> list[str]:
        """What the unpruned model says, or nothing that could be written in a line."""
        states = metric_facts(self.metric).of_states
        return ["unlabelled" if states else self.head.shown(label) for label in torch.as_tensor(batch.labels)]


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosines of rows, `[b, width]` twice -> float32 `[b]`."""
    return torch.nn.functional.cosine_similarity(a.float(), b.float(), dim=-1)


def load_fidelity_task(request: TaskRequest) -> Task:
    """Load model and rows, and label them with what the unpruned model makes of them."""
    if head_of(request.config) == VISUAL_QA:
        return load_unanswered(request)
    first = next(iter(request.source.splits.values()))
    kind, columns = unlabelled_content(request.source, first, request.columns)
    splits = split_rows(request.source, columns, request.sizes, seed=request.seed)
    model, missing = request.load_model(class_of(request.config))
    rows = LOADERS[kind](request, splits, columns, model)
    bare = Fidelity(FIDELITY, model, rows.sets, 0, lambda rows: {})
    states = "state" in _first_outputs(bare)
    head = head_outputs(request.config, lambda: spread_of(lambda b: bare.outputs(model, b)["logits"], bare.calibration))
    rows = replace(rows, sets={role: label_by_itself(bare, data, head) for role, data in rows.sets.items()})
    has = (fidelity_metric(states),) if states else head.metrics
    metric = choose_metric(FIDELITY, request.metric) if request.metric else has[0]
    if metric not in has:
        raise PruneSearchError(f"metric {metric} does not fit the outputs of this model: use {' or '.join(has)}")
    says = "1 - cosine of the mean last states" if states else head.said
    notes = [
        f"columns: {columns}",
        f"no labels: fidelity to the unpruned model ({says}; {metric}); if there are some, columns label=NAME",
    ]
    return Fidelity(
        name=FIDELITY,
        model=model,
        label_names=[] if states else list(head.names),
        head=head,
        metric=metric,
        notes=[*notes, *request.source.notes, *splits.notes, *missing_note(missing), *rows.notes],
        **rows.for_task,
    )


def class_of(config: Any) -> Any:
    """The transformers class that the checkpoint was saved from; the bare encoder where it names none."""
    names = config.architectures or []
    return getattr(transformers, names[0], transformers.AutoModel) if names else transformers.AutoModel


@torch.inference_mode()
def _first_outputs(task: Fidelity) -> Outputs:
    return task.outputs(task.model, task.calibration.batches[0])


def label_by_itself(task: Fidelity, data: EvalSet, head: HeadOutputs) -> EvalSet:
    """The split with what the unpruned model says, or its states, for labels; it is asked when they are needed.

    Args:
        task: gives the model's outputs.
        data: the split.
        head: reads them.
    """

    @torch.inference_mode()
    def run(batch: Batch) -> Outputs:
        with borrowed(task.model) as handle, handle.under(Plan()):
            return task.outputs(task.model, batch)

    def read(outputs: Outputs) -> Tensor:
        return head.answers(outputs["logits"]) if "logits" in outputs else outputs["state"]

    return replace(data, batches=SelfLabelled(data.batches, run, read))
