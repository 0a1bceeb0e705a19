"""Speech recognition by CTC: the encoder is reduced, and every frame of the input gets its symbol back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCTC

from prunesearch.tasks.base import Forward, Outputs, Task, output
from prunesearch.tasks.batching.batches import Batch
from prunesearch.tasks.data.split import split_rows
from prunesearch.tasks.data.usable import texts_of
from prunesearch.tasks.kinds.audio import frame_mask, load_sounds
from prunesearch.tasks.kinds.speech_columns import find_transcripts
from prunesearch.tasks.loading import load_tokenizer, missing_note
from prunesearch.tasks.metrics.metric import kl_divergence
from prunesearch.tasks.request import TaskRequest
from prunesearch.tasks.table import CTC


@dataclass
class Recognition(Task):
    """Transcripts of sounds by CTC; labels are texts, and answers greedily decoded ones.

    Attributes:
        tokenizer: of the model.
    """

    tokenizer: Any = None

    def outputs(self, forward: Forward, batch: Batch) -> Outputs:
        """Logits of the frames `[b, n, symbols]`, and which of them are no padding `[b, n]`."""
        logits = output(forward(**batch.inputs), "logits")
        mask = batch.inputs.get("attention_mask")
        if mask is None:
            real = torch.ones(logits.shape[:2], dtype=torch.bool, device=logits.device)
        else:
            real = frame_mask(self.model, mask, logits.shape[1])
        return {"logits": logits, "real": real}

    def divergence(self, reference: Outputs, outputs: Outputs, batch: Batch) -> Tensor:
        """Mean KL divergence of the frames' symbols, nats `[b]`."""
        return _mean(kl_divergence(reference["logits"], outputs["logits"]), outputs["real"])

    def agrees(self, reference: Outputs, outputs: Outputs, batch: Batch) -> Tensor:
        """Share of frames with the same symbol, `[b]`."""
        return _mean((reference["logits"].argmax(-1) == outputs["logits"].argmax(-1)).float(), outputs["real"])

    def answers(self, outputs: Outputs, batch: Batch) -> list[str]:
        """Greedy transcripts: the most probable symbol of every frame, repetitions taken together, blanks left out."""
        symbols, real = outputs["logits"].argmax(dim=-1).tolist(), outputs["real"].sum(dim=1).tolist()
        texts: list[str] = self.tokenizer.batch_decode([row[:n] for row, n in zip(symbols, real, strict=True)])
        return texts


def load_ctc_task(request: TaskRequest) -> Task:
    """Load model, sounds and transcripts, and return the task."""
    columns, texts = find_transcripts(request)
    splits = split_rows(request.source, columns, request.sizes, seed=request.seed, needed=[texts])
    tokenizer = load_tokenizer(request.model_id)
    model, missing = request.load_model(AutoModelForCTC)
    labels = {role: texts_of(part.rows[texts][:], part.name_of, texts) for role, part in splits.parts.items()}
    sounds = load_sounds(request, splits, columns, model, labels)
    metric = request.metric_of(CTC)
    return Recognition(
        name=CTC,
        model=model,
        metric=metric,
        notes=[
            f"columns: {columns}, transcript={texts}",
            f"metric: {metric} of greedy decoding (case and punctuation aside); divergence: of every frame's symbol",
            *request.source.notes,
            *splits.notes,
            *missing_note(missing),
            *sounds.notes,
        ],
        **sounds.for_task,
        tokenizer=tokenizer,
    )


def _mean(values: Tensor, there: Tensor) -> Tensor:
    """The mean of each row's values `[b, n]` that are there."""
    return values.where(there, 0.0).sum(dim=1) / there.sum(dim=1).clamp(min=1)
