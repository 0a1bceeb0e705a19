"""Loading questions of pictures: prompts by the model's own processor, references, and the unpruned model's answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
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
from prunesearch.tasks.batching.batches import EvalSet, Inputs, OnDemand
from prunesearch.tasks.data.columns import Columns, find_columns
from prunesearch.tasks.data.image_cells import decode_image, raw_images
from prunesearch.tasks.data.sources import DataSource, one_line
from prunesearch.tasks.data.split import SplitPart, few, split_rows
from prunesearch.tasks.data.usable import texts_of
from prunesearch.tasks.kinds.visual_qa import LAST, VisualAnswers, ended, with_answers
from prunesearch.tasks.libraries import quiet_libraries
from prunesearch.tasks.loading import accepted, load, missing_note, to_device
from prunesearch.tasks.request import TaskRequest
from prunesearch.tasks.table import VISUAL_QA

_QUESTIONS = ("question", "query", "prompt", "instruction", "text")
_ANSWERS = ("answers", "answer", "multiple_choice_answer", "label")
_ROWS = 8  # of a batch at most: every token of a prompt has a logit for every word of the vocabulary
_CALIBRATION, _HOLDOUT = 200, 500  # rows, unless the user says otherwise: the unpruned model answers each first
_MOST = 32  # tokens of an answer, unless the model's generation settings say
_ANSWER_KEY = "answer"  # of one of several answers, as VQA v2 and TextVQA have them


def load_visual_qa_task(request: TaskRequest, *, labelled: bool = True) -> Task:
    """Load a model that reads pictures in its prompt, and questions with their pictures, and return the task.

    Args:
        request: what was asked for.
        labelled: whether answers in the data are read; else the references are what the unpruned model answers.
    """
    rows = next(iter(request.source.splits.values()))
    columns, answer = question_columns(request.source, rows, request.columns)
    answer = answer if labelled else None
    sizes, needed = few(request.sizes, _CALIBRATION, _HOLDOUT), [] if answer is None else [answer]
    splits = split_rows(request.source, columns, sizes, seed=request.seed, needed=needed)
    processor = load(AutoProcessor, request.model_id, "processor")
    model, missing = request.load_model(AutoModelForImageTextToText)
    metric = request.metric_of(VISUAL_QA)
    sets, asking, written = {}, {}, []
    for role, part in splits.parts.items():
        asking[role] = _asker(request, part, columns, model, processor)
        references = None if answer is None else references_of(part.rows[answer][:], part.name_of, answer)
        sets[role], answers = _split(role, asking[role], references, model, request)
        written += [len(row) for row in answers]
    first = asking["calibration"]
    tokens, timing = _timing(first)
    made = VisualAnswers(
        name=VISUAL_QA,
        model=model,
        splits=sets,
        tokens=tokens,
        timing_inputs=timing,
        metric=metric,
        tokenizer=processor.tokenizer,
        most=_most(model),
        usual=max(2, round(sum(written) / len(written))),
        ends=_ends(model),
    )
    own = "" if answer is not None else "; no answers are read: the references are the unpruned model's own"
    made.notes = [
        f"columns: {columns}" + ("" if answer is None else f", answers={answer}"),
        f"metric: {metric} of greedy decoding, {made.most} tokens at most{own}",
        "divergence: of the next token along the unpruned model's own answers, over its 64 most probable",
        *([] if first.template else ["the processor has no chat template: a prompt is the picture, then the question"]),
        *request.source.notes,
        *splits.notes,
        *missing_note(missing),
        f"latency is the time to the first token of a prompt of {tokens} tokens: tower, projector and prefill; what "
        "decoding adds is told at the end",
    ]
    return made


def question_columns(source: DataSource, rows: Dataset, given: dict[str, str]) -> tuple[Columns, str | None]:
    """The columns of pictures and questions, and that of answers if there is one; those `given` as image, text, label.

    Raises:
        PruneSearchError: if there are no pictures or no questions.
    """
    image = find_columns(source, rows, "image", given, labelled=False).image
    text = given.get("text") or next((name for name in _QUESTIONS if name in rows.column_names), None)
    if text is None:
        raise PruneSearchError(
            f"questions of pictures need a column of questions, but '{source.name}' has "
            f"{', '.join(rows.column_names)}: name it with columns text=QUESTION"
        )
    answer = given.get("label") or next((name for name in _ANSWERS if name in rows.column_names), None)
    return Columns(None, image=image, text=text), answer


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


@dataclass
class Asker:
    """Makes prompts of rows, padded on the left, on the model's device.

    Args:
        cells: pictures, as the data holds them.
        questions: a text for each.
        name_of: what a user finds a row by.
        decode: of a cell, a PIL image.
        processor: of the model.
        model: whose inputs are kept.
        device, dtype: of the inputs.

    Attributes:
        lengths: tokens of each row's prompt, once the unpruned model has answered it.
    """

    cells: Any
    questions: list[str]
    name_of: Callable[[int], str]
    decode: Callable[[Any], Any]
    processor: Any
    model: Any
    device: torch.device
    dtype: torch.dtype
    lengths: list[int] = field(default_factory=list)

    @property
    def template(self) -> bool:
        """Whether prompts are written by the model's chat template."""
        return bool(getattr(self.processor, "chat_template", None))

    def __call__(self, numbers: list[int]) -> Inputs:
        """Inputs of the prompts of rows.

        Raises:
            PruneSearchError: naming a row whose picture cannot be decoded, or what the processor refuses.
        """
        pictures = [self._picture(n) for n in numbers]
        texts = [self.prompt(self.questions[n]) for n in numbers]
        self.processor.tokenizer.padding_side = "left"
        try:
            with quiet_libraries():
                found = self.processor(text=texts, images=[[p] for p in pictures], padding=True, return_tensors="pt")
        except (ValueError, TypeError) as error:
            raise PruneSearchError(
                f"the model's processor refuses {self.name_of(numbers[0])} ({one_line(error)}): check the columns of "
                "pictures and questions"
            ) from error
        return to_device(accepted(self.model, dict(found)), self.device, self.dtype)

    def prompt(self, question: str) -> str:
        """The text of a prompt with one picture."""
        if not self.template:
            return f"{self.processor.image_token}{question}"
        said = [{"type": "image"}, {"type": "text", "text": question}]
        written: str = self.processor.apply_chat_template(
            [{"role": "user", "content": said}], add_generation_prompt=True, tokenize=False
        )
        return written

    def _picture(self, number: int) -> Any:
        try:
            return self.decode(self.cells[number])
        except PruneSearchError as error:
            raise PruneSearchError(f"{self.name_of(number)}: {error}") from error


def _asker(request: TaskRequest, part: SplitPart, columns: Columns, model: Any, processor: Any) -> Asker:
    image, text = str(columns.image), str(columns.text)
    cells = raw_images(part.rows, image).select_columns([image])[image]
    questions = texts_of(part.rows[text][:], part.name_of, text)
    decode = partial(decode_image, base=request.source.base)
    return Asker(cells, questions, part.name_of, decode, processor, model, request.device, request.dtype)


def _split(
    role: str, asks: Asker, references: list[list[str]] | None, model: Any, request: TaskRequest
) -> tuple[EvalSet, list[list[int]]]:
    """A split whose batches are made when they are used, of prompts of like length, and what was answered in it."""
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
    order = torch.tensor(asks.lengths).argsort(stable=True)

    def inputs(numbers: list[int]) -> Inputs:
        return with_answers(asks(numbers), [answers[n] for n in numbers], fill)

    return EvalSet(role, OnDemand(inputs, list(torch.split(order, size)), references)), answers


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
