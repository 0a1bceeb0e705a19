"""An imported schedule gives what the other tool would: its formula, stated again on the same blocks and weights.

Counts, order, weights and site, over twelve blocks in float64 to 1e-9 and float32 to 1e-4. What prunesearch does in its
own way is switched on in the statement, so that the rest is proven; how far the published way is, is measured too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import transformers as hf
from papers import DiffRate, DynamicViT, EViT, PowerBert, ToMe, Tool, patched
from torch import Tensor

import prunesearch as ps
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.tables.registry import FORMATS
from prunesearch.export.schedules.exchange import import_schedule
from prunesearch.export.schedules.format import ModelShape

DEPTH, TOKENS = 12, 197
SIZE = {
    "hidden_size": 48,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "initializer_range": 0.1,
    "attn_implementation": "sdpa",
}
CLS = ModelShape(DEPTH, TOKENS, 1)
DTYPES = pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])


def vit(dtype: torch.dtype, kind: str = "ViT") -> Any:
    torch.manual_seed(0)
    config = getattr(hf, f"{kind}Config")(**SIZE, image_size=56, patch_size=4)
    return getattr(hf, f"{kind}Model")(config, add_pooling_layer=False).eval().to(dtype)


def bert(dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    config = hf.BertConfig(**SIZE, vocab_size=200, max_position_embeddings=256)
    return hf.BertModel(config, add_pooling_layer=False).eval().to(dtype)


def images(dtype: torch.dtype) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(1)).to(dtype)}


def both(model: Any, inputs: dict[str, Tensor], schedule: Schedule, tool: Tool) -> tuple[Tensor, Tensor]:
    """Last hidden states under the schedule, and under the tool."""
    with torch.no_grad():
        with ps.apply_(model, schedule):
            ours = model(**inputs).last_hidden_state
        with patched(model, tool):
            theirs = model(**inputs).last_hidden_state
    return ours, theirs


def read(text: str, name: str, shape: ModelShape = CLS) -> Schedule:
    return import_schedule(text, FORMATS.load(name), shape).schedule


def apart(ours: Tensor, theirs: Tensor) -> float:
    """Greatest difference of the CLS state."""
    return float((ours[:, 0] - theirs[:, 0]).abs().max())


@DTYPES
@pytest.mark.parametrize("r", [[13] * DEPTH, [40, 0, 7, 0, 0, 30, 1, 0, 20, 0, 9, 0]], ids=["constant", "list"])
def test_tome(dtype: torch.dtype, near: float, r: list[int]) -> None:
    ours, theirs = both(vit(dtype), images(dtype), read(f"model.r = {r}", "tome"), ToMe(r))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=near)  # token by token: the order is ToMe's too


@DTYPES
def test_tome_with_a_distillation_token(dtype: torch.dtype, near: float) -> None:
    schedule = read("model.r = 13", "tome", ModelShape(DEPTH, TOKENS + 1, 2))
    ours, theirs = both(vit(dtype, "DeiT"), images(dtype), schedule, ToMe([13] * DEPTH, distilled=True))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=near)


def test_tome_at_its_cap() -> None:
    """Half of the tokens in a block, and once more."""
    r = [200, 200] + [0] * 10
    ours, theirs = both(vit(torch.float64), images(torch.float64), read(f"model.r = {r}", "tome"), ToMe(r))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


@DTYPES
@pytest.mark.parametrize("fuse", [True, False], ids=["fuse", "drop"])
def test_evit(dtype: torch.dtype, near: float, fuse: bool) -> None:
    flags = '--base_keep_rate 0.7 --drop_loc "(3, 6, 9)"' + (" --fuse_token" if fuse else "")
    tool = EViT(0.7, (3, 6, 9), fuse=fuse, mean=True)
    ours, theirs = both(vit(dtype), images(dtype), read(flags, "evit"), tool)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=near)


@DTYPES
def test_diffrate(dtype: torch.dtype, near: float) -> None:
    pruned = [197, 180, 180, 150, 150, 120, 100, 100, 80, 60, 60, 50]
    merged = [190, 180, 160, 150, 130, 120, 100, 90, 80, 60, 55, 50]
    text = f'{{"ViT-S-DeiT": {{"2.9": {{"prune_kept_num": "{pruned}", "merge_kept_num": "{merged}"}}}}}}'
    tool = DiffRate(pruned, merged, by_keys=True)
    ours, theirs = both(vit(dtype), images(dtype), read(text, "diffrate"), tool)
    assert ours.shape == theirs.shape
    assert apart(ours, theirs) < near
    # DiffRate sorts in every block: the same tokens, in an order that nothing asks for
    torch.testing.assert_close(ours.sort(1).values, theirs.sort(1).values, rtol=0, atol=near)


def before_each(sites: Sequence[int]) -> str:
    return f"pruning_loc = {list(sites)}\ntoken_ratio = {[0.7**k for k in range(1, len(sites) + 1)]}"


@DTYPES
def test_dynamicvit(dtype: torch.dtype, near: float) -> None:
    """What leaves before block 3 leaves block 2: an MLP looks at one token at a time."""
    model, inputs = vit(dtype), images(dtype)
    imported = read(before_each((3, 6, 9)), "dynamicvit")
    schedule = Schedule(stage.replace(layer=stage.layer - 1, scorer="position_stride") for stage in imported)
    kept = [count - 1 for count in imported.counts(DEPTH, TOKENS, 1) if count < TOKENS]
    counts = [kept[0], kept[3], kept[6]]

    def spread(block: int, x: Tensor) -> Tensor:
        """Every k-th token, in place of the gate: a score that needs no training."""
        n, keep = x.shape[1] - 1, counts[(3, 6, 9).index(block)]
        chosen = {-(-j * n // keep) for j in range(keep)}
        return torch.tensor([(i in chosen) - i / (2 * n) for i in range(n)]).expand(len(x), -1)

    ours, theirs = both(model, inputs, schedule, DynamicViT((3, 6, 9), counts, spread))
    assert apart(ours, theirs) < near
    torch.testing.assert_close(ours.sort(1).values, theirs.sort(1).values, rtol=0, atol=near)


@DTYPES
def test_power_bert(dtype: torch.dtype, near: float) -> None:
    retained = [120, 120, 100, 90, 70, 70, 50, 40, 30, 20, 20, 10]
    inputs = {"input_ids": torch.randint(0, 200, (2, 128), generator=torch.Generator().manual_seed(2))}
    text = f'--RETENTION_CONFIG "{",".join(map(str, retained))}"'
    schedule = read(text, "power-bert", ModelShape(DEPTH, 128, 2))
    ours, theirs = both(bert(dtype), inputs, schedule, PowerBert(retained, own=True, last=True))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=near)


@pytest.mark.parametrize(
    ("tool", "text", "name"),
    [
        (EViT(0.7, (3, 6, 9)), '--base_keep_rate 0.7 --drop_loc "(3, 6, 9)" --fuse_token', "evit"),
        (ToMe([13] * DEPTH), "model.r = 11", "tome"),
    ],
    ids=["EViT's sum", "another r"],
)
def test_the_statements_tell_another_way_from_ours(tool: Tool, text: str, name: str) -> None:
    ours, theirs = both(vit(torch.float64), images(torch.float64), read(text, name), tool)
    assert apart(ours, theirs) > 1e-3
