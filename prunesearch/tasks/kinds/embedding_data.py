"""Loading pairs with scores, and queries with documents, for an encoder without a head."""

from __future__ import annotations

from itertools import chain, islice
from typing import Any

import torch
from transformers import AutoModel

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.base import Task
from prunesearch.tasks.batching.batches import Labels
from prunesearch.tasks.data.answers import number_lists, numbers_of
from prunesearch.tasks.data.columns import Columns, check_given
from prunesearch.tasks.data.split import SplitPart, few, split_rows
from prunesearch.tasks.data.usable import lists_of_texts, texts_of
from prunesearch.tasks.kinds.embedding import Embedding, Retrieval, Similarity
from prunesearch.tasks.kinds.sentence_modules import SentenceModules, read_modules
from prunesearch.tasks.kinds.text import PACKED_TEXTS, cut_note, max_tokens, time_texts
from prunesearch.tasks.kinds.text_rows import bucket_rows
from prunesearch.tasks.libraries import quiet_libraries
from prunesearch.tasks.loading import load_tokenizer
from prunesearch.tasks.request import TaskRequest
from prunesearch.tasks.table import RANKING, RETRIEVAL, SIMILARITY

_NAMES = {
    SIMILARITY: {"text": "sentence1", "text_pair": "sentence2", "label": "score"},
    RETRIEVAL: {"text": "query", "text_pair": "documents", "label": "relevance"},
    RANKING: {"text": "query", "text_pair": "documents", "label": "relevance"},
}
QUERIES = (200, 500)  # calibration and holdout, unless the user says otherwise: each has many documents to embed


def load_similarity_task(request: TaskRequest) -> Task:
    """Load an encoder and pairs of texts with scores."""
    return _load(request, SIMILARITY, Similarity)


def load_retrieval_task(request: TaskRequest) -> Task:
    """Load an encoder and queries, each with a list of documents and one of their gains."""
    return _load(request, RETRIEVAL, Retrieval)


def _load(request: TaskRequest, kind: str, made: type[Embedding]) -> Task:
    names = text_columns(request, kind)
    columns = Columns(None, text=names["text"], text_pair=names["text_pair"])
    sizes = few(request.sizes, *QUERIES) if kind == RETRIEVAL else request.sizes
    splits = split_rows(request.source, columns, sizes, seed=request.seed, needed=[names["label"]])
    tokenizer = load_tokenizer(request.model_id)
    model, _ = request.load_model(AutoModel)
    modules = read_modules(request.model_id)
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # type: ignore[assignment]  # not used here: it must not be timed either
    maximum = min(max_tokens(tokenizer, model), modules.longest or 10**6)
    read = {role: _prepared(*_read(part, names, kind), modules, kind) for role, part in splits.parts.items()}
    sets, lengths, every = {}, [], []
    for role, (texts, labels) in read.items():
        encoded = _encode(texts, tokenizer, maximum)
        every += [len(text["input_ids"]) for row in encoded for text in row]
        labels = labels.to(request.device) if isinstance(labels, torch.Tensor) else labels
        sets[role] = bucket_rows(role, encoded, labels, tokenizer, model, request)
        if role == "calibration":
            lengths = [len(text["input_ids"]) for row in encoded for text in row]
    some = list(islice(chain.from_iterable(read["calibration"][0]), PACKED_TEXTS))
    timed = time_texts(sets, lengths, some, tokenizer, maximum, request.length)
    metric = request.metric_of(kind)
    return made(
        name=kind,
        model=model,
        metric=metric,
        notes=[
            "columns: " + ", ".join(f"{_NAMES[kind][role]}={name}" for role, name in names.items()),
            f"metric: {metric} of cosines; embeddings: {modules.said}; latency is that of a batch of single texts",
            *request.source.notes,
            *splits.notes,
            *(f"'{text}' is put before every {name or 'text'}" for name, text in modules.prompts.items() if text),
            *cut_note(every, maximum),
            *timed.notes,
        ],
        pooling=modules.pooling,
        after=modules.after.to(request.device, request.dtype) if len(modules.after) else None,
        **timed.for_task,
    )


def _prepared(
    texts: list[list[str]], labels: Labels, modules: SentenceModules, kind: str
) -> tuple[list[list[str]], Labels]:
    """The texts of every row as the tokenizer is given them: of a query and its documents each kind its own way."""
    kinds = ("query", "document") if kind == RETRIEVAL else ("", "")
    return [
        [modules.prepared(row[0], kinds[0]), *(modules.prepared(t, kinds[1]) for t in row[1:])] for row in texts
    ], labels


def text_columns(request: TaskRequest, kind: str) -> dict[str, str]:
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


def _read(part: SplitPart, names: dict[str, str], kind: str) -> tuple[list[list[str]], Labels]:
    """The texts and the label of every row.

    Raises:
        PruneSearchError: for a score that is no number, and for documents and gains of unlike number.
    """
    texts, pairs, labels = (names[role] for role in ("text", "text_pair", "label"))
    first = texts_of(part.rows[texts][:], part.name_of, texts)
    if kind == SIMILARITY:
        second = texts_of(part.rows[pairs][:], part.name_of, pairs)
        return [[*pair] for pair in zip(first, second, strict=True)], numbers_of(part, [labels], 1)
    return read_documents(part, first, pairs, labels)


def read_documents(
    part: SplitPart, queries: list[str], documents: str, relevance: str
) -> tuple[list[list[str]], Labels]:
    """Each query with its documents, and their gains.

    Args:
        part: the rows.
        queries: of the rows.
        documents: column of lists of texts.
        relevance: column of lists of numbers.

    Raises:
        PruneSearchError: naming the row with what is no text or number, or with documents and gains of unlike number.
    """
    listed = lists_of_texts(part.rows[documents][:], part.name_of, documents)
    texts = [[query, *found] for query, found in zip(queries, listed, strict=True)]
    gains = number_lists(part, relevance)
    wrong = next((i for i, row in enumerate(texts) if len(row) != 1 + len(gains[i]) or not any(gains[i])), None)
    if wrong is not None:
        raise PruneSearchError(
            f"every query has one gain a document, and one above 0, but '{texts[wrong][0]:.40}' has "
            f"{len(texts[wrong]) - 1} documents and the gains {gains[wrong]} ({part.name_of(wrong)}): mend or leave "
            "out that row"
        )
    return texts, gains


def _encode(texts: list[list[str]], tokenizer: Any, maximum: int) -> list[list[dict[str, list[int]]]]:
    """Tokenise the texts of every row, each cut to `maximum` tokens."""
    with quiet_libraries():
        found = tokenizer(list(chain.from_iterable(texts)), truncation=True, max_length=maximum)
    cells = iter([{name: found[name][i] for name in found} for i in range(len(found["input_ids"]))])
    return [list(islice(cells, len(row))) for row in texts]
