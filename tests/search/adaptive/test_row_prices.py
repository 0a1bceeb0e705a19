"""Prices of batches whose rows have counts of their own, against widths that are counted by hand."""

from __future__ import annotations

import pytest
import torch

from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule_text import parse_schedule
from prunesearch.pruning.apply import apply_
from prunesearch.search.adaptive.by_score import counts_of
from prunesearch.search.adaptive.row_prices import RowPrices, counting_ms
from prunesearch.search.rivals.any_method import AnyMethod
from tests.support.known_device import known_table
from tests.support.small_models import build, inputs_of


class ByWidth(AnyMethod):
    """Attention costs its tokens, MLPs ten times theirs, a stage 1,000, all the rest nothing."""

    def attention(self, n: int, sized: bool, layer: int) -> float:
        return n + (0.5 if sized else 0.0)

    def mlp(self, n: int, layer: int) -> float:
        return 10.0 * n

    def reduce(self, scorer: str, merge: str, n_in: int, n_out: int) -> float:
        return 1000.0

    @property
    def stem(self) -> float:
        return 0.0

    def head(self, n: int) -> float:
        return 0.0


@pytest.mark.parametrize(("typed", "sized"), [("1:t0.07 attention_received+drop", 0), ("1:p0.6 cls_attention+fuse", 1)])
def test_a_batch_costs_what_its_widest_row_makes_it(typed: str, sized: int) -> None:
    model, rows = build("vit"), inputs_of("vit", (13,) * 12)
    batches = [{name: value[i : i + 3] for name, value in rows.items()} for i in range(0, 12, 3)]
    plan = Plan(parse_schedule(typed))
    with apply_(model, []) as handle, torch.inference_mode():
        depth, whole = handle.encoder.depth, handle.encoder.depth * 11.0
        prices = RowPrices(ByWidth(known_table()), model, handle, batches, counting=7.0)
        (tokens,) = {n for inputs in batches for n in counts_of(model, handle, Plan(), inputs)}
        alone = [counts_of(model, handle, plan, {k: v[i : i + 1] for k, v in rows.items()})[0] for i in range(12)]
        assert len(set(alone)) > 1
        behind = depth - 2
        for batch, found in enumerate(prices.of(plan)):
            wide = max(alone[3 * batch : 3 * batch + 3])
            by_hand = 11 * tokens + tokens + 10 * wide + behind * (11 * wide + 0.5 * sized)
            assert found == pytest.approx(by_hand + 1000 + 7)
        assert prices.of(Plan()) == [pytest.approx(whole * tokens)] * 4
        assert prices.seen == 24
        assert prices.mean(plan) == pytest.approx(sum(prices.of(plan)) / 4)


def test_what_counting_adds_is_timed_beside_a_fraction_that_leaves_as_many() -> None:
    model, rows = build("vit"), inputs_of("vit", (13,) * 4)
    (stage,) = parse_schedule("1:p0.6 cls_attention+drop")
    with apply_(model, []) as handle:
        geometry = known_table().geometry
        assert 0.0 <= counting_ms(model, handle, stage, [rows] * 3, geometry) < 1000.0
