"""MACs against published ones, closed form against a count of the real HF classes."""

import math

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DeiTConfig,
    DeiTForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.flow import Geometry
from prunesearch.core.plans.schedule import Schedule
from prunesearch.cost.counting.flops import block_macs, closed_form_gmacs, count_macs, encoder_macs
from prunesearch.cost.shape import BlockSizes
from prunesearch.pruning.apply import apply_
from prunesearch.pruning.families.find import find_encoder

SMALL = {
    "hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536,
    "image_size": 224, "num_labels": 1000,
}  # fmt: skip
HEAD = 384 * 1000
STEM = 196 * 768 * 384
DIFFRATE = [197, 194, 176, 156, 141, 133, 121, 107, 88, 64, 56, 3]
SMALL_BLOCK = BlockSizes(attention=4 * 384**2, mlp=2 * 384 * 1536, inner=384)
DENSE, TOME = [197] * 12, [197 - 13 * (i + 1) for i in range(12)]
PPT = [n for n in (197, 147, 97, 47) for _ in range(3)]  # 50 fewer in each of blocks 3, 6, 9


def evit(keep: float) -> list[int]:
    """EViT at blocks 3, 6, 9: ceil(keep x tokens but CLS), plus CLS and the fused token."""
    counts, n = [], 197
    for layer in range(12):
        n = math.ceil(keep * (n - 1)) + 2 if layer in (3, 6, 9) else n
        counts.append(n)
    return counts


PUBLISHED = {
    "dense": (DENSE, "drop", 4.6),
    "diffrate": (DIFFRATE, "nearest", 2.905),
    "ppt": (PPT, "bipartite", 2.944),
    "tome": (TOME, "bipartite", 2.70),
    "evit-0.7": (evit(0.7), "fuse", 3.0),
    "evit-0.5": (evit(0.5), "fuse", 2.3),
}


@pytest.fixture(scope="module")
def image():
    return {"pixel_values": torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))}


@pytest.fixture(scope="module")
def vit():
    """The published DeiT-S has no distillation token: HF's ViT of that size is exactly it (197 tokens)."""
    torch.manual_seed(0)
    return ViTForImageClassification(ViTConfig(**SMALL)).eval()


@pytest.fixture(scope="module")
def deit():
    """HF's DeiT carries a distillation token: 198 tokens, two of them protected."""
    torch.manual_seed(0)
    return DeiTForImageClassification(DeiTConfig(**SMALL)).eval()


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_macs_within_one_percent_and_both_counts_agree(vit, image, name):
    counts, merge, published = PUBLISHED[name]
    schedule = Schedule.from_counts(counts, 197, 1, "cls_attention", merge)
    with apply_(vit, schedule) as handle:
        counted = count_macs(vit, image) / 1e9
        closed = closed_form_gmacs(handle.encoder, schedule, 197, HEAD)
    assert closed == pytest.approx(published, rel=0.01)
    assert counted == pytest.approx(published, rel=0.01)
    assert counted == pytest.approx(closed, rel=0.005)


@pytest.mark.parametrize("name", PUBLISHED)
def test_hf_deit_costs_what_its_one_more_token_costs(deit, image, name):
    counts, merge, published = PUBLISHED[name]
    more = [n + 1 for n in counts]
    schedule = Schedule.from_counts(more, 198, 2, "cls_attention", merge)
    with apply_(deit, schedule) as handle:
        counted = count_macs(deit, image) / 1e9
        closed = closed_form_gmacs(handle.encoder, schedule, 198, HEAD)
    assert counted == pytest.approx(closed, rel=0.005)
    flows = (schedule.flow(Geometry(12, 198, 2)), Schedule.from_counts(counts, 197).flow(Geometry(12, 197, 1)))
    longer, published_one = (encoder_macs(flow, [SMALL_BLOCK] * 12) for flow in flows)
    token = (longer - published_one) / 1e9
    assert closed - token == pytest.approx(published, rel=0.01)
    # 2.3 and 3.0 are published to two digits only: with the token they stand just over 1 % off
    assert closed == pytest.approx(published, rel=0.018 if name.startswith("evit") else 0.01)


def test_dynamicvit_prunes_before_the_block(vit, image):
    """Its blocks see the fewer tokens in attention too, so its count needs n_in = n_out in every block.

    A stage of ours at block 2 would prune one MLP more (2.73 G), at block 3 one attention less (2.98 G). The learned
    predictors (0.10 G with 384-384-192-96-2 layers) are not in the published 2.9.
    """
    counts = [n for n in (197, 1 + 137, 1 + 96, 1 + 67) for _ in range(3)]
    closed = sum(block_macs(n, n, SMALL_BLOCK) for n in counts) + STEM + HEAD
    assert closed / 1e9 == pytest.approx(2.9, rel=0.01)
    kept = {3: 138, 6: 97, 9: 68}
    hooks = [
        vit.vit.layers[layer].register_forward_pre_hook(lambda _, args, n=n: (args[0][:, :n], *args[1:]))
        for layer, n in kept.items()
    ]
    try:
        counted = count_macs(vit, image)
    finally:
        for hook in hooks:
            hook.remove()
    assert counted == pytest.approx(closed, rel=1e-6)


def test_bert_base_at_384_tokens():
    with torch.device("meta"):
        encoder = find_encoder(BertForSequenceClassification(BertConfig()))
    assert closed_form_gmacs(encoder, Schedule(), 384) == pytest.approx(35.34, rel=0.001)


def test_counts_are_per_sample_and_the_same_with_eager_attention(image):
    torch.manual_seed(0)
    config = {**SMALL, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 2}
    three = {"pixel_values": image["pixel_values"].expand(3, -1, -1, -1)}
    totals = []
    for attention in ("sdpa", "eager"):
        model = ViTForImageClassification(ViTConfig(**config, attn_implementation=attention)).eval()
        totals += [count_macs(model, image), count_macs(model, three)]
    assert len(set(totals)) == 1


def test_text_models_are_counted_with_and_without_a_schedule():
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, vocab_size=100, num_labels=4
    )
    model = BertForSequenceClassification(config).eval()
    inputs = {"input_ids": torch.randint(5, 100, (2, 24)), "attention_mask": torch.ones(2, 24, dtype=torch.long)}
    schedule = Schedule.from_counts([24, 13, 13], 24, 2, "value_norm", "drop")
    for one in (Schedule(), schedule):
        with apply_(model, one) as handle:
            closed = closed_form_gmacs(handle.encoder, one, 24, 32 * 4)
            assert count_macs(model, inputs) / 1e9 == pytest.approx(closed, rel=1e-6)


class Summed(torch.nn.Module):
    """Its product is one that nobody counts."""

    def forward(self, x):
        return (torch.addbmm(x[0], x, x),)


def test_a_product_that_cannot_be_counted_is_an_error():
    with pytest.raises(PruneSearchError, match="every matrix product must be counted, but aten::addbmm has no rule"):
        count_macs(Summed(), {"x": torch.ones(2, 3, 3)})
