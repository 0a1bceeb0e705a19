"""Loading questions of pictures or videos, and captions: prompts, references, and the unpruned model's answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from datasets.arrow_dataset import Dataset
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import track
from prunesearch.core.plans.plan import Plan
from prunesearch.pruning.borders import borrowed
from prunesearch.pruning.families.in_decoder import of_pictures
from prunesearch.tasks.base import Task
from prunesearch.tasks.batching.batches import EvalSet, Inputs, OnDemand, in_random_order
from prunesearch.tasks.batching.prompts import IMAGES, VIDEOS, Asker, Medium
from prunesearch.tasks.data.columns import Columns, content_kind, find_columns
from prunesearch.tasks.data.sources import DataSource
from prunesearch.tasks.data.split import SplitPart, few, split_rows
from prunesearch.tasks.data.usable import texts_of
from prunesearch.tasks.kinds.visual_qa import LAST, VisualAnswers, ended, with_answers
from prunesearch.tasks.libraries import quiet_libraries
from prunesearch.tasks.loading import load, missing_note
from prunesearch.tasks.request import TaskRequest
from prunesearch.tasks.table import CAPTIONS, VIDEO_QA, VISUAL_QA

_QUESTIONS = ("question", "query", "prompt", "instruction", "text")
_ANSWERS = ("answers", "answer", "multiple_choice_answer", "label")
_ASKING = ("question", "prompt", "instruction")  # where a text may be the caption
_CAPTIONS = ("captions", "caption", "sentences", "text", "label")
_DESCRIBE = "Describe this picture in one sentence."  # where the data ask nothing
_ROWS = 8  # of a batch at most: every token of a prompt has a logit for every word of the vocabulary
_CALIBRATION, _HOLDOUT = 200, 500  # rows, unless the user says otherwise: the unpruned model answers each first
_MOST = 32  # tokens of an answer, unless the model's generation settings say
_ANSWER_KEY = "answer"  # of one of several answers, as VQA v2 and TextVQA have them


@dataclass(frozen=True)
class _Rows:
    """What the rows of a kind of task are.

    Attributes:
        task: its name in `TASKS`.
        medium: what prompts show.
        questions, answers: usual names of columns, the first that is there counts.
        called: what answers are called.
        asks: what is asked where there is no column of questions; None: that is refused.
        space: the space that is searched if the model's own has less; empty: the model's.
    """

    task: str
    medium: Medium
    questions: tuple[str, ...] = _QUESTIONS
    answers: tuple[str, ...] = _ANSWERS
    called: str = "answers"
    asks: str | None = None
    space: str = ""


_PICTURES = _Rows(VISUAL_QA, IMAGES)
_CAPTIONED = _Rows(CAPTIONS, IMAGES, _ASKING, _CAPTIONS, "captions", _DESCRIBE)
_CLIPS = _Rows(VIDEO_QA, VIDEOS, space="videos")


def load_visual_qa_task(request: TaskRequest) -> Task:
    """Load a model that reads pictures in its prompt, and questions with their pictures."""
    return _load(request, _PICTURES)


def load_caption_task(request: TaskRequest) -> Task:
    """Load the same with pictures that are to be described, and their captions."""
    return _load(request, _CAPTIONED)


def load_video_qa_task(request: TaskRequest) -> Task:
    """Load the same with questions of videos."""
    return _load(request, _CLIPS)


def load_unanswered(request: TaskRequest) -> Task:
    """Load the same with questions of what the data have, pictures or videos; no answers are read."""
    rows = next(iter(request.source.splits.values()))
    kind = _CLIPS if content_kind(rows, request.columns) == VIDEOS.kind else _PICTURES
    return _load(request, kind, labelled=False)


def _load(request: TaskRequest, kind: _Rows, *, labelled: bool = True) -> Task:
    """Load a task.

    Args:
        request: what was asked for.
        kind: of rows.
        labelled: whether answers in the data are read; else the references are what the unpruned model answers.
    """
    rows = next(iter(request.source.splits.values()))
    columns, answer = question_columns(request.source, rows, request.columns, kind)
    answer = answer if labelled else None
    sizes, needed = few(request.sizes, _CALIBRATION, _HOLDOUT), [] if answer is None else [answer]
    splits = split_rows(request.source, columns, sizes, seed=request.seed, needed=needed)
    processor = load(AutoProcessor, request.model_id, "processor")
    model, missing = request.load_model(AutoModelForImageTextToText)
    metric = request.metric_of(kind.task)
    sets, asking, written = {}, {}, []
    for role, part in splits.parts.items():
        asking[role] = _asker(request, part, columns, model, processor, kind)
        references = None if answer is None else references_of(part.rows[answer][:], part.name_of, answer)
        sets[role], answers = _split(role, asking[role], references, model, request)
        written += [len(row) for row in answers]
    first = asking["calibration"]
    tokens, timing = _timing(first)
    made = VisualAnswers(
        name=kind.task,
        model=model,
        splits=sets,
        tokens=tokens,
        timing_inputs=timing,
        metric=metric,
        space=kind.space,
        tokenizer=processor.tokenizer,
        most=_most(model),
        usual=max(2, round(sum(written) / len(written))),
        ends=_ends(model),
    )
    made.notes = [
        *_said_of(kind, columns, answer, processor),
        f"metric: {metric} of greedy decoding, {made.most} tokens at most",
        "divergence: of the next token along the unpruned model's own answers, over its 64 most probable",
        *request.source.notes,
        *splits.notes,
        *missing_note(missing),
        f"latency is the time to the first token of a prompt of {tokens} tokens: tower, projector and prefill; what "
        "decoding adds is told at the end",
    ]
    return made


def _said_of(kind: _Rows, columns: Columns, answer: str | None, processor: Any) -> list[str]:
    """What was found in the data, and what prompts are made of."""
    medium, frames = kind.medium.kind, kind.medium.frames(processor)
    found = [f"columns: {columns}" + ("" if answer is None else f", {kind.called}={answer}")]
    if answer is None:
        found.append("no answers are read: the references are the unpruned model's own")
    if columns.text is None:
        found.append(f"every prompt asks '{kind.asks}': name a column of other texts with columns text=NAME")
    if not getattr(processor, "chat_template", None):
        found.append(f"the processor has no chat template: a prompt is the {medium}, then the text")
    if frames is not None:
        found.append(f"of every video, {frames} frames at even distances are taken")
    return found


def question_columns(
    source: DataSource, rows: Dataset, given: dict[str, str], kind: _Rows = _PICTURES
) -> tuple[Columns, str | None]:
    """The columns of pictures and questions, and that of answers if there is one; those `given` as image, text, label.

    Raises:
        PruneSearchError: if there are no pictures or no questions.
    """
    medium, names = kind.medium.kind, rows.column_names
    found = getattr(find_columns(source, rows, medium, given, labelled=False), medium)
    text = given.get("text") or next((name for name in kind.questions if name in names), None)
    if text is None and kind.asks is None:
        raise PruneSearchError(
            f"questions of {medium}s need a column of questions, but '{source.name}' has "
            f"{', '.join(names)}: name it with columns text=QUESTION"
        )
    answer = given.get("label") or next((name for name in kind.answers if name in names and name != text), None)
    return Columns(None, text=text, **{medium: found}), answer


def references_of(cells: list[Any], name_of: Callable[[int], str], column: str) -> list[list[str]]:
    """References of each row: a text, a list of texts, or of what has a text as `answer` (VQA v2).

    Raises:
        PruneSearchError: naming the first row that has none, or anything else.
    """
    found = []
    for place, cell in enumerate(cells):
        listed = cell if isinstance(cell, list) else [cell]
        texts = [item.get(_ANSWER_KEY) if isinstance(item, dict) else item for item in listed]
        if not texts or not all(isinstance(text, str) for text in texts):
            raise PruneSearchError(
                f"column '{column}' must hold an answer, or a list of answers, but {name_of(place)} has {cell!r:.40}: "
                "name the column of answers with columns label=NAME, or write texts into it"
            )
        found.append([str(text) for text in texts])
    return found


def _asker(request: TaskRequest, part: SplitPart, columns: Columns, model: Any, processor: Any, kind: _Rows) -> Asker:
    medium, text = kind.medium, columns.text
    shown = str(getattr(columns, medium.kind))
    cells = medium.cells(part.rows, shown).select_columns([shown])[shown]
    asked = [str(kind.asks)] * len(cells) if text is None else texts_of(part.rows[text][:], part.name_of, text)
    decode = medium.decoder(processor, request.source.base)
    return Asker(medium, cells, asked, part.name_of, decode, processor, model, request.device, request.dtype)


def _split(
    role: str, asks: Asker, references: list[list[str]] | None, model: Any, request: TaskRequest
) -> tuple[EvalSet, list[list[int]]]:
    """A split whose batches are made when they are used, of prompts of like length, and what was answered in it.

    Batches come in random order: longer prompts are other questions, and whoever stops early must not have seen the
    short ones alone.
    """
    n, size = len(asks.questions), min(request.batch_size, _ROWS)
    answers: list[list[int]] = []
    ends, fill = _ends(model), _pad_of(asks.processor)
    with borrowed(model) as handle, handle.under(Plan()):
        for start in track(range(0, n, size), -(-n // size), f"answers to {role} questions"):
            prompt = asks(list(range(start, min(start + size, n))))
            asks.lengths += prompt["attention_mask"].sum(1).tolist()
            answers += [ended(row, ends) for row in _written(model, prompt).tolist()]
    if references is None:
        with quiet_libraries():
            texts = asks.processor.tokenizer.batch_decode(answers, skip_special_tokens=True)
        references = [[text.strip()] for text in texts]
    by_length = torch.tensor(asks.lengths).argsort(stable=True)

    def inputs(numbers: list[int]) -> Inputs:
        return with_answers(asks(numbers), [answers[n] for n in numbers], fill)

    return EvalSet(
        role, OnDemand(inputs, in_random_order(torch.split(by_length, size), request.seed), references)
    ), answers


@torch.inference_mode()
def _written(model: Any, prompt: Inputs) -> Tensor:
    ids = prompt["input_ids"]
    with quiet_libraries():
        found: Tensor = model.generate(**prompt, num_beams=1, do_sample=False, max_new_tokens=_most(model))
    behind = found[:, ids.shape[1] :]
    if bool(of_pictures(model.config, behind).any()):
        raise PruneSearchError(
            "a model that answers questions must write words, but this one writes tokens that stand for pictures: "
            "train it first"
        )
    return behind


def _timing(asks: Asker) -> tuple[int, Callable[[int], Inputs]]:
    """The length of a prompt that is timed, the middle one, and batches of real prompts of that length.

    A prefill gives the logits of the last token alone, as `generate` asks for.
    """
    middle = sorted(asks.lengths)[len(asks.lengths) // 2]
    rows = [place for place, n in enumerate(asks.lengths) if n == middle]

    def timing_inputs(batch_size: int) -> Inputs:
        found = asks([rows[i % len(rows)] for i in range(batch_size)])
        last = torch.full((1,), -1, device=asks.device)
        return {**found, LAST: last}

    return middle, timing_inputs


def _most(model: Any) -> int:
    own = model.generation_config.max_new_tokens
    return _MOST if own is None else int(own)


def _ends(model: Any) -> list[int]:
    """Tokens that end an answer.

    Raises:
        PruneSearchError: if the model's settings name none.
    """
    found = model.generation_config.eos_token_id
    if found is None:
        raise PruneSearchError("an answer must have an end, but the model's generation settings name no eos_token_id")
    return list(found) if isinstance(found, (list, tuple)) else [int(found)]


def _pad_of(processor: Any) -> int:
    pad = processor.tokenizer.pad_token_id
    return int(processor.tokenizer.eos_token_id if pad is None else pad)
