"""The plans of methods against lists written out by hand; prices of what no table knows; facts of plans by loops."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from prunesearch.core.plans.flow import Geometry
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.core.tables.rival_table import RIVALS
from prunesearch.core.tables.row_kinds import RivalRow
from prunesearch.search.rivals.agreement import with_survey
from prunesearch.search.rivals.any_method import AnyMethod
from prunesearch.search.rivals.arena import Arena, Effort, LeftOutError
from prunesearch.search.rivals.facts import kernels_a_stage, varies
from prunesearch.study.front_compared import ComparedMethod
from prunesearch.study.front_items import Measured, MetricValue
from prunesearch.tasks.batching.batches import EvalSet
from tests.support.known_device import known_table

GEOMETRY = Geometry(6, 65, 1)


def arena(tmp_path: Path, share: float = 0.5, **changes: Any) -> Arena:
    setting: Any = SimpleNamespace(geometry=GEOMETRY)
    costing: Any = SimpleNamespace(table=known_table(**changes))
    nothing: Any = None
    return Arena(nothing, nothing, setting, nothing, costing, [], 0, share, nothing)


def plans_of(name: str, here: Arena) -> list[Plan]:
    return list(RIVALS.load(name)(here, RIVALS.entry(name)).plans)


def counts(plans: list[Plan]) -> set[tuple[int, ...]]:
    return {tuple(plan.flow(GEOMETRY).counts) for plan in plans}


def powers(sites: list[int]) -> Iterator[tuple[int, ...]]:
    """Tokens that leave each block where the k-th of some sites leaves the k-th power of a rate."""
    for rate in (step / 400 for step in range(1, 400)):
        n, left = 65, []
        for block in range(6):
            if block in sites:
                n = min(n, 1 + max(1, math.ceil(rate ** (sites.index(block) + 1) * 64 - 1e-9)))
            left.append(n)
        yield tuple(left)


def test_one_stage_at_a_quarter_of_the_depth_keeps_any_number(tmp_path: Path) -> None:
    found = plans_of("attention-based", arena(tmp_path, share=0.8))
    assert counts(found) == {(65, *[1 + kept] * 5) for kept in range(1, 64)}
    assert {stage.method for plan in found for stage in plan} == {"cls_attention+drop"}


def test_where_that_is_too_slow_it_stands_earlier(tmp_path: Path) -> None:
    here = arena(tmp_path, share=0.2)
    assert counts(plans_of("attention-based", here)) == {(1 + kept,) * 6 for kept in range(1, 64)}
    prices = [here.prices.predict(plan) for plan in plans_of("attention-based", here)]
    assert prices == sorted(prices, reverse=True)


def test_the_same_share_at_some_blocks_or_at_all(tmp_path: Path) -> None:
    here = arena(tmp_path, share=0.8)
    whole = (65,) * 6
    assert counts(plans_of("progressive", here)) == set(powers(list(range(6)))) - {whole}
    assert counts(plans_of("multi-stage", here)) == set(powers([1, 3, 4])) - {whole}
    assert {s.method for plan in plans_of("multi-stage", here) for s in plan} == {"cls_attention+fuse"}


def test_as_many_merge_at_every_block_and_no_more_than_half(tmp_path: Path) -> None:
    wanted = set()
    for r in range(1, 33):
        n, left = 64, []
        for _ in range(6):
            n -= min(r, n // 2)
            left.append(1 + n)
        wanted.add(tuple(left))
    assert counts(plans_of("merging", arena(tmp_path))) == wanted


def test_a_scorer_without_weights_is_left_out_and_one_with_them_says_what_they_took(tmp_path: Path) -> None:
    here = arena(tmp_path)
    with pytest.raises(LeftOutError, match="gate has no weights"):
        plans_of("gate", here)
    here.learnt["gate"] = Effort(12.0, 640)
    found = RIVALS.load("gate")(here, RIVALS.entry("gate"))
    assert (found.effort, found.plans[0].schedule.stages[0].scorer) == (Effort(12.0, 640), "gate")


def test_attention_that_cannot_weigh_tokens_runs_no_merge(tmp_path: Path) -> None:
    here = arena(tmp_path, attention="flash_attention_2")
    with pytest.raises(LeftOutError, match="cannot run merge bipartite"):
        plans_of("merging", here)
    assert plans_of("random", here)


def test_what_a_table_knows_is_priced_by_it_and_the_rest_by_what_is_nearest() -> None:
    table = known_table()
    prices, scorers = AnyMethod(table), ["cls_attention", "attention_received", "value_norm"]
    known = Plan(Schedule([Stage(1, 0.8, "value_norm", "drop"), Stage(3, 0.6, "cls_attention", "drop")]))
    assert prices.predict(known) == pytest.approx(table.predict(known))
    assert prices.predict(Plan()) == pytest.approx(table.predict(Plan()))
    each = [table.predict(Schedule([Stage(2, 0.6, scorer, "drop")])) for scorer in scorers]
    assert prices.predict(Schedule([Stage(2, 0.6, "random", "drop")])) == pytest.approx(sum(each) / len(each))
    few = [prices.predict(Schedule([Stage(2, kept / 64, "value_norm", "drop")])) for kept in (1, 2, 8, 32)]
    assert few == sorted(few)


def kept_positions(task: Any, handle: Any, plan: Plan, split: EvalSet) -> list[set[int]]:
    found = []
    with handle.under(plan), handle.traced() as trace:
        for batch in split.batches:
            task.outputs(task.model, batch)
            found += [set((row.sum(0) > 0).nonzero().flatten().tolist()) for row in trace.source]
    return found


def test_how_unlike_two_inputs_fare_is_the_share_of_kept_tokens_that_differ(vit_task, handle) -> None:
    for scorer in ("cls_attention", "position_stride"):
        plan = Plan(Schedule([Stage(0, 0.5, scorer, "drop")]))
        rows = kept_positions(vit_task, handle, plan, vit_task.calibration)
        apart = [1 - len(a & b) / len(a) for a, b in itertools.combinations(rows, 2)]
        assert varies(vit_task, handle, plan, vit_task.calibration) == pytest.approx(sum(apart) / len(apart), abs=1e-6)
    assert varies(vit_task, handle, Plan(), vit_task.calibration) is None
    one, two = (Stage(0, 0.75, "cls_attention", "drop"), Stage(1, 0.25, "position_stride", "drop"))
    both = varies(vit_task, handle, Plan(Schedule([one, two])), vit_task.calibration)
    first = varies(vit_task, handle, Plan(Schedule([one])), vit_task.calibration)
    rows = kept_positions(vit_task, handle, Plan(Schedule([one, two])), vit_task.calibration)
    apart = [1 - len(a & b) / len(a) for a, b in itertools.combinations(rows, 2)]
    assert both == pytest.approx((first + sum(apart) / len(apart)) / 2, abs=1e-6)


def test_merged_pairs_that_are_the_same_in_all_inputs_do_not_vary(vit_task, handle) -> None:
    plan = Plan(Schedule([Stage(0, 0.5, "cls_attention", "bipartite")]))
    assert 0 < varies(vit_task, handle, plan, vit_task.calibration) < 1
    alone = vit_task.calibration.take(1)
    assert varies(vit_task, handle, plan, alone) is None


def test_operations_a_stage_are_those_of_a_forward_with_it_less_those_without(vit_task, handle) -> None:
    one = Plan(Schedule([Stage(0, 0.5, "position_stride", "drop")]))
    two = Plan(Schedule([Stage(0, 0.5, "position_stride", "drop"), Stage(1, 0.25, "position_stride", "drop")]))
    with torch.inference_mode():
        dear = kernels_a_stage(vit_task, handle, Plan(Schedule([Stage(0, 0.5, "cls_attention", "bipartite")])))
        cheap = kernels_a_stage(vit_task, handle, one)
        assert 0 < cheap <= 4  # as benchmarks/kernels.py holds
        assert cheap == pytest.approx(kernels_a_stage(vit_task, handle, two), abs=1)
    assert dear > cheap
    assert kernels_a_stage(vit_task, handle, Plan()) is None


def method(name: str, seconds: float, apart: float | None, kernels: float) -> ComparedMethod:
    value = MetricValue(value=0.5, low=None, high=None)
    facts = {"latency": Measured(value=1.0), "speedup": 2.0, "rows": 0, "stages": 1}
    return ComparedMethod(
        name=name, plan=None, text="", quality=value, seconds=seconds, varies=apart, kernels=kernels, **facts
    )


def test_cells_agree_where_any_two_figures_stand_in_the_surveys_order() -> None:
    """Attention: low cost, moderate adaptability; fixed length: low, low; gate: moderate, high; policy: high, high."""
    found = with_survey(
        {
            "attention-based": method("attention-based", 0, 0.5, 6),
            "fixed-length": method("fixed-length", 0, 0.49, 3),
            "gate": method("gate", 60, 0.7, 6),
            "policy": method("policy", 30, None, 7),
            "merging": method("merging", 0, 0.1, 20),
        }
    )
    cells = {(name, cell.column): (cell.agree, cell.pairs) for name, one in found.items() for cell in one.survey}
    assert found["merging"].survey == []
    assert cells["attention-based", "cost"] == (2, 2)  # cheaper than gate and policy
    assert cells["gate", "cost"] == (2, 3)  # dearer than the rules, but than policy too
    assert cells["attention-based", "adaptability"] == (1, 2)  # 0.01 above fixed length is no difference
    assert cells["policy", "adaptability"] == (0, 0)
    assert cells["gate", "complexity"] == (2, 3)  # as many kernels as attention
    assert found["gate"].survey[1].said == "high"


def test_every_row_says_what_it_is_and_the_first_of_the_searchs_is_told_apart() -> None:
    rows: dict[str, RivalRow] = RIVALS.entries()
    assert [name for name, row in rows.items() if row.ours] == ["searched", "searched-all"]
    for row in rows.values():
        assert row.help
        assert bool(row.scorer) == bool(row.shape)
        assert not row.scorer or row.by_row == (bool(row.amount) or row.selection != "top_k")
