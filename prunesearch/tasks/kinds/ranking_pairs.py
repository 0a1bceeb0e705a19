"""Ranking by a cross-encoder: a query and each of its documents are read together, and get one score."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from prunesearch.tasks.base import Forward, Outputs, Task
from prunesearch.tasks.batching.batches import Batch
from prunesearch.tasks.data.columns import Columns
from prunesearch.tasks.data.split import few, split_rows
from prunesearch.tasks.data.usable import texts_of
from prunesearch.tasks.kinds.classification import logits_of
from prunesearch.tasks.kinds.embedding import first_ranked
from prunesearch.tasks.kinds.embedding_data import QUERIES, read_documents, text_columns
from prunesearch.tasks.kinds.fidelity import class_of
from prunesearch.tasks.kinds.head_outputs import Headed, SomeNumbers, activation_of, spread_of
from prunesearch.tasks.kinds.text import PACKED_TEXTS, max_tokens, time_texts
from prunesearch.tasks.kinds.text_rows import bucket_rows, single_texts
from prunesearch.tasks.libraries import quiet_libraries
from prunesearch.tasks.loading import load_tokenizer, missing_note
from prunesearch.tasks.request import TaskRequest, output_names
from prunesearch.tasks.table import RANKING


@dataclass
class PairRanking(Headed):
    """A query and its documents a row: inputs are `[b, documents, n]`, one text a pair, and outputs their scores."""

    def outputs(self, forward: Forward, batch: Batch) -> Outputs:
        """Scores `[b, documents]`."""
        rows, documents = batch.inputs["input_ids"].shape[:2]
        found = self.activation(logits_of(forward(**single_texts(batch.inputs))))
        return {"logits": torch.unflatten(found.flatten(), 0, (rows, documents))}

    def agrees(self, reference: Outputs, outputs: Outputs, batch: Batch) -> Tensor:
        """Whether the same document is ranked first, `[b]`."""
        return reference["logits"].argmax(dim=1) == outputs["logits"].argmax(dim=1)

    def answers(self, outputs: Outputs, batch: Batch) -> Any:
        """The scores of every query's documents."""
        return outputs["logits"].tolist()

    def shown(self, outputs: Outputs, batch: Batch) -> list[str]:
        """The number of the document that is ranked first."""
        return [f"document {1 + first_ranked(scores)}" for scores in self.answers(outputs, batch)]

    def shown_labels(self, batch: Batch) -> list[str]:
        """The numbers of the relevant documents."""
        return [", ".join(f"document {1 + i}" for i, gain in enumerate(gains) if gain > 0) for gains in batch.labels]


def load_ranking_task(request: TaskRequest) -> Task:
    """Load a cross-encoder and queries, each with a list of documents and one of their gains."""
    metric, names = request.metric_of(RANKING), text_columns(request, RANKING)
    queries, documents, relevance = (names[role] for role in ("text", "text_pair", "label"))
    columns = Columns(None, text=queries, text_pair=documents)
    splits = split_rows(request.source, columns, few(request.sizes, *QUERIES), seed=request.seed, needed=[relevance])
    tokenizer = load_tokenizer(request.model_id)
    model, missing = request.load_model(class_of(request.config))
    maximum = max_tokens(tokenizer, model)
    sets, lengths, some = {}, [], []
    for role, part in splits.parts.items():
        texts, gains = read_documents(
            part, texts_of(part.rows[queries][:], part.name_of, queries), documents, relevance
        )
        encoded = [_encode(row[0], row[1:], tokenizer, maximum) for row in texts]
        sets[role] = bucket_rows(role, encoded, gains, tokenizer, model, request)
        if role == "calibration":
            lengths = [len(pair["input_ids"]) for row in encoded for pair in row]
            some = list(islice((" ".join((row[0], found)) for row in texts for found in row[1:]), PACKED_TEXTS))
    timed = time_texts(sets, lengths, some, tokenizer, maximum, request.length)
    made = PairRanking(
        name=RANKING,
        model=model,
        metric=metric,
        notes=[
            f"columns: query={queries}, documents={documents}, relevance={relevance}",
            f"metric: {metric} of the scores of pairs; latency is that of a batch of single pairs",
            *request.source.notes,
            *splits.notes,
            *missing_note(missing),
            *timed.notes,
        ],
        activation=activation_of(request.config, request.model_id),
        **timed.for_task,
    )
    spread = spread_of(lambda batch: made.outputs(model, batch)["logits"].reshape(-1, 1), made.calibration)
    made.head = SomeNumbers(output_names(request.config), spread)
    return made


def _encode(query: str, documents: list[str], tokenizer: Any, maximum: int) -> list[dict[str, list[int]]]:
    """The query with each document, cut to `maximum` tokens together."""
    with quiet_libraries():
        found = tokenizer([query] * len(documents), documents, truncation=True, max_length=maximum)
    return [{name: found[name][i] for name in found} for i in range(len(documents))]
