"""Which halves a search may keep as they are, what they cost, and that the solver keeps those that pay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from prunesearch.core.plans.plan import HALVES, Change, Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.timing.build import cells_of
from prunesearch.cost.timing.walk import Walks, in_turns, piece_names, plain_piece, plan_walks, variant_of_piece
from prunesearch.search.costs.half_options import half_costs_missing
from prunesearch.search.costs.kept_halves import with_kept
from prunesearch.search.solve.solver import solve
from prunesearch.search.space.plan_space import PlanSpace, in_fewer_bits
from prunesearch.search.space.space import Space, SpaceFile
from tests.search.solve.test_dynamic import random_sensitivities
from tests.support.fakes import make_space
from tests.support.known_machine import COUNTS, METHODS, SHAPE, table_of, true_ms

INT8, BF16 = (Change.parse("int8"),), (Change.parse("bfloat16"),)
SLOWER = {"attention": 1.2, "mlp": 0.5}  # int8 on a narrow model


def table_with(shares: Mapping[str, float]) -> CostTable:
    """A machine on which int8 has these shares of what each piece takes."""
    walks = Walks()
    rows = in_turns(
        lambda seed: plan_walks(SHAPE.depth, SHAPE.tokens, SHAPE.protected, COUNTS, METHODS, seed), [(), INT8], 0
    )
    for _ in range(400):
        plan = next(rows)
        names = piece_names(plan.flow(SHAPE.geometry), SHAPE, plan.variant)
        walks.add([(piece, cost_of(piece, shares)) for piece in names])
    made = table_of(walks)
    return CostTable(**{**dict(made), "changed": {"int8": cells_of(walks, "int8")}})


def cost_of(piece: tuple[Any, ...], shares: Mapping[str, float]) -> float:
    plain = plain_piece(piece)
    return true_ms(plain) * (shares.get(plain[0], 1.0) if variant_of_piece(piece) else 1.0)


@pytest.fixture(scope="module")
def table() -> CostTable:
    return table_with(SLOWER)


def keeps(half: str) -> list[Change]:
    return [Change.parse(f"{block}:keep(part={half})") for block in range(SHAPE.depth)]


def test_what_fewer_bits_make_slower_may_be_kept_and_nothing_else(table: CostTable) -> None:
    found = with_kept({}, table, [(), INT8])
    assert found == {(block, "attention"): (change,) for block, change in enumerate(keeps("attention"))}
    assert with_kept({}, table, [()]) == {}
    assert with_kept({}, table_with(dict.fromkeys(HALVES, 0.5)), [(), INT8]) == {}
    skip = Change.parse("2:skip(part=mlp)")
    assert with_kept({(2, "mlp"): [skip]}, table, [(), INT8])[2, "mlp"] == (skip,)


def test_a_kept_half_costs_what_it_does_in_the_models_own_precision(table: CostTable) -> None:
    schedule = Schedule([Stage(1, (20 - 1) / 64, "cls_attention", "drop")])
    plan = Plan(schedule, (*INT8, *keeps("attention")[2:4]))
    wanted = 0.0
    block = -1
    for piece in piece_names(schedule.flow(SHAPE.geometry), SHAPE):
        block += piece[0] == "attention"
        own = piece[0] == "attention" and block in (2, 3)
        wanted += true_ms(piece) * (1.0 if own else SLOWER.get(piece[0], 1.0))
    assert table.predict(plan) == pytest.approx(wanted, rel=0.02)
    assert table.predict(plan) < table.predict(Plan(schedule, INT8))


def test_the_solver_keeps_what_pays(table: CostTable) -> None:
    options = with_kept({}, table, [(), INT8])
    stages = Space(SpaceFile.load(None), SHAPE.depth, SHAPE.tokens, SHAPE.protected).with_methods(METHODS)
    space = PlanSpace(stages, [(), INT8], options=options)
    losses = random_sensitivities(stages, seed=0)
    free = {str(c): 0.0 for known in options.values() for c in known}
    found = solve(space, replace(losses, halves=free), table, 100.0, 12)
    in_int8 = [seed.plan for seed in found if seed.plan.variant == "int8"]
    assert in_int8
    assert all(len(plan.halves) == SHAPE.depth for plan in in_int8)
    assert not any(seed.plan.halves for seed in found if not seed.plan.variant)


def test_in_the_models_own_precision_nothing_is_kept() -> None:
    space = PlanSpace(make_space(), [(), INT8], options={(1, "mlp"): (Change.parse("1:keep(part=mlp)"),)})
    kept = space.options[1, "mlp"]
    assert space.planned(Schedule(), (), kept) == Plan()
    assert space.planned(Schedule(), INT8, kept) == Plan(changes=(*INT8, *kept))
    assert [in_fewer_bits(whole) for whole in ((), INT8, BF16)] == [False, True, False]


def test_blocks_of_a_decoder_are_not_offered() -> None:
    """They refuse changes of halves (`apply_`), so that every such plan would fail."""
    decoder: Any = SimpleNamespace(geometry=SimpleNamespace(part="decoder"), config=None)
    assert "a decoder" in half_costs_missing(decoder, SpaceFile.load(None))


def test_points_that_keep_halves_are_trained_as_any_other() -> None:
    plan = Plan.parse("1:0.50 bipartite | int8 | 2:keep(part=attention)")
    assert plan.kept == {(2, "attention")}
    assert not plan.halves.keys() - plan.skips - plan.kept
    assert plan.shortened == Plan(plan.schedule)
