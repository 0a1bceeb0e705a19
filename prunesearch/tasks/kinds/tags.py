"""Token classification (named entities, parts of speech): a tag for every word, at full length whatever is pruned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from datasets.arrow_dataset import Dataset
from torch import Tensor, nn
from transformers import AutoModelForTokenClassification

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.base import Forward, Outputs, Task, output
from prunesearch.tasks.batching.batches import Batch, Labels
from prunesearch.tasks.data.columns import Columns, check_given
from prunesearch.tasks.data.labels import LabelMap, Raw, clean, head_labels
from prunesearch.tasks.data.sources import DataSource
from prunesearch.tasks.data.split import SplitPart, Splits, split_rows
from prunesearch.tasks.data.usable import lists_of_texts
from prunesearch.tasks.kinds.text import bucket, max_tokens, time_texts
from prunesearch.tasks.libraries import quiet_libraries
from prunesearch.tasks.loading import load_tokenizer, missing_note
from prunesearch.tasks.metrics.metric import kl_divergence
from prunesearch.tasks.request import TaskRequest
from prunesearch.tasks.table import TAGS

_WORDS = ("tokens", "words")
_TAGS = ("ner_tags", "tags", "ner", "pos_tags", "pos", "upos", "labels")


@dataclass(frozen=True)
class Words:
    """The label of a row: the tags of its words, and the place of each word's first token in the model's input."""

    tags: list[str]
    places: list[int]


@dataclass
class Tagging(Task):
    """A tag a word, read off its first token; labels are `Words`, and answers lists of tag names."""

    def outputs(self, forward: Forward, batch: Batch) -> Outputs:
        """Logits of the words `[b, words, classes]`, and which of them are there `[b, words]`."""
        logits = output(forward(**batch.inputs), "logits")
        rows: list[list[int]] = [row.places for row in batch.labels]
        width = max(1, *map(len, rows))
        places = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=logits.device)
        lengths = torch.tensor([len(row) for row in rows], device=logits.device)
        there = torch.arange(width, device=logits.device) < lengths[:, None]
        return {"logits": logits.take_along_dim(places[..., None], dim=1), "there": there}

    def divergence(self, reference: Outputs, outputs: Outputs, batch: Batch) -> Tensor:
        """Mean KL divergence of the words' tags, nats `[b]`."""
        return _mean(kl_divergence(reference["logits"], outputs["logits"]), outputs["there"])

    def supervised(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Mean cross-entropy of the words' tags, nats `[b]`."""
        logits, number = outputs["logits"].float(), {name: i for i, name in enumerate(self.label_names)}
        width = logits.shape[1]
        rows = [[*(number[tag] for tag in words.tags), *[0] * width][:width] for words in batch.labels]
        wanted = torch.tensor(rows, device=logits.device)
        return _mean(nn.functional.cross_entropy(logits.mT, wanted, reduction="none"), outputs["there"])

    def agrees(self, reference: Outputs, outputs: Outputs, batch: Batch) -> Tensor:
        """Share of words with the same tag, `[b]`."""
        return _mean((reference["logits"].argmax(-1) == outputs["logits"].argmax(-1)).float(), outputs["there"])

    def answers(self, outputs: Outputs, batch: Batch) -> list[list[str]]:
        """The predicted tags of every row's words."""
        said = outputs["logits"].argmax(dim=-1).tolist()
        return [[self.label_names[i] for i in row[: len(w.places)]] for row, w in zip(said, batch.labels, strict=True)]

    def wanted(self, labels: Labels) -> list[list[str]]:
        """The true tags."""
        return [words.tags for words in labels]

    def shown(self, outputs: Outputs, batch: Batch) -> list[str]:
        """The predicted tags."""
        return [" ".join(tags) for tags in self.answers(outputs, batch)]

    def shown_labels(self, batch: Batch) -> list[str]:
        """The true tags."""
        return [" ".join(words.tags) for words in batch.labels]


def load_tagging_task(request: TaskRequest) -> Task:
    """Load model and sentences of tagged words, and return the task."""
    first = next(iter(request.source.splits.values()))
    words, tags = tag_columns(request.source, first, request.columns)
    splits = split_rows(request.source, Columns(None, text=words), request.sizes, seed=request.seed, needed=[tags])
    tokenizer = load_tokenizer(request.model_id, add_prefix_space=True)
    model, missing = request.load_model(AutoModelForTokenClassification)
    labels = _tag_names(splits, tags, request.config.id2label)
    maximum = max_tokens(tokenizer, model)
    read = {role: _encode(part, words, tags, labels, tokenizer, maximum) for role, part in splits.parts.items()}
    sets = {role: bucket(role, encoded, found, tokenizer, model, request) for role, (encoded, found, _) in read.items()}
    lengths, cut = [len(row["input_ids"]) for row in read["calibration"][0]], sum(n for _, _, n in read.values())
    texts = [" ".join(row) for row in splits.parts["calibration"].rows[words][:256]]
    texts_at = time_texts(sets, lengths, texts, tokenizer, maximum, request.length)
    chunked = any(name.startswith(("B-", "I-", "S-")) for name in labels.names)
    metric = request.metric_of(TAGS) if request.metric or chunked else "token_accuracy"
    notes = [
        f"columns: words={words}, tags={tags}",
        f"metric: {metric}, of the first token of every word; pruned tokens get their states back",
    ]
    if cut:
        notes.append(
            f"{cut} sentences are longer than the {maximum} tokens of the model: their last words are left out"
        )
    return Tagging(
        name=TAGS,
        model=model,
        label_names=labels.names,
        metric=metric,
        notes=[*notes, *request.source.notes, *splits.notes, *labels.notes, *missing_note(missing), *texts_at.notes],
        **texts_at.for_task,
    )


def tag_columns(source: DataSource, rows: Dataset, given: dict[str, str]) -> tuple[str, str]:
    """The columns of the words and of their tags: those `given` as text and label, else by their usual names.

    Raises:
        PruneSearchError: if there are none.
    """
    check_given(source, rows, given)
    names = rows.column_names
    words = given.get("text") or next((n for n in _WORDS if n in names), None)
    tags = given.get("label") or next((n for n in _TAGS if n in names), None)
    if words is None or tags is None:
        raise PruneSearchError(
            f"token classification needs a list of words and one of tags a row, but '{source.name}' has "
            f"{', '.join(names)}: name them with columns text=WORDS,label=TAGS"
        )
    return words, tags


def _tag_names(splits: Splits, tags: str, id2label: dict[int, str]) -> LabelMap:
    """Map the data's tags, names or numbers, onto the head's."""
    for part in splits.parts.values():
        for place, cell in enumerate(part.rows[tags]):
            if not isinstance(cell, list):
                raise PruneSearchError(
                    f"column '{tags}' must hold lists of tags, but {part.name_of(place)} has {cell!r:.40}: name the "
                    "column with columns label=NAME, or write lists into it"
                )
    raw: set[Raw] = {clean(tag) for part in splits.parts.values() for row in part.rows[tags] for tag in row}
    feature = next(iter(splits.parts.values())).rows.features[tags]
    names = getattr(getattr(feature, "feature", None), "names", None)
    return head_labels({tag for tag in raw if not (isinstance(tag, int) and tag < 0)}, names, id2label)


def _encode(
    part: SplitPart, words: str, tags: str, labels: LabelMap, tokenizer: Any, maximum: int
) -> tuple[list[dict[str, list[int]]], list[Words], int]:
    """Tokenise sentences of words: the inputs and labels of every row, and how many had to be cut."""
    sentences = lists_of_texts(part.rows[words][:], part.name_of, words)
    with quiet_libraries():
        found = tokenizer(sentences, is_split_into_words=True, truncation=True, max_length=maximum)
    encoded, wanted, cut = [], [], 0
    for i, (row, said) in enumerate(zip(part.rows[tags], sentences, strict=True)):
        if len(row) != len(said):
            raise PruneSearchError(
                f"a row has one tag a word, but {part.name_of(i)} has {len(said)} words and {len(row)} tags: mend it"
            )
        places: dict[int, int] = {}
        for place, word in enumerate(found.word_ids(i)):
            if word is not None:
                places.setdefault(word, place)
        # a negative tag says that the word has none
        known = {word: place for word, place in places.items() if labels.lookup.get(clean(row[word])) is not None}
        wanted.append(Words([labels.names[labels.lookup[clean(row[w])]] for w in known], list(known.values())))
        encoded.append({name: found[name][i] for name in found})
        cut += len(encoded[-1]["input_ids"]) == maximum and max(places, default=-1) < len(row) - 1
    return encoded, wanted, cut


def _mean(values: Tensor, there: Tensor) -> Tensor:
    """The mean of each row's values `[b, w]` that are there; 0 for a row of none."""
    return values.where(there, 0.0).sum(dim=1) / there.sum(dim=1).clamp(min=1)
