"""Speech recognition by an encoder-decoder (Whisper): the encoder is reduced, and `generate` writes as before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from transformers import AutoModelForSpeechSeq2Seq

from prunesearch.tasks.base import Task
from prunesearch.tasks.batching.batches import Batch, EvalSet, Held, Inputs
from prunesearch.tasks.data.labels import LabelMap
from prunesearch.tasks.data.split import few, make_splits
from prunesearch.tasks.kinds.audio import load_sounds
from prunesearch.tasks.kinds.seq2seq import Writing
from prunesearch.tasks.kinds.speech_columns import find_transcripts
from prunesearch.tasks.libraries import quiet_libraries
from prunesearch.tasks.loading import load_tokenizer, missing_note
from prunesearch.tasks.request import TaskRequest
from prunesearch.tasks.table import SPEECH

_ROWS = 8  # of a batch at most: every row is 30 s of sound, and has a logit for every word of the vocabulary
_CALIBRATION, _HOLDOUT = 200, 500  # rows, unless the user says otherwise: every schedule writes a text for each
_ROOM = 1.25  # tokens that may be written, as a multiple of the longest reference
Encoded = list[list[int]]


def load_speech_task(request: TaskRequest) -> Task:
    """Load model, sounds and transcripts, and return the task."""
    columns, texts = find_transcripts(request)
    sizes = few(request.sizes, _CALIBRATION, _HOLDOUT)
    splits = make_splits(
        request.source, columns, lambda raw, names: LabelMap(["row"], {0: 0}), sizes, seed=request.seed
    )
    tokenizer = load_tokenizer(request.model_id)
    model, missing = request.load_model(AutoModelForSpeechSeq2Seq)
    labels = {role: [str(text) for text in part.rows[texts][:]] for role, part in splits.parts.items()}
    smaller = replace(request, batch_size=min(request.batch_size, _ROWS))
    sounds = load_sounds(smaller, splits, columns, model, labels)
    longest = int(request.config.max_target_positions)
    sets, lengths = {}, []
    for role, data in sounds.sets.items():
        encoded = encode(labels[role], tokenizer, longest)
        lengths += [len(row) for row in encoded]
        sets[role] = _with_decoder(data, encoded, int(request.config.decoder_start_token_id), request.device)
    most, metric = min(round(_ROOM * max(lengths)), longest - 8), request.metric_of(SPEECH)
    return Writing(
        name=SPEECH,
        model=model,
        splits=sets,
        tokens=sounds.tokens,
        timing_inputs=_first_step(sounds.timing_inputs, int(request.config.decoder_start_token_id)),
        metric=metric,
        notes=[
            f"columns: {columns}, transcript={texts}",
            f"metric: {metric} of greedy decoding, {most} tokens at most (case and punctuation aside); divergence: of "
            "the next token along the transcripts, over the unpruned model's 64 most probable",
            *request.source.notes,
            *splits.notes,
            *missing_note(missing),
            *sounds.notes,
            "latency is that of the encoder and of the first token; what decoding adds is told at the end",
        ],
        tokenizer=tokenizer,
        most=most,
        usual=max(2, round(sum(lengths) / len(lengths))),
    )


def encode(texts: list[str], tokenizer: Any, longest: int) -> Encoded:
    """Token ids of transcripts as the decoder is to write them, its language and task tokens included."""
    with quiet_libraries():
        ids: Encoded = tokenizer(texts, truncation=True, max_length=longest)["input_ids"]
    return ids


def _with_decoder(data: EvalSet, encoded: Encoded, start: int, device: torch.device) -> EvalSet:
    """The split with the transcripts as inputs of the decoder: at every position it has seen what comes before it."""
    batches = []
    for batch in (batch.to(torch.device("cpu")) for batch in data.batches):
        rows = [encoded[int(i)] for i in batch.index]
        # tokenizers of Whisper begin with the token that decoders start from
        shifted = [row[:-1] if row[0] == start else [start, *row[:-1]] for row in rows]
        width = max(map(len, shifted))
        ids = torch.tensor([[*row, *[start] * (width - len(row))] for row in shifted])
        lengths = torch.tensor([len(row) for row in shifted])
        mask = (torch.arange(width) < lengths[:, None]).long()
        inputs = {**batch.inputs, "decoder_input_ids": ids, "decoder_attention_mask": mask}
        batches.append(Batch(inputs, batch.labels, batch.index))
    return EvalSet(data.name, Held(batches, device), {"decoder_input_ids": start, "decoder_attention_mask": 0})


def _first_step(sounds: Callable[[int], Inputs], start: int) -> Callable[[int], Inputs]:
    """Batches of sounds with the first step of the decoder."""

    def timing_inputs(batch_size: int) -> Inputs:
        inputs = sounds(batch_size)
        first = torch.full((batch_size, 1), start, device=next(iter(inputs.values())).device)
        return {**inputs, "decoder_input_ids": first, "decoder_attention_mask": torch.ones_like(first)}

    return timing_inputs
