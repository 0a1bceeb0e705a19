"""`--length buckets`: lengths that stand for those of the data."""

from __future__ import annotations

import numpy as np
import pytest

from prunesearch.search.costs.lengths import bucket_loads


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
