"""Extractive question answering: start and end of the answer, at full length whatever is pruned."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from datasets.arrow_dataset import Dataset
from torch import Tensor, nn
from transformers import AutoModelForQuestionAnswering

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.base import Forward, Outputs, Task, output
from prunesearch.tasks.batching.batches import Batch, Labels
from prunesearch.tasks.data.columns import Columns, check_given
from prunesearch.tasks.data.sources import DataSource
from prunesearch.tasks.data.split import SplitPart, split_rows
from prunesearch.tasks.data.usable import texts_of
from prunesearch.tasks.kinds.qa_windows import encode_windows, overlap_of
from prunesearch.tasks.kinds.text import PACKED_TEXTS, max_tokens, time_texts
from prunesearch.tasks.kinds.text_rows import bucket_rows, single_texts
from prunesearch.tasks.loading import load_tokenizer, missing_note
from prunesearch.tasks.metrics.metric import kl_divergence
from prunesearch.tasks.request import TaskRequest
from prunesearch.tasks.table import QA

LONGEST_ANSWER = 30  # tokens, as in the run_squad script
_NEVER = -1e4  # a logit whose probability is 0 in every precision, and whose logarithm is finite
_NAMES = {"text": "question", "text_pair": "context", "label": "answers"}  # by the role that names another


@dataclass
class Answering(Task):
    """The best span of a context, over all its windows; labels are `Question`s, and answers texts."""

    def outputs(self, forward: Forward, batch: Batch) -> Outputs:
        """Logits of start and end `[b, windows, n]`, with nothing outside the context."""
        shape = batch.inputs["input_ids"].shape[:2]
        out = forward(**single_texts(batch.inputs))
        start, end = (output(out, f"{name}_logits").float() for name in ("start", "end"))
        place = torch.arange(start.shape[1], device=start.device)
        windows = [window for question in batch.labels for window in question.windows]
        first = torch.tensor([window.first for window in windows], device=start.device)[:, None]
        length = torch.tensor([len(window.spans) for window in windows], device=start.device)[:, None]
        inside = (place >= first) & (place < first + length)
        found = {"start": start.where(inside, _NEVER), "end": end.where(inside, _NEVER)}
        return {name: torch.unflatten(value, 0, shape) for name, value in found.items()}

    def divergence(self, reference: Outputs, outputs: Outputs, batch: Batch) -> Tensor:
        """KL divergence of the start's place, in any window, plus that of the end's, nats `[b]`."""
        start, end = (kl_divergence(reference[name].flatten(1), outputs[name].flatten(1)) for name in ("start", "end"))
        return start + end

    def agrees(self, reference: Outputs, outputs: Outputs, batch: Batch) -> Tensor:
        """Whether both choose the same characters of the context (in whichever window), `[b]`."""
        pairs = zip(_characters(reference, batch), _characters(outputs, batch), strict=True)
        return torch.tensor([before == after for before, after in pairs])

    def answers(self, outputs: Outputs, batch: Batch) -> list[str]:
        """The text of the best span of every row."""
        spans = _characters(outputs, batch)
        return [question.context[start:end] for question, (start, end) in zip(batch.labels, spans, strict=True)]

    def wanted(self, labels: Labels) -> list[list[str]]:
        """The references."""
        return [question.references for question in labels]

    def shown_labels(self, batch: Batch) -> list[str]:
        """The first reference of every row."""
        return [question.references[0] for question in batch.labels]


def best_spans(outputs: Outputs) -> Tensor:
    """Window, start and end `[b, 3]` of the span with the largest sum of logits, 30 tokens long at most."""
    start, end = outputs["start"], outputs["end"]
    n = start.shape[2]
    ends = nn.functional.pad(end, (0, LONGEST_ANSWER - 1), value=4 * _NEVER).unfold(2, LONGEST_ANSWER, 1)
    best = (start[..., None] + ends).flatten(1).argmax(dim=1)
    place, more = best // LONGEST_ANSWER, best % LONGEST_ANSWER
    return torch.stack([place // n, place % n, place % n + more], dim=1)


def _characters(outputs: Outputs, batch: Batch) -> list[tuple[int, int]]:
    """The characters `[from, to)` of its context that the best span of every row stands for."""
    found = []
    for question, (number, start, end) in zip(batch.labels, best_spans(outputs).tolist(), strict=True):
        window = question.windows[number]
        spans = window.spans[start - window.first : end + 1 - window.first]
        found.append((int(spans[0, 0]), int(spans[-1, 1])) if len(spans) else (0, 0))
    return found


def load_qa_task(request: TaskRequest) -> Task:
    """Load model, questions and contexts, and return the task."""
    source = _answered(_flat(request.source), request.columns)
    names = {role: request.columns.get(role, name) for role, name in _NAMES.items()}
    columns = Columns(None, text=names["text"], text_pair=names["text_pair"])
    splits = split_rows(source, columns, request.sizes, seed=request.seed)
    tokenizer = load_tokenizer(request.model_id)
    model, missing = request.load_model(AutoModelForQuestionAnswering)
    maximum = max_tokens(tokenizer, model)
    read = {role: _texts(part, names) for role, part in splits.parts.items()}
    overlap = overlap_of([question for asked, _, _ in read.values() for question in asked], tokenizer, maximum)
    sets, lengths, counts = {}, [], []
    for role, texts in read.items():
        encoded, questions = encode_windows(*texts, tokenizer, maximum, overlap)
        sets[role] = bucket_rows(role, encoded, questions, tokenizer, model, request)
        counts += [len(row) for row in encoded]
        if role == "calibration":
            lengths = [len(window["input_ids"]) for row in encoded for window in row]
    head = [" ".join(pair) for pair in islice(zip(*read["calibration"][:2], strict=True), PACKED_TEXTS)]
    timed = time_texts(sets, lengths, head, tokenizer, maximum, request.length)
    metric = request.metric_of(QA)
    notes = [
        f"columns: question={names['text']}, context={names['text_pair']}, answers={names['label']}",
        f"metric: {metric} of the best span of {LONGEST_ANSWER} tokens at most (SQuAD v1.1)",
        *_windows_note(counts, maximum, overlap),
    ]
    return Answering(
        name=QA,
        model=model,
        metric=metric,
        notes=[*notes, *source.notes, *splits.notes, *missing_note(missing), *timed.notes],
        **timed.for_task,
    )


def _windows_note(counts: list[int], maximum: int, overlap: int) -> list[str]:
    """Say how many rows have several windows, where any have."""
    long = [count for count in counts if count > 1]
    if not long:
        return []
    return [
        f"{len(long)} of {len(counts)} contexts are longer than the {maximum} tokens of the model: they are read in "
        f"{sum(long)} windows that share {overlap} tokens, and the answer is the best span of all (as in run_qa); "
        "latency is that of one window"
    ]


def _flat(source: DataSource) -> DataSource:
    """A file in SQuAD's own form, articles of paragraphs of questions, becomes a row a question."""
    splits = {}
    for name, rows in source.splits.items():
        if "data" not in rows.column_names:
            splits[name] = rows
            continue
        found = [
            {"question": qa["question"], "context": paragraph["context"], "answers": qa["answers"]}
            for document in rows["data"]
            for article in document
            for paragraph in article["paragraphs"]
            for qa in paragraph["qas"]
        ]
        splits[name] = Dataset.from_list(found)
    numbers = {name: places for name, places in source.numbers.items() if splits[name] is source.splits[name]}
    return replace(source, splits=splits, numbers=numbers)


def _answered(source: DataSource, given: dict[str, str]) -> DataSource:
    """Leave out questions without an answer.

    Raises:
        PruneSearchError: if a column is missing, or no question has an answer.
    """
    rows = next(iter(source.splits.values()))
    check_given(source, rows, given)
    column = given.get("label", _NAMES["label"])
    missing = [name for role, name in _NAMES.items() if given.get(role, name) not in rows.column_names]
    if missing:
        raise PruneSearchError(
            f"question answering needs the columns question, context and answers, but '{source.name}' has "
            f"{', '.join(rows.column_names)}: name them with columns text=QUESTION,text_pair=CONTEXT,label=ANSWERS"
        )
    keep = {
        name: np.array([i for i, cell in enumerate(part[column]) if references(cell)], dtype=np.int64)
        for name, part in source.splits.items()
    }
    if not any(map(len, keep.values())):
        raise PruneSearchError(f"questions must have answers, but none in '{source.name}' has: check column '{column}'")
    gone = sum(map(len, source.splits.values())) - sum(map(len, keep.values()))
    return source.select(keep, [f"{gone} questions without an answer were left out"] if gone else [])


def references(cell: Any) -> list[str]:
    """The reference answers of a cell: a text, a list of texts, `{"text": [...]}`, or a list of `{"text": ...}`."""
    if isinstance(cell, dict):
        cell = cell.get("text")
    if isinstance(cell, str):
        return [cell] if cell else []
    found = [item.get("text") if isinstance(item, dict) else item for item in cell or []]
    return [text for text in found if isinstance(text, str) and text]


def _texts(part: SplitPart, names: dict[str, str]) -> tuple[list[str], list[str], list[list[str]]]:
    """Questions, contexts and reference answers; blanks before a question would take room (run_qa cuts them too)."""
    asked, contexts = (texts_of(part.rows[names[role]][:], part.name_of, names[role]) for role in ("text", "text_pair"))
    return [question.lstrip() for question in asked], contexts, [references(cell) for cell in part.rows[names["label"]]]
