"""Extractive question answering: start and end of the answer, at full length whatever is pruned."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from datasets.arrow_dataset import Dataset
from torch import Tensor
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.base import Batch, Outputs, Task
from prunesearch.tasks.columns import Columns, check_given
from prunesearch.tasks.data import Source, one_line
from prunesearch.tasks.metrics import kl_divergence
from prunesearch.tasks.models import load, load_model, missing_note
from prunesearch.tasks.progress import quiet_libraries
from prunesearch.tasks.request import TaskRequest
from prunesearch.tasks.restored import restored
from prunesearch.tasks.split import Part, split_rows
from prunesearch.tasks.table import QA
from prunesearch.tasks.text import PACKED_TEXTS, bucket, max_tokens, time_texts

LONGEST_ANSWER = 30  # tokens, as in the run_squad script
_NEVER = -1e4  # a logit whose probability is 0 in every precision, and whose logarithm is finite
_NAMES = {"text": "question", "text_pair": "context", "label": "answers"}  # by the role that names another


@dataclass(frozen=True)
class Question:
    """The label of a row: reference answers, the context, and where its tokens are.

    Attributes:
        first: place of the context's first token in the model's input.
        spans: characters `[from, to)` of the context that each of its tokens stands for.
    """

    references: list[str]
    context: str
    first: int
    spans: list[tuple[int, int]]


@dataclass
class Answering(Task):
    """The best span of a context; labels are `Question`s, and answers texts."""

    def outputs(self, batch: Batch) -> Outputs:
        """Logits of start and end `[b, n]`, with nothing outside the context."""
        logits = self.model(**batch.inputs).logits.float()
        place = torch.arange(logits.shape[1], device=logits.device)
        first = torch.tensor([q.first for q in batch.labels], device=logits.device)[:, None]
        length = torch.tensor([len(q.spans) for q in batch.labels], device=logits.device)[:, None]
        inside = (place >= first) & (place < first + length)
        return {"start": logits[..., 0].where(inside, _NEVER), "end": logits[..., 1].where(inside, _NEVER)}

    def divergence(self, reference: Outputs, outputs: Outputs, batch: Batch) -> Tensor:
        """KL divergence of the start's place plus that of the end's, nats `[b]`."""
        start, end = (kl_divergence(reference[name], outputs[name]) for name in ("start", "end"))
        return start + end

    def agrees(self, reference: Outputs, outputs: Outputs, batch: Batch) -> Tensor:
        """Whether both choose the same span, `[b]`."""
        return (best_spans(reference) == best_spans(outputs)).all(dim=1)

    def answers(self, outputs: Outputs, batch: Batch) -> list[str]:
        """The text of the best span of every row."""
        found = []
        for question, (start, end) in zip(batch.labels, best_spans(outputs).tolist(), strict=True):
            spans = question.spans[start - question.first : end + 1 - question.first]
            found.append(question.context[spans[0][0] : spans[-1][1]] if spans else "")
        return found

    def statistics(self, outputs: Outputs, batch: Batch) -> Tensor:
        """The metric's numbers, `[b, 1]`."""
        return self.scoring.statistics(self.answers(outputs, batch), [q.references for q in batch.labels])

    def shown_labels(self, batch: Batch) -> list[str]:
        """The first reference of every row."""
        return [question.references[0] for question in batch.labels]


def best_spans(outputs: Outputs) -> Tensor:
    """Start and end `[b, 2]` of the span with the largest sum of logits, 30 tokens long at most."""
    start, end = outputs["start"], outputs["end"]
    n = start.shape[1]
    allowed = torch.ones(n, n, dtype=torch.bool, device=start.device).triu().tril(LONGEST_ANSWER - 1)
    both = (start[:, :, None] + end[:, None, :]).masked_fill(~allowed, 4 * _NEVER)
    best = both.flatten(1).argmax(dim=1)
    return torch.stack([best // n, best % n], dim=1)


def load_qa_task(request: TaskRequest) -> Task:
    """Load model, questions and contexts, and return the task."""
    source = _answered(_flat(request.source), request.columns)
    names = {role: request.columns.get(role, name) for role, name in _NAMES.items()}
    columns = Columns(None, text=names["text"], text_pair=names["text_pair"])
    splits = split_rows(source, columns, request.sizes, seed=request.seed)
    tokenizer = load(AutoTokenizer, request.model_id, "tokenizer")
    whole, missing = load_model(
        AutoModelForQuestionAnswering,
        request.model_id,
        dtype=request.dtype,
        device=request.device,
        attention=request.attention,
        check=False,
    )
    maximum = max_tokens(tokenizer, whole)
    sets, lengths, cut = {}, [], 0
    for role, part in splits.parts.items():
        encoded, questions = _encode(part, names, tokenizer, maximum)
        sets[role] = bucket(role, encoded, questions, tokenizer, whole, request)
        cut += sum(len(row["input_ids"]) == maximum for row in encoded)
        if role == "calibration":
            lengths = [len(row["input_ids"]) for row in encoded]
    model = restored(whole, sets["calibration"].batches[0].inputs)
    head = splits.parts["calibration"].rows.select(range(min(PACKED_TEXTS, len(lengths))))
    texts = [f"{row[names['text']]} {row[names['text_pair']]}" for row in head]
    timed = time_texts(sets, lengths, texts, tokenizer, maximum, request.length)
    metric = request.metric_of(QA)
    beyond = f"{cut} contexts fill the {maximum} tokens of the model: what is beyond is cut, answers there are missed"
    notes = [
        f"columns: question={names['text']}, context={names['text_pair']}, answers={names['label']}",
        f"metric: {metric} of the best span of {LONGEST_ANSWER} tokens at most (SQuAD v1.1)",
    ]
    return Answering(
        name=QA,
        model=model,
        calibration=sets["calibration"],
        holdout=sets["holdout"],
        tokens=timed.tokens,
        timing_inputs=timed.timing_inputs,
        metric=metric,
        notes=[*notes, *([beyond] if cut else []), *source.notes, *splits.notes, *missing_note(missing), *timed.notes],
        timing_at=timed.timing_at,
    )


def _flat(source: Source) -> Source:
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
    return replace(source, splits=splits)


def _answered(source: Source, given: dict[str, str]) -> Source:
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
    splits, gone = {}, 0
    for name, part in source.splits.items():
        keep = [i for i, cell in enumerate(part[column]) if references(cell)]
        gone += len(part) - len(keep)
        if keep:
            splits[name] = part.select(keep)
    if not splits:
        raise PruneSearchError(f"questions must have answers, but none in '{source.name}' has: check column '{column}'")
    notes = [f"{gone} questions without an answer were left out"] if gone else []
    return replace(source, splits=splits, notes=[*source.notes, *notes])


def references(cell: Any) -> list[str]:
    """The reference answers of a cell: a text, a list of texts, `{"text": [...]}`, or a list of `{"text": ...}`."""
    if isinstance(cell, dict):
        cell = cell.get("text")
    if isinstance(cell, str):
        return [cell] if cell else []
    return [item["text"] if isinstance(item, dict) else str(item) for item in cell or []]


def _encode(
    part: Part, names: dict[str, str], tokenizer: Any, maximum: int
) -> tuple[list[dict[str, list[int]]], list[Question]]:
    """Tokenise questions with their contexts, which are cut where both do not fit."""
    asked, contexts = ([str(cell) for cell in part.rows[names[role]]] for role in ("text", "text_pair"))
    try:
        with quiet_libraries():
            found = tokenizer(
                asked, contexts, truncation="only_second", max_length=maximum, return_offsets_mapping=True
            )
    except Exception as error:  # tokenizers raises plain Exceptions
        raise PruneSearchError(
            f"a question must leave room for its context in {maximum} tokens ({one_line(error)}): check the columns"
        ) from error
    offsets = found.pop("offset_mapping")
    encoded, questions = [], []
    for i, cell in enumerate(part.rows[names["label"]]):
        inside = [place for place, sequence in enumerate(found.sequence_ids(i)) if sequence == 1]
        spans = [(int(a), int(b)) for a, b in (offsets[i][place] for place in inside)]
        questions.append(Question(references(cell), contexts[i], inside[0] if inside else 0, spans))
        encoded.append({name: found[name][i] for name in found})
    return encoded, questions
