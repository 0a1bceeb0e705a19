"""A table of a model with changes: cells of every precision out of one run, and plans that are priced by them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Change, Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.timing.build import cells_of, spans
from prunesearch.cost.timing.walk import (
    Walks,
    in_turns,
    piece_names,
    plain_piece,
    plan_walks,
    some_halves,
    variant_of_piece,
)
from tests.support.known_machine import COUNTS, METHODS, SHAPE, table_of, true_ms

INT8 = Change.parse("int8")
PLAN = Plan(Schedule([Stage(2, 0.5, "cls_attention", "fuse"), Stage(4, 0.3, "value_norm", "fuse")]), [INT8])
SHARE = {"": 1.0, "int8": 0.4}


def true_total(plan: Plan) -> float:
    return SHARE[plan.variant] * sum(true_ms(piece) for piece in piece_names(plan.flow(SHAPE.geometry), SHAPE))


def schedules(seed: int) -> Iterator[Schedule]:
    return plan_walks(SHAPE.depth, SHAPE.tokens, SHAPE.protected, COUNTS, METHODS, seed)


@pytest.fixture(scope="module")
def table() -> CostTable:
    walks = Walks()
    for plan in itertools.islice(in_turns(schedules, [(), (INT8,)], seed=0), 600):
        names = piece_names(plan.flow(SHAPE.geometry), SHAPE, plan.variant)
        walks.add([(name, SHARE[variant_of_piece(name)] * true_ms(plain_piece(name))) for name in names])
    made = table_of(walks)
    return CostTable(**{**dict(made), "changed": {"int8": cells_of(walks, "int8")}})


def test_every_plan_is_priced_by_the_cells_of_its_precision(table: CostTable) -> None:
    for plan in (Plan(), Plan(changes=[INT8]), PLAN, Plan(PLAN.schedule)):
        assert table.predict(plan) == pytest.approx(true_total(plan), rel=0.03)
    assert table.predict(PLAN.schedule) == table.predict(Plan(PLAN.schedule))
    assert table.variants == ("", "int8")
    assert table.under(()) is table
    assert table.under((INT8,)) is table.under((INT8,))


def test_what_was_not_measured_is_refused(table: CostTable) -> None:
    with pytest.raises(PruneSearchError, match=r"nothing in bfloat16 \(changes that it has: int8\)"):
        table.predict(Plan(changes=[Change.parse("bfloat16")]))


def test_files_keep_the_cells_and_files_of_before_are_read(table: CostTable, tmp_path: Path) -> None:
    table.save(tmp_path / "new.json")
    again = CostTable.load(tmp_path / "new.json")
    assert again == table
    assert again.predict(PLAN) == table.predict(PLAN)
    alone = CostTable(**{**dict(table), "changed": {}})
    alone.save(tmp_path / "alone.json")
    assert '"changed"' not in (tmp_path / "alone.json").read_text()
    assert CostTable.load(tmp_path / "alone.json").variants == ("",)
    assert table.summary()["cells"] > alone.summary()["cells"]


def test_another_model_has_the_precisions_too(table: CostTable) -> None:
    shorter = table.for_shape(SHAPE.model_copy(update={"depth": 3, "tokens": 50}))
    assert shorter.predict(Plan(changes=[INT8])) == pytest.approx(0.4 * shorter.predict(Plan()), rel=0.02)


# -- halves of blocks ------------------------------------------------------------------------------------------------

OPTIONS = {
    (block, half): tuple(Change.parse(f"{block}:{form}") for form in forms)
    for block in range(SHAPE.depth)
    for half, forms in {
        "attention": ("width(heads=1)", "skip(part=attention)"),
        "mlp": ("width(mlp=64)", "rank(mlp=8)"),
    }.items()
}
LEFT = {"": 1.0, "heads1": 0.5, "none": 0.01, "mlp64": 0.4, "rank8": 0.6}


def true_of(piece: tuple[Any, ...]) -> float:
    """Of a piece whose last word says what was done to it."""
    plain = plain_piece(piece)
    word = plain[-1] if plain[0] in ("attention", "mlp") else ""
    own = (*plain[:-1], "") if word else plain
    return SHARE[variant_of_piece(piece)] * LEFT[word] * true_ms(own)


def names_of(plan: Plan) -> list[tuple[Any, ...]]:
    return piece_names(plan.flow(SHAPE.geometry), SHAPE.under(plan.halves), plan.variant)


@pytest.fixture(scope="module")
def halved() -> CostTable:
    walks = Walks()
    for plan in itertools.islice(in_turns(schedules, [(), (INT8,)], 0, OPTIONS), 1500):
        walks.add([(name, true_of(name)) for name in names_of(plan)])
    assert spans(walks, SHAPE, sorted(COUNTS), METHODS, OPTIONS)
    made = table_of(walks)
    return CostTable(**{**dict(made), "changed": {"int8": cells_of(walks, "int8")}})


def test_halves_are_priced_by_the_cells_of_their_forms(halved: CostTable) -> None:
    rng = random.Random(3)
    for schedule in itertools.islice(schedules(9), 40):
        whole = rng.choice([(), (INT8,)])
        plan = Plan(schedule, (*whole, *some_halves(OPTIONS, schedule, rng)))
        assert halved.predict(plan) == pytest.approx(sum(map(true_of, names_of(plan))), rel=0.05)
    assert halved.predict(Plan()) == pytest.approx(sum(map(true_of, names_of(Plan()))), rel=0.03)


def test_a_form_that_was_not_measured_is_refused(halved: CostTable, table: CostTable) -> None:
    with pytest.raises(PruneSearchError, match="no the MLP of mlp64 blocks"):
        table.predict(Plan(changes=[Change.parse("1:width(mlp=64)")]))
    with pytest.raises(PruneSearchError, match="no the MLP of mlp32 blocks"):
        halved.predict(Plan(changes=[Change.parse("1:width(mlp=32)")]))


def test_random_plans_have_every_share_of_forms_and_keep_attention_that_scores() -> None:
    rng, many = random.Random(0), []
    for schedule in itertools.islice(schedules(4), 300):
        changes = some_halves(OPTIONS, schedule, rng)
        many.append(len(changes))
        Plan(schedule, changes)  # or it is refused
    assert min(many) == 0
    assert max(many) > 1.5 * SHAPE.depth
    assert some_halves({}, Schedule(), rng) == []


def test_a_table_lacks_forms_until_they_were_met_everywhere() -> None:
    walks = Walks()
    plans = in_turns(schedules, [()], 0, OPTIONS)
    for plan in itertools.islice(plans, 5):
        walks.add([(name, true_of(name)) for name in names_of(plan)])
    assert not spans(walks, SHAPE, sorted(COUNTS), METHODS, OPTIONS)
