"""BM25: the formula of the paper, written as loops over words, is the judge."""

import math
import random

import numpy as np
import pytest

from prunesearch.tasks.data.bm25 import Bm25, words
from tests.support.tiny import WORDS, sentence


def slow_score(query: str, document: str, documents: list[str]) -> float:
    """Robertson and Zaragoza 2009, equation 3.15, with Lucene's idf, k1 = 0.9 and b = 0.4; one word at a time."""
    split = [d.lower().split() for d in documents]
    average = sum(map(len, split)) / len(split)
    mine, total = document.lower().split(), 0.0
    for word in query.lower().split():
        tf = mine.count(word)
        holding = sum(word in d for d in split)
        idf = math.log(1 + (len(split) - holding + 0.5) / (holding + 0.5))
        total += idf * tf / (tf + 0.9 * (1 - 0.4 + 0.4 * len(mine) / average))
    return total


def test_scores_are_those_of_the_formula():
    documents = [sentence(i) for i in range(40)] + ["Good GOOD film", ""]
    index = Bm25(documents)
    for seed in range(8):
        query = " ".join(random.Random(seed).choices([*WORDS, "unknown"], k=5))
        want = [slow_score(query, document, documents) for document in documents]
        assert index.scores(query) == pytest.approx(want)
        nearest = index.nearest(query, 10)
        assert [want[i] for i in nearest] == pytest.approx(sorted(want, reverse=True)[:10])
        assert sorted(index.nearest(query, 99)) == list(range(42))


def test_words_are_runs_of_letters_of_any_script_in_lower_case():
    assert words("Der Fluß, 3.5 km: très-bien!") == ["der", "fluß", "3", "5", "km", "très", "bien"]


def test_documents_without_a_word_of_the_query_come_in_a_drawn_order():
    index = Bm25(["x"] * 50)
    found = index.nearest("nothing", 50)
    assert sorted(found) == list(range(50))
    assert found != list(range(50))
    assert found == Bm25(["x"] * 50).nearest("nothing", 50)
    assert np.array_equal(Bm25(["", ""]).scores("x"), [0, 0])
