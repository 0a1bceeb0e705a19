"""Blocks are told apart by what they compute; counts of real forwards are the judge."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, EuroBertConfig, EuroBertModel, ModernBertConfig, ModernBertModel

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.cost.counting.flops import MacCosts, count_macs, encoder_macs
from prunesearch.cost.counting.memory import peak_activation_mib
from prunesearch.cost.counting.memory_costs import MemoryCosts
from prunesearch.cost.shape import PLAIN, Shape, Variant, describe_shape, sizes_of
from prunesearch.pruning.apply import apply_
from prunesearch.pruning.families.blocks import PreNorm
from prunesearch.pruning.families.family import Family
from prunesearch.pruning.families.find import FAMILIES, register_family
from prunesearch.pruning.families.positions import RotaryWindows
from tests.support.tables import in_place

TOKENS = 24
SCHEDULE = Schedule([Stage(0, 0.6, "value_norm", "drop"), Stage(2, 0.3, "value_norm", "drop")])
SMALL = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 8, "vocab_size": 50}
_LAYERS = PreNorm("eurobert", "input_layernorm", "post_attention_layernorm", (), (), "self_attn", core="self_attn")


@pytest.fixture(scope="module")
def eurobert() -> Iterator[None]:
    """A family with grouped queries and gated MLPs, of which prunesearch has no row."""
    with in_place(FAMILIES, "eurobert"):
        register_family(Family("eurobert", "layers", _LAYERS, "CLS", positions=RotaryWindows()))
        yield


def modernbert() -> nn.Module:
    return ModernBertModel(
        ModernBertConfig(
            **SMALL, intermediate_size=96, pad_token_id=0, local_attention=8, global_attn_every_n_layers=3,
            attn_implementation="sdpa",
        )
    ).eval()  # fmt: skip


def grouped(kv: int = 2, head_dim: int = 8) -> nn.Module:
    config = EuroBertConfig(
        **SMALL, intermediate_size=96, num_key_value_heads=kv, head_dim=head_dim, pad_token_id=0,
        attn_implementation="sdpa",
    )  # fmt: skip
    return EuroBertModel(config).eval()


def plain() -> nn.Module:
    return BertModel(BertConfig(**SMALL, intermediate_size=96, attn_implementation="sdpa")).eval()


MODELS: dict[str, tuple[Any, list[str]]] = {
    "plain": (plain, []),
    "windows": (modernbert, ["/glu96", "window5/glu96", "window5/glu96", "/glu96"]),
    "grouped": (grouped, ["kv2/glu96"] * 4),
    "one key": (lambda: grouped(kv=1), ["kv1/glu96"] * 4),
    "wide heads": (lambda: grouped(kv=4, head_dim=16), ["inner128-kv4/glu96"] * 4),
}


@pytest.fixture(params=MODELS)
def case(request: pytest.FixtureRequest, eurobert: None) -> tuple[nn.Module, dict[str, torch.Tensor], list[str]]:
    make, variants = MODELS[request.param]
    torch.manual_seed(0)
    ids = torch.randint(1, 50, (1, TOKENS), generator=torch.Generator().manual_seed(0))
    return make(), {"input_ids": ids}, variants


def test_blocks_say_what_they_are(case: tuple[nn.Module, dict[str, torch.Tensor], list[str]]) -> None:
    model, inputs, variants = case
    with apply_(model, Schedule()) as handle:
        shape = describe_shape(model, handle, inputs)
    assert list(shape.variants) == variants
    assert (shape.width, shape.heads, shape.mlp_width, shape.tokens) == (64, 8, 96, TOKENS)
    assert [str(block) for block in shape.blocks] == (variants or [""] * 4)
    assert Shape.model_validate(shape.model_dump()) == shape


def test_the_closed_form_is_the_count_of_a_forward(case: tuple[nn.Module, dict[str, torch.Tensor], list[str]]) -> None:
    model, inputs, _ = case
    for schedule in (Schedule(), SCHEDULE):
        with apply_(model, schedule) as handle:
            costs, counted = MacCosts.of(handle.encoder, TOKENS), count_macs(model, inputs) / 1e9
            assert costs.predict(schedule) == pytest.approx(counted, rel=0.01)
            # as does what a table says of such a model, but for what is around the blocks
            sizes = list(sizes_of(describe_shape(model, handle, inputs)))
        blocks = encoder_macs(schedule.flow(costs.geometry), sizes)
        assert (blocks + costs.around) / 1e9 == pytest.approx(counted, rel=0.01)


def test_the_memory_of_a_block_is_that_of_its_kind(case: tuple[nn.Module, dict[str, torch.Tensor], list[str]]) -> None:
    model, inputs, _ = case
    with apply_(model, Schedule()) as handle:
        costs = MemoryCosts(model, handle, inputs, TOKENS)
        for schedule in (Schedule(), SCHEDULE, Schedule([Stage(1, 0.4, "value_norm", "fuse")])):
            predicted = costs.predict(schedule)
            flow = schedule.flow(costs.geometry)
            assert sum(costs.mlp(step.n_out, step.layer) for step in flow) <= predicted * (1 + 1e-9)
            handle.set(schedule)
            assert predicted == peak_activation_mib(model, inputs).value_mib
            handle.set(Schedule())


def shape(*variants: str, **changes: Any) -> Shape:
    facts = {
        "family": "modernbert", "kind": "modernbert", "depth": len(variants) or 4, "tokens": 24, "protected": 2,
        "width": 64, "heads": 8, "mlp_width": 96, "activation": "gelu",
    }  # fmt: skip
    return Shape(**{**facts, **changes, "variants": variants})


def test_a_table_serves_blocks_that_it_has_measured() -> None:
    both = shape("/glu96", "window5/glu96", "/glu96")
    assert both.serves(both)
    assert both.serves(shape("/glu96", "/glu96"))
    assert not shape("/glu96", "/glu96").serves(both)
    assert not shape().serves(both)  # a plain table has no gated MLP
    assert not both.serves(shape())
    assert not both.serves(shape("/glu96", "window9/glu96"))
    assert both.differs(shape()) == ("variants", "/glu96 and window5/glu96", "plain")
    assert both.differs(shape(*both.variants, width=32)) == ("width", 64, 32)
    assert "gelu, /glu96 and window5/glu96" in both.describe()


def test_variants_are_one_each_block_or_none() -> None:
    with pytest.raises(ValueError, match="one entry a block"):
        shape("/glu96", depth=2)
    assert "variants" not in shape().model_dump()
    assert shape().blocks == (PLAIN,) * 4
    assert shape("", "kv2/mlp8").blocks == (PLAIN, Variant("kv2", "mlp8"))
    copied = shape().model_copy(update={"depth": 2})
    assert len(copied.blocks) == 2


def test_a_gated_model_borrows_no_plain_table() -> None:
    from tests.support.known_device import known_table

    table = known_table()
    gated = table.shape.model_copy(update={"variants": (f"/glu{table.shape.mlp_width}",) * table.shape.depth})
    with pytest.raises(PruneSearchError, match="blocks with variants=plain, but this model's have variants=/glu64"):
        table.for_shape(gated)


def test_a_measured_table_has_a_cell_for_every_kind_of_block() -> None:
    from prunesearch.cost.timing.build import build_table
    from prunesearch.cost.timing.unseen import unseen_schedules

    methods, widths = ["value_norm+drop", "value_norm+fuse"], [8, 14, 20]
    inputs = {"input_ids": torch.randint(1, 50, (2, TOKENS), generator=torch.Generator().manual_seed(0))}
    table = build_table(modernbert(), inputs, counts=widths, methods=methods, time_budget_s=0.5, min_walks=100)
    assert {(c.n, c.variant) for c in table.cells.mlp} == {(n, "glu96") for n in (*widths, TOKENS)}
    kinds = {(c.n, c.biased, c.variant) for c in table.cells.attention}
    assert kinds >= {(n, sized, variant) for n in widths for sized in (False, True) for variant in ("", "window5")}
    assert {(TOKENS, False, variant) for variant in ("", "window5")} <= kinds
    assert all(table.predict(schedule) > 0 for schedule in (Schedule(), *unseen_schedules(table, methods, count=5)))
