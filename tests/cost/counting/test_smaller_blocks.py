"""What plans leave of blocks, counted in closed form: against what runs, and against what would be written."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import prunesearch as ps
from prunesearch.core.plans.flow import Geometry
from prunesearch.core.plans.plan import Change, Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.cost.costs import breakdown
from prunesearch.cost.counting.flops import MacCosts, blocks_gmacs, count_macs
from prunesearch.cost.counting.size import SizeCosts
from prunesearch.cost.shape import describe_shape
from prunesearch.pruning.apply import apply_
from prunesearch.pruning.families.find import find_encoder
from tests.support.small_models import build, inputs_of

CHANGES = [
    *map(Change.parse, ("0:width(heads=1)", "0:rank(mlp=8)", "1:width(mlp=32)", "1:rank(attention=4)")),
    *map(Change.parse, ("2:skip(part=attention)", "2:skip(part=mlp)")),
]


def of_model(name: str) -> tuple[Any, dict[str, torch.Tensor]]:
    model, x = build(name).requires_grad_(False), inputs_of(name)
    return model, {key: value[:1] for key, value in x.items()}


@pytest.mark.parametrize("name", ["vit", "bert", "modernbert"])
@pytest.mark.parametrize("change", CHANGES)
def test_multiply_adds_are_those_that_run(name: str, change: Change) -> None:
    model, x = of_model(name)
    fits = ps.fit_plan(model, Plan(changes=[change]), [x])
    with apply_(model, Plan(), fits=fits) as handle:
        shape = describe_shape(model, handle, x)
        costs = MacCosts.of(handle.encoder, shape.tokens)
        whole = count_macs(model, x) / 1e9
        handle.set(Plan(changes=[change]))
        spared = whole - count_macs(model, x) / 1e9
    assert spared > 0
    assert costs.predict(Plan()) - costs.predict(Plan(changes=[change])) == pytest.approx(spared, rel=1e-6)
    assert costs.under(()).predict(Plan()) == costs.predict(Plan())
    none = Schedule().flow(shape.geometry)
    by_words = blocks_gmacs(shape, none) - blocks_gmacs(shape.under({(change.block or 0, change.half): change}), none)
    if name != "modernbert":  # whose layers of several parts are not told apart by words
        assert by_words == pytest.approx(spared, rel=1e-6)


@pytest.mark.parametrize("bits", ["", "int8"])
def test_size_is_the_sum_of_its_pieces_and_each_form_is_in_its_own(bits: str) -> None:
    model, _ = of_model("vit")
    depth = len(find_encoder(model).blocks)
    costs, whole = SizeCosts(model, Geometry(depth, 17, 1)), ([Change.parse(bits)] if bits else [])
    flow, plain = Schedule().flow(costs.geometry), costs.under(tuple(whole))
    for changes in ([], CHANGES[:1], CHANGES[:2], CHANGES):
        mine = costs.under((*whole, *changes))
        assert sum(breakdown(mine, flow).values()) == pytest.approx(mine.price(flow))
        assert mine.stem == pytest.approx(plain.stem)
    only = costs.under((*whole, CHANGES[0]))
    assert only.attention(17, False, 0) < plain.attention(17, False, 0)
    assert only.mlp(17, 0) == plain.mlp(17, 0)
    assert costs.under((*whole, CHANGES[-1])).mlp(17, 2) == 0.0
