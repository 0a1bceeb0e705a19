"""Loading translation and summarisation: sources and references, from a table or a `translation` column."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from datasets.arrow_dataset import Dataset
from transformers import AutoModelForSeq2SeqLM

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.base import Prepared, Task
from prunesearch.tasks.batching.batches import EvalSet, Inputs
from prunesearch.tasks.data.columns import Columns, check_given
from prunesearch.tasks.data.sources import DataSource
from prunesearch.tasks.data.split import Splits, few, split_rows
from prunesearch.tasks.data.usable import texts_of
from prunesearch.tasks.kinds.seq2seq import Writing, writes_at_most
from prunesearch.tasks.kinds.text import PACKED_TEXTS, bucket, max_tokens, pack_texts, timing_length
from prunesearch.tasks.libraries import quiet_libraries
from prunesearch.tasks.loading import load_tokenizer, missing_note
from prunesearch.tasks.request import TaskRequest
from prunesearch.tasks.table import SUMMARY, TRANSLATION

_PAIRS = {
    TRANSLATION: (("source", "target"), ("src", "tgt"), ("en", "de"), ("en", "fr"), ("de", "en"), ("fr", "en")),
    SUMMARY: (("document", "summary"), ("article", "highlights"), ("dialogue", "summary"), ("text", "summary")),
}
_ROWS = 16  # of a batch at most: logits have a column for every word of the vocabulary
_CALIBRATION, _HOLDOUT = 200, 500  # rows, unless the user says otherwise: every schedule writes a text for each
_LONGEST = 256  # tokens of a reference; what is beyond is not compared, nor written unless the model says so


def load_translation_task(request: TaskRequest) -> Task:
    """Load an encoder-decoder and pairs of texts for translation."""
    return _load(request, TRANSLATION)


def load_summary_task(request: TaskRequest) -> Task:
    """Load an encoder-decoder and documents with their summaries."""
    return _load(request, SUMMARY)


def _load(request: TaskRequest, kind: str) -> Task:
    source = _flat(request.source)
    text, target = pair_columns(source, next(iter(source.splits.values())), kind, request.columns)
    sizes = few(request.sizes, _CALIBRATION, _HOLDOUT)
    columns = Columns(None, text=text, text_pair=target)
    splits = split_rows(source, columns, sizes, seed=request.seed)
    tokenizer = load_tokenizer(request.model_id)
    model, missing = request.load_model(AutoModelForSeq2SeqLM)
    prefix = _prefix(request.config, kind, text, target)
    texts = _prepare(
        replace(request, batch_size=min(request.batch_size, _ROWS)), splits, columns, tokenizer, model, prefix
    )
    lengths = [
        int(n) for data in texts.sets.values() for b in data.batches for n in b.inputs["decoder_attention_mask"].sum(1)
    ]
    places = getattr(request.config, "max_position_embeddings", _LONGEST)  # of the decoder too; T5 has no end
    most, limit = writes_at_most(model, min(_LONGEST, int(places) - 1))
    return Writing(
        name=kind,
        model=model,
        metric=request.metric_of(kind),
        notes=[
            f"columns: source={text}, target={target}",
            f"metric: {request.metric_of(kind)} of greedy decoding, {limit}",
            "divergence: of the next token along the references, over the unpruned model's 64 most probable",
            *([f"'{prefix.strip()}' is put before every source, as the model's configuration says"] if prefix else []),
            *source.notes,
            *splits.notes,
            *missing_note(missing),
            *texts.notes,
            "latency is that of the encoder and of the first token; what decoding adds is told at the end",
        ],
        tokenizer=tokenizer,
        most=most,
        usual=max(2, round(sum(lengths) / len(lengths))),
        **texts.for_task,
    )


def pair_columns(source: DataSource, rows: Dataset, kind: str, given: dict[str, str]) -> tuple[str, str]:
    """The columns of sources and references: those `given` as text and label, else by their usual names.

    Raises:
        PruneSearchError: if there are none.
    """
    check_given(source, rows, given)
    names = rows.column_names
    found = next((pair for pair in _PAIRS[kind] if set(pair) <= set(names)), (None, None))
    text, target = given.get("text", found[0]), given.get("label", found[1])
    if text is None or target is None:
        raise PruneSearchError(
            f"{kind} needs a column of sources and one of references, but '{source.name}' has {', '.join(names)}: "
            "name them with columns text=SOURCE,label=REFERENCE"
        )
    return text, target


def _flat(source: DataSource) -> DataSource:
    """A column `translation` of {language: text}, as data sets of the Hub have it, becomes a column a language."""
    splits = {}
    for name, rows in source.splits.items():
        nested = rows.column_names == ["translation"] or "translation" in rows.column_names
        flat = rows.flatten() if nested else rows
        splits[name] = flat.rename_columns({n: n.removeprefix("translation.") for n in flat.column_names})
    return replace(source, splits=splits)


def _prefix(config: Any, kind: str, text: str, target: str) -> str:
    """What a T5 wants before its source, by its own configuration."""
    settings = getattr(config, "task_specific_params", None) or {}
    wanted = settings.get("summarization" if kind == SUMMARY else f"translation_{text}_to_{target}", {})
    return str(wanted.get("prefix") or "")


def _prepare(
    request: TaskRequest, splits: Splits, columns: Columns, tokenizer: Any, model: Any, prefix: str
) -> Prepared:
    """Tokenise sources and references, and make batches to measure latency on."""
    maximum = min(max_tokens(tokenizer, model), getattr(request.config, "max_position_embeddings", 1_000_000))
    start = int(request.config.decoder_start_token_id)
    sets: dict[str, EvalSet] = {}
    sources: dict[str, list[str]] = {}
    lengths: dict[str, list[int]] = {}
    for role, part in splits.parts.items():
        texts, targets = (
            texts_of(part.rows[str(name)][:], part.name_of, str(name)) for name in (columns.text, columns.text_pair)
        )
        sources[role] = [prefix + text for text in texts]
        with quiet_libraries():
            given = tokenizer(sources[role], truncation=True, max_length=maximum)
            wanted = tokenizer(text_target=targets, truncation=True, max_length=min(maximum, _LONGEST))["input_ids"]
        encoded = [
            {
                "input_ids": given["input_ids"][i],
                "attention_mask": given["attention_mask"][i],
                # at every position the decoder has seen what comes before it
                "decoder_input_ids": [start, *wanted[i][:-1]],
                "decoder_attention_mask": [1] * max(1, len(wanted[i])),
            }
            for i in range(len(targets))
        ]
        lengths[role] = [len(row["input_ids"]) for row in encoded]
        sets[role] = bucket(role, encoded, targets, tokenizer, model, request)
    cut = sum(n == maximum for found in lengths.values() for n in found)
    tokens, note = timing_length(lengths["calibration"], request.length, maximum, tokenizer)
    packed = partial(_timing, sources["calibration"][:PACKED_TEXTS], tokenizer, sets["calibration"], start)

    def timing_at(length: int) -> Callable[[int], Inputs]:
        timing_length(lengths["calibration"], length, maximum, tokenizer)  # refuses what the model cannot take
        return packed(length)

    notes = [f"{cut} sources fill the {maximum} tokens of the model and may be cut"] if cut else []
    return Prepared(sets, tokens, timing_at(tokens), [*notes, note], timing_at, lengths["calibration"])


def _timing(texts: list[str], tokenizer: Any, like: EvalSet, start: int, tokens: int) -> Callable[[int], Inputs]:
    """Batches of sources of exactly `tokens` tokens, with the first step of the decoder."""
    pack = pack_texts(texts, tokenizer, tokens, like)

    def timing_inputs(batch_size: int) -> Inputs:
        inputs = pack(batch_size)
        ids = inputs["input_ids"]
        first = torch.full_like(ids[:, :1], start)
        return {**inputs, "decoder_input_ids": first, "decoder_attention_mask": torch.ones_like(first)}

    return timing_inputs
