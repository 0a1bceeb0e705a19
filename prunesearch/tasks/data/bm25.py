"""BM25: the ranking of documents by the words that they share with a query."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array

_WORD = re.compile(r"\w+")
_K1, _B = 0.9, 0.4  # Anserini's defaults, which BEIR's own baseline has


class Bm25:
    """An index of documents for BM25 (Robertson and Zaragoza 2009, with Lucene's idf, which is never negative).

    Args:
        documents: their texts; a word is a run of letters and digits, in lower case.
    """

    def __init__(self, documents: list[str]) -> None:
        self._columns: dict[str, int] = {}
        rows: list[int] = []
        columns: list[int] = []
        counts: list[int] = []
        lengths = np.zeros(len(documents))
        for i, text in enumerate(documents):
            found = Counter(words(text))
            lengths[i] = found.total()
            rows += [i] * len(found)
            columns += [self._columns.setdefault(word, len(self._columns)) for word in found]
            counts += found.values()
        tf, row, column = (np.array(values, dtype=np.int64) for values in (counts, rows, columns))
        n, holding = len(documents), np.bincount(column, minlength=len(self._columns))
        idf = np.log1p((n - holding + 0.5) / (holding + 0.5))
        norm = _K1 * (1 - _B + _B * lengths / max(lengths.mean(), 1.0))
        sparse: Any = csc_array  # untyped
        self._weights = sparse((idf[column] * tf / (tf + norm[row]), (row, column)), shape=(n, len(idf)))
        # documents without a word of the query are alike to it: their order is drawn, not that of the file
        self._order = np.random.default_rng(0).permutation(n)

    def scores(self, query: str) -> NDArray[np.float64]:
        """The score of every document, `[n]`; 0 where it shares no word with the query."""
        columns = [self._columns[word] for word in words(query) if word in self._columns]
        found: NDArray[np.float64] = self._weights[:, columns].sum(axis=1)
        return found

    def nearest(self, query: str, k: int) -> list[int]:
        """Numbers of the `k` documents with the highest scores, the best first; all of them where there are fewer."""
        costs = -self.scores(query)[self._order]
        best = np.arange(len(costs))
        if k < len(costs):  # a sort of them all would take ten times as long
            best = np.flatnonzero(costs <= np.partition(costs, k - 1)[k - 1])
        top = best[np.argsort(costs[best], kind="stable")[:k]]
        found: list[int] = self._order[top].tolist()
        return found


def words(text: str) -> list[str]:
    """The words of a text, in its order."""
    return _WORD.findall(text.lower())
