"""Metrics of token classification, from the tags of the words of every row."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor

from prunesearch.tasks.metrics.metric import Floats, OfSums, ratio

Entity = tuple[str, int, int]  # type, first word, last word


class SeqevalF1(OfSums):
    """Micro F1 of entities, right in type and both ends, as `seqeval.metrics.f1_score` and conlleval count them."""

    name = "seqeval_f1"

    def statistics(self, answers: list[list[str]], wanted: list[list[str]]) -> Tensor:
        """Entities found, predicted and true: `[b, 3]`."""
        rows = []
        for said, true in zip(answers, wanted, strict=True):
            one, other = entities(said), entities(true)
            rows.append([len(one & other), len(one), len(other)])
        return torch.tensor(rows, dtype=torch.float32)

    def of_sums(self, sums: Floats) -> Floats:
        """F1 of counts `[..., 3]`; 0 where there is nothing."""
        return ratio(2 * sums[..., 0], sums[..., 1] + sums[..., 2])

    def fixed(self, wanted: Any) -> str:
        """Nothing can be found where nothing is."""
        return "" if any(entities(tags) for tags in wanted) else "no row has an entity"


class TokenAccuracy(OfSums):
    """Share of words whose tag is right."""

    name = "token_accuracy"

    def statistics(self, answers: list[list[str]], wanted: list[list[str]]) -> Tensor:
        """Words that are right, and words: `[b, 2]`."""
        pairs = zip(answers, wanted, strict=True)
        rows = [[sum(a == b for a, b in zip(said, true, strict=True)), len(true)] for said, true in pairs]
        return torch.tensor(rows, dtype=torch.float32)

    def of_sums(self, sums: Floats) -> Floats:
        """Share of counts `[..., 2]`."""
        return ratio(sums[..., 0], sums[..., 1])

    def constant(self, wanted: Any) -> float | None:
        """The share of the most frequent tag."""
        counts = Counter(tag for tags in wanted for tag in tags)
        return max(counts.values()) / counts.total()


def entities(tags: list[str]) -> set[Entity]:
    """The entities of a row of tags (IOB1, IOB2, IOE, IOBES), by the rules of conlleval.

    A chunk ends before O, B or S, after E or S, and where the type changes; an I or E without a beginning begins one.
    """
    found: set[Entity] = set()
    before, kind, start = "O", "", 0
    for place, tag in enumerate([*tags, "O"]):
        now, _, name = tag.partition("-")
        if before != "O" and (now in ("O", "B", "S") or before in ("E", "S") or name != kind):
            found.add((kind, start, place - 1))
            before = "O"
        if now != "O" and before == "O":
            start = place
        before, kind = now, name
    return found
