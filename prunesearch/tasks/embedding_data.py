"""Loading pairs with scores, and queries with documents, for an encoder without a head."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoTokenizer
from transformers.utils.hub import cached_file

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.base import Batch, EvalSet, Labels, Task, chunks, rows_of
from prunesearch.tasks.columns import Columns, check_given
from prunesearch.tasks.embedding import Embedding, Retrieval, Similarity
from prunesearch.tasks.models import accepted, load, load_model, to_device
from prunesearch.tasks.progress import quiet_libraries
from prunesearch.tasks.request import TaskRequest
from prunesearch.tasks.split import Part, split_rows
from prunesearch.tasks.table import RETRIEVAL, SIMILARITY
from prunesearch.tasks.text import PACKED_TEXTS, max_tokens, time_texts

_NAMES = {
    SIMILARITY: {"text": "sentence1", "text_pair": "sentence2", "label": "score"},
    RETRIEVAL: {"text": "query", "text_pair": "documents", "label": "relevance"},
}


def load_similarity_task(request: TaskRequest) -> Task:
    """Load an encoder and pairs of texts with scores."""
    return _load(request, SIMILARITY, Similarity)


def load_retrieval_task(request: TaskRequest) -> Task:
    """Load an encoder and queries, each with a list of documents and one of their gains."""
    return _load(request, RETRIEVAL, Retrieval)


def _load(request: TaskRequest, kind: str, made: type[Embedding]) -> Task:
    names = _columns(request, kind)
    columns = Columns(None, text=names["text"], text_pair=names["text_pair"])
    splits = split_rows(request.source, columns, request.sizes, seed=request.seed)
    tokenizer = load(AutoTokenizer, request.model_id, "tokenizer")
    model, _ = load_model(
        AutoModel,
        request.model_id,
        dtype=request.dtype,
        device=request.device,
        attention=request.attention,
    )
    pooling = pooling_of(request.model_id)
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # type: ignore[assignment]  # not used here: it must not be timed either
    maximum = max_tokens(tokenizer, model)
    read = {role: _read(part, names, kind) for role, part in splits.parts.items()}
    most = max(len(row) for texts, _ in read.values() for row in texts)
    small = replace(request, batch_size=max(1, request.batch_size // most))
    sets = {
        role: _bucket(role, texts, labels, most, tokenizer, maximum, model, small)
        for role, (texts, labels) in read.items()
    }
    some = list(chain.from_iterable(read["calibration"][0]))
    with quiet_libraries():
        lengths = [len(ids) for ids in tokenizer(some, truncation=True, max_length=maximum)["input_ids"]]
    timed = time_texts(sets, lengths, some[:PACKED_TEXTS], tokenizer, maximum, request.length)
    metric = request.metric_of(kind)
    return made(
        name=kind,
        model=model,
        calibration=sets["calibration"],
        holdout=sets["holdout"],
        tokens=timed.tokens,
        timing_inputs=timed.timing_inputs,
        metric=metric,
        notes=[
            "columns: " + ", ".join(f"{_NAMES[kind][role]}={name}" for role, name in names.items()),
            f"metric: {metric} of cosines; embeddings: {_SAID[pooling]}; latency is that of a batch of single texts",
            *request.source.notes,
            *splits.notes,
            *timed.notes,
        ],
        timing_at=timed.timing_at,
        pooling=pooling,
    )


_SAID = {"mean": "the mean of the last states, by the tokens' sizes", "cls": "the first token's last state"}


def pooling_of(model_id: str) -> str:
    """How a sentence-transformers checkpoint says that it pools, `mean` or `cls`; `mean` if it says nothing.

    Raises:
        PruneSearchError: if it pools in another way.
    """
    try:
        path = cached_file(
            model_id,
            "1_Pooling/config.json",
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError:
        path = None
    if path is None:
        return "mean"
    settings = json.loads(Path(path).read_text())
    used = [
        name.removeprefix("pooling_mode_")
        for name, on in settings.items()
        if name.startswith("pooling_mode_") and on is True
    ]
    if used not in (["mean_tokens"], ["cls_token"]):
        raise PruneSearchError(
            f"embeddings are the mean or the first token of the last states, but '{model_id}' pools by "
            f"{', '.join(used) or 'nothing'}: use another model"
        )
    return "mean" if used == ["mean_tokens"] else "cls"


def _columns(request: TaskRequest, kind: str) -> dict[str, str]:
    """Columns by role: those given, else by their usual names."""
    rows = next(iter(request.source.splits.values()))
    check_given(request.source, rows, request.columns)
    names = {role: request.columns.get(role, name) for role, name in _NAMES[kind].items()}
    if not set(names.values()) <= set(rows.column_names):
        usual = ", ".join(_NAMES[kind].values())
        raise PruneSearchError(
            f"{kind} needs the columns {usual}, but '{request.source.name}' has {', '.join(rows.column_names)}: "
            "name them with columns text=...,text_pair=...,label=..."
        )
    return names


def _read(part: Part, names: dict[str, str], kind: str) -> tuple[list[list[str]], Labels]:
    """The texts and the label of every row.

    Raises:
        PruneSearchError: for a score that is no number, and for documents and gains of unlike number.
    """
    rows = part.rows.select_columns(list(names.values()))
    try:
        if kind == SIMILARITY:
            texts = [[str(row[names["text"]]), str(row[names["text_pair"]])] for row in rows]
            return texts, torch.tensor([float(row[names["label"]]) for row in rows])
        texts = [[str(row[names["text"]]), *map(str, row[names["text_pair"]])] for row in rows]
        gains = [[float(gain) for gain in row[names["label"]]] for row in rows]
    except (TypeError, ValueError) as error:
        raise PruneSearchError(f"column '{names['label']}' must hold numbers ({error}): check the columns") from None
    wrong = next((i for i, row in enumerate(texts) if len(row) != 1 + len(gains[i]) or not any(gains[i])), None)
    if wrong is not None:
        raise PruneSearchError(
            f"every query has one gain a document, and one above 0, but '{texts[wrong][0]:.40}' has "
            f"{len(texts[wrong]) - 1} documents and the gains {gains[wrong]}: mend or leave out that row"
        )
    return texts, gains


def _bucket(
    role: str,
    texts: list[list[str]],
    labels: Labels,
    most: int,
    tokenizer: Any,
    maximum: int,
    model: nn.Module,
    request: TaskRequest,
) -> EvalSet:
    """Batch rows whose longest texts are alike: inputs `[b, most, n]`, empty texts where a row has fewer."""
    with quiet_libraries():
        full = [[*row, *[""] * (most - len(row))] for row in texts]
        found = tokenizer(list(chain.from_iterable(full)), truncation=True, max_length=maximum)
    longest = [max(len(found["input_ids"][i * most + k]) for k in range(most)) for i in range(len(texts))]
    values = {"input_ids": tokenizer.pad_token_id or 0, "token_type_ids": tokenizer.pad_token_type_id}
    batches = []
    for rows in chunks(sorted(range(len(texts)), key=longest.__getitem__), request.batch_size):
        width = longest[rows[-1]]
        padded = {}
        for name in found:
            cells = [found[name][i * most + k] for i in rows for k in range(most)]
            filled = [cell + [values.get(name, 0)] * (width - len(cell)) for cell in cells]
            padded[name] = torch.tensor(filled).view(len(rows), most, width)
        index = torch.tensor(rows)
        inputs = to_device(accepted(model, padded), request.device, request.dtype)
        wanted = rows_of(labels, index)
        batches.append(Batch(inputs, wanted.to(request.device) if isinstance(wanted, torch.Tensor) else wanted, index))
    return EvalSet(role, batches, {name: values.get(name, 0) for name in batches[0].inputs})
