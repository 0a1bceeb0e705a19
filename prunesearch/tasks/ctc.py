"""Speech recognition by CTC: the encoder is reduced, and every frame of the input gets its symbol back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCTC, AutoTokenizer, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from prunesearch.pruning.apply import handle_of
from prunesearch.pruning.tokens import take_rows
from prunesearch.pruning.trace import StageTrace
from prunesearch.tasks.audio import frame_mask, load_sounds
from prunesearch.tasks.base import Batch, Outputs, Task
from prunesearch.tasks.labels import LabelMap
from prunesearch.tasks.metrics import kl_divergence
from prunesearch.tasks.models import load, load_model, missing_note
from prunesearch.tasks.request import TaskRequest
from prunesearch.tasks.restored import traced
from prunesearch.tasks.speech_columns import find_transcripts
from prunesearch.tasks.split import make_splits
from prunesearch.tasks.table import CTC


class FramesRestored(nn.Module):
    """A CTC model that may carry a schedule; logits are of all frames, in their order. `config` is the model's.

    The head runs on the frames left. A merged frame has the logits of what it was merged into, a dropped one those of
    the frame nearest in time that was not: CTC takes a symbol that is repeated for one, and times are those of the
    input.
    """

    def __init__(self, whole: PreTrainedModel) -> None:
        super().__init__()
        self.whole: Any = whole
        self.config: Any = whole.config

    def forward(self, **inputs: Tensor) -> CausalLMOutput:
        """Logits `[batch, frames, symbols]` for all frames of the input."""
        handle = handle_of(self.whole)
        if handle is None:
            return CausalLMOutput(logits=self.whole(**inputs).logits)
        with traced(handle) as trace:
            logits = self.whole(**inputs).logits
        if not trace.stages:
            return CausalLMOutput(logits=logits)
        real = self.real_frames(inputs, trace.stages[0].hidden.shape[1])
        return CausalLMOutput(logits=take_rows(logits, owners(trace.stages, logits.shape[1], real)))

    def real_frames(self, inputs: dict[str, Tensor], frames: int) -> Tensor:
        """Which frames are not padding, bool `[batch, frames]`; all of a model that takes no attention mask."""
        values = inputs[self.whole.main_input_name]
        mask = inputs.get("attention_mask")
        if mask is None:
            return torch.ones(len(values), frames, dtype=torch.bool, device=values.device)
        return frame_mask(self.whole, mask, frames)


def owners(stages: list[StageTrace], left: int, real: Tensor) -> Tensor:
    """The one of the `left` frames at the end that speaks for each frame at the start, int64 `[batch, n_start]`.

    It is the one that holds most of a frame; where none does (it was dropped), that of the frame nearest in time that
    has one, the earlier of two.

    Args:
        stages: of the latest forward, not empty.
        left: frames behind the last stage.
        real: bool `[batch, n_start]`, False on padding, whose owners mean nothing.
    """
    batch, n = real.shape
    slots = torch.arange(left, dtype=torch.float32, device=real.device).expand(batch, left)[..., None]
    for stage in reversed(stages):
        gone = slots.new_full((batch, stage.hidden.shape[1], 1), -1.0)
        slots = stage.assignment.inverse(slots, gone)
    held, place = (slots[..., 0] >= 0) & real, torch.arange(n, device=real.device)
    before = place.where(held, -2 * n).cummax(dim=1).values
    after = place.where(held, 3 * n).flip(1).cummin(dim=1).values.flip(1)
    nearest = before.where(place - before <= after - place, after).clamp(0, n - 1)
    return slots[..., 0].gather(1, nearest).clamp(min=0).long()


@dataclass
class Recognition(Task):
    """Transcripts of sounds by CTC; labels are texts, and answers greedily decoded ones.

    Attributes:
        tokenizer: of the model.
    """

    tokenizer: Any = None

    def outputs(self, batch: Batch) -> Outputs:
        """Logits of the frames `[b, n, symbols]`, and which of them are no padding `[b, n]`."""
        model: Any = self.model
        logits = model(**batch.inputs).logits
        return {"logits": logits, "real": model.real_frames(batch.inputs, logits.shape[1])}

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
    splits = make_splits(
        request.source, columns, lambda raw, names: LabelMap(["row"], {0: 0}), request.sizes, seed=request.seed
    )
    tokenizer = load(AutoTokenizer, request.model_id, "tokenizer")
    whole, missing = load_model(
        AutoModelForCTC,
        request.model_id,
        dtype=request.dtype,
        device=request.device,
        attention=request.attention,
    )
    labels = {role: list(map(str, part.rows[texts][:])) for role, part in splits.parts.items()}
    sounds = load_sounds(request, splits, columns, whole, labels)
    metric = request.metric_of(CTC)
    return Recognition(
        name=CTC,
        model=FramesRestored(whole).eval(),  # type: ignore[arg-type]
        calibration=sounds.sets["calibration"],
        holdout=sounds.sets["holdout"],
        tokens=sounds.tokens,
        timing_inputs=sounds.timing_inputs,
        metric=metric,
        notes=[
            f"columns: {columns}, transcript={texts}",
            f"metric: {metric} of greedy decoding (case and punctuation aside); divergence: of every frame's symbol",
            *request.source.notes,
            *splits.notes,
            *missing_note(missing),
            *sounds.notes,
        ],
        timing_at=sounds.timing_at,
        tokenizer=tokenizer,
    )


def _mean(values: Tensor, there: Tensor) -> Tensor:
    """The mean of each row's values `[b, n]` that are there."""
    return values.where(there, 0.0).sum(dim=1) / there.sum(dim=1).clamp(min=1)
