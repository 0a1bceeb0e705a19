"""Metrics of speech recognition, from transcripts; the counts are jiwer's."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from prunesearch.tasks.libraries import package
from prunesearch.tasks.metrics.metric import Floats, OfSums, of_one_text, ratio

_NO_WORD = re.compile(r"[^\w\s']|_")
_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_DIGITS = {name: str(i) for i, name in enumerate(_NAMES)}
_UNSPACED = ("zh", "yue", "ja", "th", "lo", "my")  # languages written without spaces: characters count as words
Normalise = Callable[[str], str]


def plain(text: str) -> str:
    """A transcript in lower case and without punctuation, apostrophes apart: the rule where no language is known."""
    return _NO_WORD.sub(" ", text.lower())


def normaliser(language: str, tokenizer: Any) -> Normalise:
    """How the field makes transcripts comparable (Radford et al. 2022, appendix C); the code is transformers' own.

    English loses fillers, contractions, British spelling, and numbers written as words; other languages case, symbols
    and punctuation.

    Args:
        language: its code, "en".
        tokenizer: brings the map of British spellings, where it has one.
    """
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

    english: Any = EnglishTextNormalizer  # untyped
    basic: Any = BasicTextNormalizer
    if language == "en":
        made: Normalise = english(getattr(tokenizer, "english_spelling_normalizer", None) or {})
    else:
        made = basic(split_letters=language in _UNSPACED)
    return made


def by_digit(normalise: Normalise) -> Normalise:
    """The same with every digit a word: English makes one number of "one five", 15, and two of "1, 5"."""

    def apart(text: str) -> str:
        words = (_DIGITS.get(word, word) for word in normalise(text).split())
        return " ".join(" ".join(word) if word.isdecimal() else word for word in words)

    return apart


def are_digits(texts: Iterable[str], normalise: Normalise) -> bool:
    """Whether transcripts are strings of digits, and some of several: spelled numbers alone, as in "one five nine"."""
    rows = [by_digit(normalise)(text).split() for text in texts]
    return any(len(row) > 1 for row in rows) and all(
        len(word) == 1 and word.isdecimal() for row in rows for word in row
    )


class WordAccuracy(OfSums):
    """1 - WER: words less edits (substitutions, deletions, insertions) over words; below 0 where edits are more.

    Args:
        normalise: what is done to both texts before their words are compared.
    """

    name, lowest = "word_accuracy", -math.inf

    def __init__(self, normalise: Normalise = plain) -> None:
        self.normalise = normalise

    def statistics(self, answers: list[str], wanted: list[str]) -> Tensor:
        """Edits and words of the reference: `[b, 2]`."""
        pairs = zip(map(self.normalise, answers), map(self.normalise, wanted), strict=True)
        return torch.tensor([_edits(said.split(), true.split()) for said, true in pairs]).float()

    def of_sums(self, sums: Floats) -> Floats:
        """1 - WER of counts `[..., 2]`."""
        return 1 - ratio(sums[..., 0], sums[..., 1])

    def constant(self, wanted: Any) -> float | None:
        """What a common reference has, said for every row."""
        return of_one_text(self, wanted)


def _edits(found: list[str], reference: list[str]) -> tuple[int, int]:
    """Edits that turn the words of the reference into those that were said, and how many the reference has."""
    jiwer = package("jiwer", "word errors are counted by the package jiwer: pip install 'prunesearch[audio]'")
    if not reference:  # jiwer refuses it: every word is one too many
        return len(found), 0
    counts = jiwer.process_words(" ".join(reference), " ".join(found))
    return counts.substitutions + counts.deletions + counts.insertions, len(reference)
