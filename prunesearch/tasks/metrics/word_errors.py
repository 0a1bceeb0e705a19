"""Metrics of speech recognition, from transcripts; the counts are jiwer's."""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor

from prunesearch.tasks.libraries import package
from prunesearch.tasks.metrics.metric import Floats, OfSums, ratio

_NO_WORD = re.compile(r"[^\w\s']|_")


class WordAccuracy(OfSums):
    """1 - WER: words less edits (substitutions, deletions, insertions) over words; below 0 where edits are more.

    Case and punctuation (but for apostrophes) do not count.
    """

    name, lowest = "word_accuracy", -math.inf

    def statistics(self, answers: list[str], wanted: list[str]) -> Tensor:
        """Edits and words of the reference: `[b, 2]`."""
        return torch.tensor([_edits(said, true) for said, true in zip(answers, wanted, strict=True)]).float()

    def of_sums(self, sums: Floats) -> Floats:
        """1 - WER of counts `[..., 2]`."""
        return 1 - ratio(sums[..., 0], sums[..., 1])


def words(text: str) -> list[str]:
    """The words of a transcript as they are compared."""
    return _NO_WORD.sub(" ", text.lower()).split()


def _edits(said: str, true: str) -> tuple[int, int]:
    """Edits that turn the reference into what was said, and words of the reference."""
    jiwer = package("jiwer", "word errors are counted by the package jiwer: pip install 'prunesearch[audio]'")
    reference, found = words(true), words(said)
    if not reference:  # jiwer refuses it: every word is one too many
        return len(found), 0
    counts = jiwer.process_words(" ".join(reference), " ".join(found))
    return counts.substitutions + counts.deletions + counts.insertions, len(reference)
