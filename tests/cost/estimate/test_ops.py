"""Kernels recorded on `meta`, judged by PyTorch's own FLOP counter on real tensors and by bytes worked out by hand."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForSequenceClassification

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.core.tables.token_tables import MERGES, SCORERS
from prunesearch.cost.estimate.ops import Op, inputs_to_meta, record, record_forward, to_meta
from prunesearch.pruning.apply import apply_, handle_of
from tests.support.some import some

F32 = torch.float32


def kernels(work) -> list[Op]:
    heard: list[Op] = []
    with torch.inference_mode(), record(heard.append):
        work()
    return heard


def meta(*shape: int, dtype: torch.dtype = F32) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


@pytest.fixture
def ghost(tiny):
    return to_meta(tiny, F32)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_products_are_those_that_torch_counts_on_real_tensors(tiny, batch, attention):
    clone, real = to_meta(tiny, F32), copy.deepcopy(tiny)
    clone.config._attn_implementation = attention
    real.config._attn_implementation = "eager"  # torch does not count fused attention on a CPU
    with torch.no_grad(), FlopCounterMode(display=False) as judge:
        real(**batch)
    ops = record_forward(clone, inputs_to_meta(batch, F32))
    assert sum(op.flops for op in ops) == judge.get_total_flops()
    assert sum(op.kind == "attention" for op in ops) == (3 if attention == "sdpa" else 0)


def test_the_output_is_that_of_a_real_forward_in_shape_and_layout(tiny, ghost, batch):
    with torch.inference_mode(), record(lambda _: None):
        first, again = (ghost(**inputs_to_meta(batch, F32)).logits for _ in range(2))
    real = tiny(**batch).logits
    for out in (first, again):  # the second one is made from kept answers
        assert (out.shape, out.stride(), out.dtype) == (real.shape, real.stride(), real.dtype)


def test_every_forward_records_the_same(ghost, batch):
    inputs = inputs_to_meta(batch, F32)
    heard: list[Op] = []
    with torch.inference_mode(), record(heard.append):
        ghost(**inputs)
        once = len(heard)
        ghost(**inputs)
    assert heard[:once] == heard[once:] == record_forward(ghost, inputs)
    with torch.no_grad(), record(heard.append):  # operations come in other parts than in inference mode
        ghost(**inputs)
    assert heard[2 * once :] == heard[:once]


def test_bytes_by_hand():
    x, wide = meta(4, 8), meta(4, 1).expand(4, 8)
    (add,) = kernels(lambda: x + x)
    assert (add.kind, add.read, add.moved) == ("memory", 2 * 4 * 32, 3 * 4 * 32)
    (add,) = kernels(lambda: x + wide)  # what is expanded is stored once
    assert add.read == 4 * 32 + 4 * 4
    (half,) = kernels(lambda: x.half())
    assert (half.read, half.moved) == (128, 128 + 64)
    table, rows = meta(1000, 8), meta(3, dtype=torch.int64)
    (pick,) = kernels(lambda: table.index_select(0, rows))  # three rows of a thousand are read
    assert pick.read == 3 * 8 * 4 + 3 * 8


def test_a_linear_layer_is_one_product_with_its_bias():
    layer = nn.Linear(6, 10, device="meta")
    (op,) = kernels(lambda: layer(meta(2, 5, 6)))
    assert (op.kind, op.batch, op.m, op.n, op.k) == ("matmul", 1, 10, 10, 6)
    assert op.moved == 4 * (2 * 5 * 6 + 6 * 10 + 10 + 2 * 5 * 10)


def test_views_allocations_and_dropout_cost_nothing():
    x = meta(2, 3, 4)
    drop = nn.Dropout(0.5).eval()
    free = [
        lambda: x.view(6, 4), lambda: x.transpose(0, 1), lambda: x[:, 1:], lambda: x.expand(5, 2, 3, 4),
        lambda: torch.empty_like(x), lambda: x.reshape(24), lambda: x.contiguous(), lambda: drop(x), lambda: x.shape[0],
    ]  # fmt: skip
    assert all(kernels(work) == [] for work in some(free))
    assert len(kernels(lambda: x.transpose(0, 1).contiguous())) == 1


def test_fused_attention_is_one_kernel_and_leaves_heads_that_join_for_free():
    query, key = meta(2, 3, 7, 4), meta(2, 3, 9, 4)

    def work(mask=None):
        out = nn.functional.scaled_dot_product_attention(query, key, key, attn_mask=mask)
        return out.transpose(1, 2).reshape(2, 7, 12)

    (op,) = kernels(work)
    assert (op.kind, op.batch, op.m, op.n, op.k, op.masked) == ("attention", 6, 7, 9, 4, False)
    assert op.flops == 2 * 2 * 6 * 7 * 9 * 4
    (masked,) = kernels(lambda: work(meta(2, 1, 1, 9)))
    assert masked.masked
    assert masked.moved - op.moved == 2 * 9 * 4


@pytest.mark.parametrize("merge", list(MERGES))
@pytest.mark.parametrize("scorer", list(SCORERS))
def test_every_scorer_and_merge_is_recorded(ghost, batch, scorer, merge):
    inputs = inputs_to_meta(batch, F32)
    dense = record_forward(ghost, inputs)
    with apply_(ghost, Schedule([Stage(0, 0.5, scorer, merge)])):
        pruned = record_forward(ghost, inputs)
    assert len(pruned) > len(dense)
    widest = [max(op.m for op in ops if op.kind == "attention") for ops in (dense, pruned)]
    assert widest == [17, 17]
    assert min(op.m for op in pruned if op.kind == "attention") == 9


def test_the_model_itself_is_left_alone(tiny, batch):
    before = {name: (x.data_ptr(), x.device, x.dtype) for name, x in tiny.state_dict().items()}
    mode, attention = tiny.training, tiny.config._attn_implementation
    ghost = to_meta(tiny, torch.float16)
    ghost.config._attn_implementation = "eager"
    assert {x.device.type for x in [*ghost.parameters(), *ghost.buffers()]} == {"meta"}
    assert {x.dtype for x in ghost.parameters()} == {torch.float16}
    assert {name: (x.data_ptr(), x.device, x.dtype) for name, x in tiny.state_dict().items()} == before
    assert (tiny.training, tiny.config._attn_implementation) == (mode, attention)
    assert tiny(**batch).logits.isfinite().all()


def test_a_copy_of_a_model_under_a_schedule_carries_its_own(tiny, batch):
    schedule = Schedule([Stage(1, 0.5)])
    with apply_(tiny, schedule) as handle:
        ghost = to_meta(tiny, F32)
        copied = handle_of(ghost)
        assert copied is not None
        assert copied is not handle
        copied.remove()
        assert handle_of(tiny).schedule == schedule
        assert handle_of(ghost) is None
        assert len({op.m for op in record_forward(ghost, inputs_to_meta(batch, F32)) if op.kind == "attention"}) == 1


def test_padding_masks_stay_behind_because_models_look_into_them():
    config = BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=50,
    )  # fmt: skip
    ghost = to_meta(BertForSequenceClassification(config).eval(), F32)
    inputs = {"input_ids": torch.ones(2, 5, dtype=torch.long), "attention_mask": torch.ones(2, 5, dtype=torch.long)}
    moved = inputs_to_meta(inputs, torch.float16)
    assert {name: (x.device.type, x.dtype) for name, x in moved.items()} == {"input_ids": ("meta", torch.long)}
    assert not any(op.masked for op in record_forward(ghost, moved))


def test_a_product_without_a_rule_is_refused_not_forgotten():
    with pytest.raises(PruneSearchError, match=r"every product must be priced, but aten.dot.* has no rule"):
        kernels(lambda: torch.dot(meta(4), meta(4)))


def test_registered_scorers_are_priced_like_ours(ghost, batch):
    def total(inputs):
        return inputs.attention.key.float().sum((1, 3)).abs()

    with SCORERS.registered("sum_of_keys", total, "for a test"):
        schedule = Schedule([Stage(0, 0.5, "sum_of_keys")])
        with apply_(ghost, schedule):
            assert record_forward(ghost, inputs_to_meta(batch, F32))
