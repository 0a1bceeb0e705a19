"""What is around a model that reads pictures where people use it: LoRA, 4 bits, pictures of several sizes, flash."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface

import prunesearch as ps
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule_text import parse_schedule
from tests.contracts.test_vision_language import LATE, logits_of, said
from tests.support.small_vlms import PAD, VLMS, build_vlm, prompts_for

FRONT = "tower/0:0.6 key_norm+drop > decoder/1:0.3 text_attention+drop"
PLANS = {"llava": FRONT, "qwen2_vl": LATE, "smolvlm": LATE, "paligemma": FRONT}
ROWS: list[tuple[int, ...]] = [(4, 1, 5), (3, 2, 4)]


@pytest.mark.parametrize("name", list(PLANS))
def test_a_model_with_lora_answers_as_with_its_weights_merged(name: str) -> None:
    peft = pytest.importorskip("peft", reason="pip install peft")
    torch.manual_seed(1)
    plan = parse_schedule(PLANS[name])
    with_lora = peft.get_peft_model(
        build_vlm(name, dtype=torch.float64),
        peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False),
    ).eval()
    inputs = prompts_for(with_lora.base_model.model, name, ROWS, torch.float64)
    before = said(with_lora, inputs)
    with ps.apply_(with_lora, plan):
        logits, answer = logits_of(with_lora, inputs), said(with_lora, inputs)
    assert said(with_lora, inputs).tolist() == before.tolist()
    merged = with_lora.merge_and_unload().eval()
    with ps.apply_(merged, plan):
        torch.testing.assert_close(logits_of(merged, inputs), logits, rtol=1e-4, atol=1e-4)
        assert said(merged, inputs).tolist() == answer.tolist()


class FourBits(nn.Linear):
    """A layer whose weights lie packed, two in a byte, as those of bitsandbytes do; each row has a scale."""

    def __init__(self, other: nn.Linear) -> None:
        super().__init__(other.in_features, other.out_features, other.bias is not None)
        scale = other.weight.detach().abs().amax(1, keepdim=True).float() / 7
        whole = (other.weight.detach().float() / scale).round().clamp(-8, 7).to(torch.int64) + 8
        packed = (whole[:, ::2] * 16 + whole[:, 1::2]).to(torch.uint8)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.register_buffer("scale", scale)
        self.bias = other.bias

    def plain(self) -> Tensor:
        bits = torch.stack([self.weight // 16, self.weight % 16], -1).flatten(1)
        return (bits.float() - 8) * self.scale

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.plain().to(x.dtype), self.bias)


@pytest.mark.parametrize("name", list(PLANS))
def test_a_model_in_four_bits_answers_as_with_the_same_numbers_in_floats(name: str) -> None:
    packed, plain = build_vlm(name), build_vlm(name)
    for path, layer in list(plain.model.named_modules()):
        if isinstance(layer, nn.Linear) and layer.in_features % 2 == 0:
            parent, _, last = path.rpartition(".")
            small = FourBits(layer)
            setattr(packed.model.get_submodule(parent), last, small)
            layer.weight.data = small.plain()
    inputs, plan = prompts_for(plain, name, ROWS), parse_schedule(PLANS[name])
    untouched = logits_of(packed, inputs)
    with ps.apply_(packed, plan) as four, ps.apply_(plain, plan):
        torch.testing.assert_close(logits_of(packed, inputs), logits_of(plain, inputs), rtol=1e-4, atol=1e-4)
        assert said(packed, inputs).tolist() == said(plain, inputs).tolist()
        four.remove()
    assert torch.equal(logits_of(packed, inputs), untouched)


def together(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Prompts of one row each as one batch, padded on the left; pictures lie behind one another."""
    found: dict[str, Tensor] = {}
    longest = max(row["input_ids"].shape[1] for row in rows)
    for name in rows[0]:
        if rows[0][name].shape == rows[0]["input_ids"].shape:
            fill = PAD if name == "input_ids" else 0
            parts = [nn.functional.pad(row[name], (longest - row[name].shape[1], 0), value=fill) for row in rows]
        else:
            parts = [row[name] for row in rows]
        found[name] = torch.cat(parts)
    return found


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_pictures_of_several_sizes_in_a_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = build_vlm(name, dtype=torch.float64), []
    for seed, size in enumerate([(24, 32), (16, 16), (32, 40)]):
        monkeypatch.setitem(VLMS, name, replace(VLMS[name], size=size))
        rows.append(prompts_for(model, name, [(3, 1 + seed % 2, 4)], torch.float64, [seed]))
    assert len({row["input_ids"].shape[1] for row in rows}) == 3
    batch = together(rows)
    for text in (LATE, "input/0:0.6 key_norm+drop > decoder/0:0.3 text_attention_mean+drop"):
        with ps.apply_(model, parse_schedule(text)):
            answers, logits = said(model, batch), logits_of(model, batch)[:, -1]
            for place, row in enumerate(rows):
                torch.testing.assert_close(logits_of(model, row)[0, -1], logits[place], rtol=1e-5, atol=1e-5)
                assert said(model, row)[0].tolist() == answers[place].tolist()


def flash(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: float, **_: Any) -> Any:
    """What flash kernels do: no mask of numbers; causal from the last key back."""
    assert mask is None
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    n, m = query.shape[2], key.shape[2]
    seen = torch.ones(n, m, dtype=torch.bool).tril(m - n) if module.is_causal else None
    out = nn.functional.scaled_dot_product_attention(query, key, value, seen, scale=scaling)
    return out.transpose(1, 2), None


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_flash_kernels_run_where_no_mask_is_needed_and_are_refused_elsewhere(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_vlm(name, dtype=torch.float64)
    one, padded = (prompts_for(model, name, rows, torch.float64) for rows in ([ROWS[0]], ROWS))
    plans = [parse_schedule(LATE), *([parse_schedule(FRONT)] if name == "llava" else [])]
    wanted = []
    for plan in plans:
        with ps.apply_(model, plan):
            wanted.append((logits_of(model, one), said(model, one)))
    monkeypatch.setitem(AttentionInterface._global_mapping, "flash_attention_2", flash)
    for part in (model.config, model.config.text_config):
        part._attn_implementation_internal = "flash_attention_2"
    for plan, (logits, answer) in zip(plans, wanted, strict=True):
        with ps.apply_(model, plan):
            torch.testing.assert_close(logits_of(model, one), logits, rtol=1e-6, atol=1e-6)
            assert said(model, one).tolist() == answer.tolist()
            with pytest.raises(PruneSearchError, match="flash attention takes no mask a block"):
                logits_of(model, padded)
