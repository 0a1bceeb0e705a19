"""Whether walks have met all that schedules within a table's grid can ask of it."""

import math

import pytest

from prunesearch.cost.timing.build import spans
from prunesearch.cost.timing.unseen import draw_unseen
from prunesearch.cost.timing.walk import Walks, piece_names, plan_walks
from tests.support.known_machine import COUNTS, METHODS, SHAPE, table_of, true_ms


@pytest.mark.parametrize("depth", [1, 2, 3, 6])
def test_few_walks_of_a_slow_model_span_all_that_is_asked_of_its_table(depth):
    """A table does not extrapolate: what no walk met could not be priced. (Two blocks and 4,096 tokens ended so.)"""
    variants = ("", "window9/glu48", "/glu48", "", "", "kv1/")[:depth]  # of these, most are met at one block alone
    shape = SHAPE.model_copy(update={"depth": depth, "variants": variants})
    plan = plan_walks(depth, shape.tokens, shape.protected, COUNTS, METHODS, 3)
    walks = Walks()
    while not spans(walks, shape, COUNTS, METHODS):
        names = piece_names(next(plan).flow(shape.geometry), shape)
        walks.add([(piece, true_ms(piece)) for piece in names])
    assert len(walks.steps) <= 25  # a run takes 40 at the least
    table = table_of(walks).model_copy(update={"shape": shape})
    for schedule in draw_unseen(shape, COUNTS, METHODS, count=40, seed=5):
        assert math.isfinite(table.predict(schedule))
