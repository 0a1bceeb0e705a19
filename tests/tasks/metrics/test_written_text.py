"""Metrics of answers to questions of pictures, by hand and against slow references."""

from __future__ import annotations

import itertools
import random

import pytest

from prunesearch.tasks.metrics.metric import find_metric
from prunesearch.tasks.metrics.written_text import edits, in_words


def test_vqa_accuracy_is_that_of_the_people_who_agree():
    metric = find_metric("vqa_accuracy")
    people = ["red"] * 2 + ["dark red"] * 8
    rows = metric.statistics(["red", "Dark Red!", "blue", "the red"], [people] * 4).flatten().tolist()
    # of ten choices of nine people, two have one "red" and eight have two
    assert rows == pytest.approx([0.2 * 1 / 3 + 0.8 * 2 / 3, 1.0, 0.0, 0.2 * 1 / 3 + 0.8 * 2 / 3])
    assert metric.statistics(["Two", "2."], [["2"], ["two"]]).flatten().tolist() == [1.0, 1.0]


@pytest.mark.parametrize("agree", range(11))
def test_vqa_accuracy_equals_the_mean_over_nine_of_ten(agree: int):
    people = ["yes"] * agree + ["no"] * (10 - agree)
    slow = sum(min(1, nine.count("yes") / 3) for nine in itertools.combinations(people, 9)) / 10
    assert find_metric("vqa_accuracy").statistics(["yes"], [people]).item() == pytest.approx(slow)


def test_words_are_compared_bare():
    assert in_words("  The cat, on a MAT.") == "cat on mat"
    assert in_words("1,000.5 dollars") == "1000.5 dollars"
    assert in_words("don't") == in_words("dont")
    assert in_words("ten") == "10"


def test_anls_is_nothing_below_one_half():
    metric = find_metric("anls")
    wanted = [["hello"], ["abcd"], ["abcd", "WXYZ"], [""]]
    rows = metric.statistics(["hallo", "abxy", "wxyz", ""], wanted).flatten().tolist()
    assert rows == pytest.approx([0.8, 0.0, 1.0, 1.0])


def test_edits_equal_a_slow_recursion():
    def slow(one: str, other: str) -> int:
        if not one or not other:
            return len(one) + len(other)
        here = slow(one[1:], other[1:]) + (one[0] != other[0])
        return min(here, slow(one[1:], other) + 1, slow(one, other[1:]) + 1)

    rng = random.Random(0)
    for _ in range(60):
        one, other = ("".join(rng.choices("abc", k=rng.randint(0, 5))) for _ in range(2))
        assert edits(one, other) == slow(one, other)
