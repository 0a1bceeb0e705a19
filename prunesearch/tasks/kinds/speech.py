"""Speech recognition by an encoder-decoder (Whisper): the encoder is reduced, and `generate` writes as before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from transformers import AutoModelForSpeechSeq2Seq
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from prunesearch.tasks.base import Task
from prunesearch.tasks.batching.batches import Batch, EvalSet, Held, Inputs
from prunesearch.tasks.data.split import few, split_rows
from prunesearch.tasks.data.usable import texts_of
from prunesearch.tasks.kinds.audio import load_sounds
from prunesearch.tasks.kinds.seq2seq import Writing, writes_at_most
from prunesearch.tasks.kinds.speech_columns import find_transcripts
from prunesearch.tasks.libraries import quiet_libraries
from prunesearch.tasks.loading import load_tokenizer, missing_note
from prunesearch.tasks.metrics.word_errors import WordAccuracy, are_digits, by_digit, normaliser
from prunesearch.tasks.request import TaskRequest
from prunesearch.tasks.table import SPEECH

_ROWS = 8  # of a batch at most: every row is 30 s of sound, and has a logit for every word of the vocabulary
_CALIBRATION, _HOLDOUT = 200, 500  # rows, unless the user says otherwise: every schedule writes a text for each
_PROMPT = 8  # positions of the decoder that its language, its task and the like may take
_HEARD = 16  # sounds whose language is asked for, where the model writes several
Encoded = list[list[int]]


def load_speech_task(request: TaskRequest) -> Task:
    """Load model, sounds and transcripts, and return the task."""
    columns, texts = find_transcripts(request)
    sizes = few(request.sizes, _CALIBRATION, _HOLDOUT)
    splits = split_rows(request.source, columns, sizes, seed=request.seed, needed=[texts])
    tokenizer = load_tokenizer(request.model_id)
    model, missing = request.load_model(AutoModelForSpeechSeq2Seq)
    labels = {role: texts_of(part.rows[texts][:], part.name_of, texts) for role, part in splits.parts.items()}
    smaller = replace(request, batch_size=min(request.batch_size, _ROWS))
    sounds = load_sounds(smaller, splits, columns, model, labels)
    longest = int(request.config.max_target_positions)
    sets, lengths = {}, []
    for role, data in sounds.sets.items():
        encoded = encode(labels[role], tokenizer, longest)
        lengths += [len(row) for row in encoded]
        sets[role] = _with_decoder(data, encoded, int(request.config.decoder_start_token_id), request.device)
    most, limit = writes_at_most(model, longest - _PROMPT)
    metric, language = request.metric_of(SPEECH), spoken(model, tokenizer, sounds.sets["calibration"])
    compare = normaliser(language, tokenizer)
    digits = language == "en" and are_digits((text for rows in labels.values() for text in rows), compare)
    return Writing(
        name=SPEECH,
        model=model,
        splits=sets,
        tokens=sounds.tokens,
        timing_inputs=_first_step(sounds.timing_inputs, int(request.config.decoder_start_token_id)),
        metric=metric,
        own=WordAccuracy(by_digit(compare) if digits else compare),
        notes=[
            f"columns: {columns}, transcript={texts}",
            f"metric: {metric} (1 - WER) of greedy decoding, {limit}; divergence: of the next token along the "
            "transcripts, over the unpruned model's 64 most probable",
            f"words are compared as transformers' {'English' if language == 'en' else 'Basic'}TextNormalizer leaves "
            f"them (language: {language or 'unknown'})"
            + ("; the transcripts are digits alone, each of which is a word" if digits else ""),
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


@torch.inference_mode()
def spoken(model: Any, tokenizer: Any, data: EvalSet) -> str:
    """The code of the language that a model writes, "en"; "" where nobody can tell.

    That of its generation settings; a model of several is asked which it hears in most of the first sounds, as its
    `generate` does for each; one of a single language is English, as Whisper's are.
    """
    own = model.generation_config
    language = getattr(own, "language", None)
    if language is not None:
        name = str(language).strip("<|>").lower()
        return TO_LANGUAGE_CODE.get(name, name)
    if not getattr(own, "is_multilingual", False):
        return "en"
    if not getattr(own, "lang_to_id", None):
        return ""
    features = data.batches[0].inputs["input_features"][:_HEARD]
    heard = Counter(model.detect_language(input_features=features).flatten().tolist())
    return str(tokenizer.convert_ids_to_tokens(heard.most_common(1)[0][0])).strip("<|>")


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
