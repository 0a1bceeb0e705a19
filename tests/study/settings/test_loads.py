"""Loads as they may be written, and as the data have them."""

from __future__ import annotations

import numpy as np
import pytest

from prunesearch.core.errors import PruneSearchError
from prunesearch.study.settings.loads import Load, bucket_loads, read_loads, spread_loads


def loads(*rows):
    return {"loads": [{"batch_size": b, "length": n, "weight": pytest.approx(w)} for b, n, w in rows]}


@pytest.mark.parametrize(
    ("batch_size", "length", "expected"),
    [
        (None, None, {}),
        (8, None, {"batch_size": 8}),
        (["8"], None, {"batch_size": 8}),
        ("8", 64, {"batch_size": 8, "length": 64}),
        ([1, 8], None, loads((1, None, 1), (8, None, 1))),
        (["1:0.7", "8:0.3"], None, loads((1, None, 0.7), (8, None, 0.3))),
        ({1: 0.7, 8: 0.3}, None, loads((1, None, 0.7), (8, None, 0.3))),
        (["8"], ["buckets"], {"batch_size": 8, "length_buckets": True}),
        (None, "buckets", {"length_buckets": True}),
        (["8"], ["32", "128"], loads((8, 32, 1), (8, 128, 1))),
        (["1:2", "8:1"], ["32:3", "64:1"], loads((1, 32, 6), (1, 64, 2), (8, 32, 3), (8, 64, 1))),
    ],
)
def test_a_batch_size_and_a_length_may_be_several(batch_size, length, expected):
    assert spread_loads(batch_size, length) == expected


@pytest.mark.parametrize(
    ("batch_size", "length", "words"),
    [
        (["many"], None, "batch_size takes whole numbers, or 1:0.7 with a weight, but got 'many'"),
        (["8:"], None, "got '8:'"),
        (1.5, None, "got '1.5'"),
        (["1", "8:0.5"], None, "all values have a weight, or none has, but got 1 8:0.5"),
        (None, ["32", "64"], "several lengths need a batch size"),
        (["8"], ["buckets", "64"], "length buckets stands alone, beside one batch size"),
        (["1", "8"], ["buckets"], "length buckets stands alone, beside one batch size"),
    ],
)
def test_loads_that_cannot_be_are_one_line(batch_size, length, words):
    with pytest.raises(PruneSearchError) as error:
        spread_loads(batch_size, length)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_loads_may_be_numbers_texts_mappings_and_loads():
    whole = Load(batch_size=4, length=32)
    assert read_loads([1, {"batch_size": 2, "length": 16}, whole]) == [
        {"batch_size": 1, "weight": 1.0},
        {"batch_size": 2, "length": 16},
        whole,
    ]
    assert read_loads(["1:0.5", "8:2"]) == [{"batch_size": 1, "weight": 0.5}, {"batch_size": 8, "weight": 2.0}]


def test_a_load_is_the_middle_of_a_quarter_and_weighs_its_rows():
    lengths = [*range(1, 41), *range(101, 121), *[200] * 20]  # quarters of 20 rows; their middles are 11, 31, 111, 200
    np.random.default_rng(0).shuffle(lengths)
    found = bucket_loads(lengths, 4)
    assert [(load.length, load.weight, load.batch_size) for load in found] == [
        (200, 0.25, 4),
        (112, 0.25, 4),
        (32, 0.25, 4),
        (16, 0.25, 4),
    ]


@pytest.mark.parametrize(
    ("lengths", "loads"),
    [([9] * 7, [(16, 1.0)]), ([3], [(8, 1.0)]), ([5, 5, 5, 5, 5, 5, 30, 30], [(32, 0.25), (8, 0.75)])],
)
def test_quarters_of_one_length_are_one_load(lengths: list[int], loads: list[tuple[int, float]]):
    assert [(load.length, load.weight) for load in bucket_loads(lengths, 1)] == loads
