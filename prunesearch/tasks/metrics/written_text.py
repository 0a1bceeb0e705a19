"""Metrics of texts that a model writes, from those it wrote and the references of each row, one or several."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.metrics.metric import Floats, OfSums, RowMean, of_one_text

References = str | list[str]  # of a row: one, or several

_ORDER = 4
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_WORDS)}
_BEFORE_NOUNS = frozenset(("a", "an", "the"))
_AGREED = 3  # people who say the same, for an answer that is wholly right
_ALIKE = 0.5  # of the characters that may differ


class Bleu(OfSums):
    """Corpus BLEU as sacrebleu's (13a tokens, exponential smoothing of orders without a match), as a fraction."""

    name = "bleu"

    def statistics(self, answers: list[str], wanted: Sequence[References]) -> Tensor:
        """Matches of orders 1 to 4, n-grams of orders 1 to 4, length, and reference length: `[b, 10]`.

        Of several references the matches are with any, and the length is the nearest one's.
        """
        scorer, rows = _sacrebleu(), []
        for said, true in zip(answers, wanted, strict=True):
            found = scorer.sentence_score(said, _listed(true))
            rows.append([*found.counts, *found.totals, found.sys_len, found.ref_len])
        return torch.tensor(rows, dtype=torch.float32)

    def of_sums(self, sums: Floats) -> Floats:
        """BLEU of counts `[..., 10]` (Papineni et al. 2002; smoothing 3 of Chen and Cherry 2014, as in mteval-v13a)."""
        hits, grams = sums[..., :_ORDER], sums[..., _ORDER : 2 * _ORDER]
        length, reference = sums[..., -2], sums[..., -1]
        # the k-th order without a match counts as 1 / 2^k of one
        missed = (hits == 0) & (grams > 0)
        smooth = np.where(missed, 0.5 ** np.cumsum(missed, axis=-1), hits)
        with np.errstate(divide="ignore", invalid="ignore"):
            score = np.exp(np.log(smooth / grams).mean(axis=-1))
            brevity = np.where(length < reference, np.exp(1 - reference / length), 1.0)
        found: Floats = np.where((grams > 0).all(axis=-1) & (hits.sum(axis=-1) > 0), brevity * score, 0.0)
        return found

    def constant(self, wanted: Any) -> float | None:
        """What a common reference has, said for every row."""
        return of_one_text(self, wanted)


class RougeL(RowMean):
    """Mean F-measure of the longest common subsequence of stemmed words, as Google's rouge-score (Lin 2004)."""

    name, binary = "rouge_l", False

    def statistics(self, answers: list[str], wanted: Sequence[References]) -> Tensor:
        """The F-measures, of several references the best: `[b, 1]`."""
        scorer = _rouge()
        rows = [
            scorer.score_multi(_listed(true), said)["rougeL"].fmeasure
            for said, true in zip(answers, wanted, strict=True)
        ]
        return torch.tensor(rows, dtype=torch.float32)[:, None]

    def constant(self, wanted: Any) -> float | None:
        """What a common reference has, said for every row."""
        return of_one_text(self, wanted)


class ExactMatch(RowMean):
    """Share of questions whose answer is one of the references, as the SQuAD v1.1 script compares them."""

    name = "exact_match"

    def statistics(self, answers: list[str], wanted: list[list[str]]) -> Tensor:
        """1 where right: `[b, 1]`."""
        rows = [
            max(normalised(said) == normalised(true) for true in references)
            for said, references in zip(answers, wanted, strict=True)
        ]
        return torch.tensor(rows, dtype=torch.float32)[:, None]

    def constant(self, wanted: Any) -> float | None:
        """What a common reference has, said for every row."""
        return of_one_text(self, wanted)


class AnswerF1(RowMean):
    """Mean F1 of the words of the answer against the best reference, as the SQuAD v1.1 script has it."""

    name, binary = "answer_f1", False

    def statistics(self, answers: list[str], wanted: list[list[str]]) -> Tensor:
        """F1 of every row, `[b, 1]`."""
        rows = [
            max(_word_f1(said, true) for true in references) for said, references in zip(answers, wanted, strict=True)
        ]
        return torch.tensor(rows, dtype=torch.float32)[:, None]

    def constant(self, wanted: Any) -> float | None:
        """What a common reference has, said for every row."""
        return of_one_text(self, wanted)


class VqaAccuracy(RowMean):
    """Mean accuracy of VQA (Antol et al. 2015): an answer is as right as a third of the people who gave it, 1 at most.

    It is averaged over all choices of all references but one, as the official script does; a single reference is right
    or wrong. Apostrophes are taken out, where that script puts them into words that lack them.
    """

    name, binary = "vqa_accuracy", False

    def statistics(self, answers: list[str], wanted: list[list[str]]) -> Tensor:
        """Accuracy of every row, `[b, 1]`."""
        rows = [_agreed(said, references) for said, references in zip(answers, wanted, strict=True)]
        return torch.tensor(rows, dtype=torch.float32)[:, None]

    def constant(self, wanted: Any) -> float | None:
        """What a common reference has, said for every row."""
        return of_one_text(self, wanted)


class Anls(RowMean):
    """Mean normalised Levenshtein similarity to the nearest reference, 0 below one half (Biten et al. 2019: DocVQA)."""

    name, binary = "anls", False

    def statistics(self, answers: list[str], wanted: list[list[str]]) -> Tensor:
        """Similarity of every row, `[b, 1]`."""
        rows = [
            max(_similarity(said, true) for true in references)
            for said, references in zip(answers, wanted, strict=True)
        ]
        return torch.tensor(rows, dtype=torch.float32)[:, None]

    def constant(self, wanted: Any) -> float | None:
        """What a common reference has, said for every row."""
        return of_one_text(self, wanted)


def _listed(references: References) -> list[str]:
    return [references] if isinstance(references, str) else references


def normalised(text: str) -> str:
    """Lower case, without punctuation, articles and surplus blanks (SQuAD v1.1's `normalize_answer`)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _word_f1(said: str, true: str) -> float:
    one, other = normalised(said).split(), normalised(true).split()
    same = sum((Counter(one) & Counter(other)).values())
    return 2 * same / (len(one) + len(other)) if same else 0.0


def _agreed(said: str, references: list[str]) -> float:
    mine, others = in_words(said), [in_words(text) for text in references]
    if len(others) == 1:
        return float(mine == others[0])
    same = sum(mine == other for other in others)
    # leave each out in turn: one of those that say the same, or one of the rest
    left = [min(1.0, (same - (mine == other)) / _AGREED) for other in others]
    return sum(left) / len(left)


def in_words(text: str) -> str:
    """Lower case, numbers in digits, without articles and punctuation (but for points and commas within numbers)."""
    bare = re.sub(r"(?<!\d)[.,]|[.,](?!\d)", " ", text.lower().replace("'", ""))
    bare = re.sub(r"(?<=\d),(?=\d)", "", bare)
    words = re.sub(r"[^\w\s.:$]|_", " ", bare).split()
    return " ".join(_NUMBERS.get(word, word) for word in words if word not in _BEFORE_NOUNS)


def _similarity(said: str, true: str) -> float:
    one, other = (" ".join(text.lower().split()) for text in (said, true))
    longest = max(len(one), len(other))
    far = edits(one, other) / longest if longest else 0.0
    return 1 - far if far < _ALIKE else 0.0


def edits(one: str, other: str) -> int:
    """Least insertions, deletions and replacements of a character that make one text of another (Levenshtein)."""
    row = list(range(len(other) + 1))
    for i, mine in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, theirs in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (mine != theirs))
    return row[-1]


@lru_cache(maxsize=1)
def _sacrebleu() -> Any:
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError:
        raise PruneSearchError("metric bleu needs sacrebleu: pip install 'prunesearch[text]'") from None
    return BLEU(effective_order=True)  # of a sentence, whose counts alone are used; the order changes none of them


@lru_cache(maxsize=1)
def _rouge() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise PruneSearchError("metric rouge_l needs rouge-score: pip install 'prunesearch[text]'") from None
    made: Any = RougeScorer  # untyped
    return made(["rougeL"], use_stemmer=True)
