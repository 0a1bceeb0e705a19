"""Text classification with Hugging Face encoders, with their own head or a fitted one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForSequenceClassification

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.base import Prepared, Sample, Task
from prunesearch.tasks.batching.batches import Batch, EvalSet, Held, Inputs, Labels, chunks, rows_of
from prunesearch.tasks.data.columns import Columns, find_columns
from prunesearch.tasks.data.labels import LabelMap, Raw, free_labels, head_labels
from prunesearch.tasks.data.split import SplitPart, Splits, make_splits
from prunesearch.tasks.data.usable import texts_of
from prunesearch.tasks.kinds.classification import Classification, check_classes
from prunesearch.tasks.kinds.image import SAMPLES
from prunesearch.tasks.kinds.probe import fit_classifier
from prunesearch.tasks.libraries import quiet_libraries
from prunesearch.tasks.loading import accepted, check_known, load_tokenizer, missing_note, to_device
from prunesearch.tasks.request import TaskRequest, head_of
from prunesearch.tasks.table import TEXT

MULTIPLE = 8  # tokens; timing lengths are rounded up to it
PACKED_TEXTS = 256  # texts that timing batches are packed from


def load_text_task(request: TaskRequest) -> Task:
    """Load model and texts, tokenise them once, and return the task."""
    has_head = head_of(request.config) == TEXT
    metric, first = request.metric_of(TEXT), next(iter(request.source.splits.values()))
    columns = find_columns(request.source, first, "text", request.columns)

    def labeller(raw: set[Raw], names: list[str] | None) -> LabelMap:
        return head_labels(raw, names, request.config.id2label) if has_head else free_labels(raw, names)

    splits = make_splits(request.source, columns, labeller, request.sizes, seed=request.seed, train=not has_head)
    check_classes(metric, splits.label_names)
    model, missing = request.load_model(AutoModelForSequenceClassification if has_head else AutoModel)
    texts = load_texts(request, splits, columns, model)
    sets = texts.sets
    notes = [f"columns: {columns}", *request.source.notes, *splits.notes]
    if has_head:
        notes += missing_note(missing)
    else:
        model, note = fit_classifier(model, sets, len(splits.label_names))
        notes.append(note)
    return Classification(
        name=TEXT,
        model=model,
        label_names=splits.label_names,
        metric=metric,
        notes=[*notes, *texts.notes],
        samples=_samples(splits.parts["calibration"], columns),
        **texts.for_task,
    )


def load_texts(request: TaskRequest, splits: Splits, columns: Columns, model: nn.Module) -> Prepared:
    """Tokenise the texts (or pairs) of every split, and settle the length that latency is measured at."""
    tokenizer = load_tokenizer(request.model_id)
    maximum = max_tokens(tokenizer, model)
    encoded = {role: _encode(part, columns, tokenizer, maximum) for role, part in splits.parts.items()}
    sets = {
        role: bucket(role, encoded[role], torch.from_numpy(part.labels).to(request.device), tokenizer, model, request)
        for role, part in splits.parts.items()
    }
    lengths = [len(row["input_ids"]) for row in encoded["calibration"]]
    timed = time_texts(sets, lengths, _texts(splits, columns), tokenizer, maximum, request.length)
    every = (len(row["input_ids"]) for rows in encoded.values() for row in rows)
    return replace(timed, notes=[*cut_note(every, maximum), *timed.notes])


def cut_note(lengths: Iterable[int], maximum: int) -> list[str]:
    """Say how many texts may be cut: those that fill the `maximum` tokens of the model."""
    found = list(lengths)
    full = sum(n == maximum for n in found)
    return [f"{full} of {len(found)} texts fill the {maximum} tokens of the model, and may be cut"] if full else []


def time_texts(
    sets: dict[str, EvalSet], lengths: list[int], texts: list[str], tokenizer: Any, maximum: int, asked: int | None
) -> Prepared:
    """Put splits together with batches to measure latency on, packed from `texts`.

    Args:
        lengths: tokens of the calibration rows, of which the usual one is measured.
        maximum: tokens that the model can take.
        asked: length to measure at; None: the usual one.
    """
    tokens, note = timing_length(lengths, asked, maximum, tokenizer)

    def timing_at(length: int) -> Callable[[int], Inputs]:
        timing_length(lengths, length, maximum, tokenizer)  # refuses what the model cannot take
        return pack_texts(texts, tokenizer, length, sets["calibration"])

    return Prepared(sets, tokens, timing_at(tokens), [note], timing_at, lengths)


def max_tokens(tokenizer: Any, model: nn.Module) -> int:
    """Return the longest sequence, special tokens included, that tokenizer and position table allow.

    RoBERTa-like tables start counting after the padding index, so that many positions are lost.
    """
    limit = int(min(tokenizer.model_max_length, 1_000_000))
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            offset = 0 if module.padding_idx is None else module.padding_idx + 1
            limit = min(limit, module.num_embeddings - offset)
    return limit


def timing_length(lengths: list[int], asked: int | None, maximum: int, tokenizer: Any) -> tuple[int, str]:
    """Return the sequence length to measure latency at, and the note that explains it."""
    least = tokenizer.num_special_tokens_to_add() + 1
    if asked is not None:
        if not least <= asked <= maximum:
            raise PruneSearchError(f"`{least} <= length <= {maximum}` must hold for this model, but got {asked}")
        return asked, f"latency is measured at {asked} tokens, as asked"
    typical = float(np.percentile(lengths, 90, method="higher"))
    tokens = max(least, min(maximum, math.ceil(typical / MULTIPLE) * MULTIPLE))
    return tokens, (
        f"latency is measured at {tokens} tokens (90th percentile of the calibration texts, rounded up "
        f"to a multiple of {MULTIPLE})"
    )


def pack_texts(texts: list[str], tokenizer: Any, tokens: int, like: EvalSet) -> Callable[[int], Inputs]:
    """Return a function that gives `b` rows of exactly `tokens` tokens of real text, unpadded.

    Row i starts with text i and goes on with the next ones until it is full; special tokens stand where the
    tokenizer puts them. Inputs have the names, device and dtype of `like`'s batches.
    """
    with quiet_libraries():
        contents = tokenizer(texts, add_special_tokens=False)["input_ids"]
        example = tokenizer(texts[0], return_special_tokens_mask=True)
    contents = [ids for ids in contents if ids]
    if not contents:
        raise PruneSearchError("texts must hold tokens, but all are empty: check the text column")
    special = example["special_tokens_mask"]
    start = special.index(0) if 0 in special else 1
    stop = len(special) - special[::-1].index(0) if 0 in special else 1
    prefix, suffix = example["input_ids"][:start], example["input_ids"][stop:]
    room = tokens - len(prefix) - len(suffix)
    template = like.batches[0].inputs

    def timing_inputs(batch_size: int) -> Inputs:
        rows = []
        for i in range(batch_size):
            stream = islice(cycle(contents), i % len(contents), None)
            ids: list[int] = []
            while len(ids) < room:
                ids += next(stream)
            rows.append([*prefix, *ids[:room], *suffix])
        ids_tensor = torch.tensor(rows)
        full = {"input_ids": ids_tensor, "attention_mask": torch.ones_like(ids_tensor)}
        zeros = torch.zeros_like(ids_tensor)
        return {name: full.get(name, zeros).to(value.device) for name, value in template.items()}

    return timing_inputs


def _encode(part: SplitPart, columns: Columns, tokenizer: Any, maximum: int) -> list[dict[str, list[int]]]:
    """Tokenise every row without padding, cut to `maximum` tokens."""
    texts = _column(part, columns.text)
    pairs = None if columns.text_pair is None else _column(part, columns.text_pair)
    with quiet_libraries():
        encoded = tokenizer(texts, pairs, truncation=True, max_length=maximum)
    return [{name: encoded[name][i] for name in encoded} for i in range(len(texts))]


def _column(part: SplitPart, name: str | None) -> list[str]:
    return texts_of(part.rows[str(name)][:], part.name_of, str(name))


def bucket(
    role: str,
    encoded: list[dict[str, list[int]]],
    labels: Labels,
    tokenizer: Any,
    model: nn.Module,
    request: TaskRequest,
) -> EvalSet:
    """Batch rows of like length, padded on the right to the longest of each batch.

    `labels` are those of all rows `[n, ...]`, on the device they stay on, or a list.
    """
    check_known(tokenizer, (row["input_ids"] for row in encoded), request.source.name)
    padding = padding_values(tokenizer, encoded[0])
    by_length = sorted(range(len(encoded)), key=lambda i: len(encoded[i]["input_ids"]))
    batches = []
    for rows in chunks(by_length, request.batch_size):
        filled = {name: padded([encoded[i][name] for i in rows], fill) for name, fill in padding.items()}
        inputs = to_device(accepted(model, filled), request.device, request.dtype)
        index = torch.tensor(rows)
        batches.append(Batch(inputs, rows_of(labels, index), index))
    kept = batches[0].inputs
    return EvalSet(role, Held(batches), {name: padding[name] for name in kept})


def padding_values(tokenizer: Any, names: Iterable[str]) -> dict[str, int]:
    """What fills a short row, by the name of the input."""
    values = {
        "input_ids": tokenizer.pad_token_id or 0,
        "token_type_ids": tokenizer.pad_token_type_id,
        "decoder_input_ids": tokenizer.pad_token_id or 0,
    }
    return {name: values.get(name, 0) for name in names}


def padded(rows: list[list[int]], fill: int) -> Tensor:
    """Rows of unlike length as `[b, longest]`."""
    width = max(map(len, rows))
    return torch.tensor([row + [fill] * (width - len(row)) for row in rows])


def _texts(splits: Splits, columns: Columns) -> list[str]:
    part = splits.parts["calibration"]
    return _column(part.select(np.arange(min(PACKED_TEXTS, len(part.labels)))), columns.text)


def _samples(part: SplitPart, columns: Columns) -> list[Sample]:
    names = [name for name in (columns.text, columns.text_pair) if name is not None]
    head = part.rows.select(range(min(SAMPLES, len(part.labels))))
    return [Sample(" | ".join(str(row[name]) for name in names), int(part.labels[i]), i) for i, row in enumerate(head)]
