"""What fewer picture tokens give models of the sizes that people run: the first token, its parts, steps of decoding.

    python benchmarks/picture_models.py smolvlm-256m --tiles 1 5 --seconds 40 --out FILE.json
    python benchmarks/picture_models.py smolvlm-500m --tiles 5 --seconds 0 --table 200 --out FILE.json

Weights are random, sizes those of the checkpoints, one prompt with a picture of so many tiles (64 tokens each, as the
checkpoints cut pictures) and 32 tokens of text, one thread, float32. All forwards are timed interleaved in one process,
in random order; medians are told. Of Qwen2.5-VL-3B, for which no such machine has the time, the first `BLOCKS` of the
decoder and its head alone: what is said of it is of these. A tile is encoded once and stands for all of a picture.
`--table` measures a cost table of the prefill for so many seconds, and tells its error on schedules it has not seen.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from transformers.modeling_outputs import BaseModelOutputWithPooling

import prunesearch as ps
from prunesearch.core.plans.plan import Plan
from prunesearch.cost.measure import measure_table

# hidden, intermediate, blocks, heads, heads of keys of the decoder; the same of the tower (blocks, heads; width, MLP)
SIZES = {
    "smolvlm-256m": ((576, 1536, 30, 9, 3), (768, 3072, 12, 12)),
    "smolvlm-500m": ((960, 2560, 32, 15, 5), (768, 3072, 12, 12)),
}
QWEN, BLOCKS = "qwen2.5-vl-3b", 4  # of its 36
SIDE, PATCH, FACTOR = 512, 16, 4  # of a tile; tokens are (512 / 16 / 4) squared
EACH, TEXT, PICTURE, STEPS = (SIDE // PATCH // FACTOR) ** 2, 32, 49190, 8
KEPT = (0.75, 0.5, 0.35, 0.222, 0.111)  # of a picture's tokens, after stages that the table knows
METHODS = ("random+drop", "text_attention+drop")
PLANS = {
    "unpruned": "",
    "input/0, 50 %": "input/0:0.5 random+drop",
    "input/0, 22 %": "input/0:0.222 random+drop",
    "input/0, 22 %, max-min": "input/0:0.222 random+drop@diversity",
    "decoder/1, 50 % (FastV)": "decoder/1:0.5 text_attention+drop",
    "decoder/1, 22 % (FastV)": "decoder/1:0.222 text_attention+drop",
}


def build(name: str) -> Any:
    """The model with random weights."""
    config, made = _qwen() if name == QWEN else _smolvlm(name)
    torch.manual_seed(0)
    return made._from_config(config, attn_implementation="sdpa").eval()


def _qwen() -> tuple[Any, Any]:
    """Its decoder's sizes; the tower is not timed, and small."""
    text = {
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": BLOCKS,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6},
    }
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "depth": 2, "out_hidden_size": 2048}
    config = hf.Qwen2_5_VLConfig(
        vision_config={**tower, "fullatt_block_indexes": [1]}, text_config=text, image_token_id=PICTURE
    )
    return config, hf.Qwen2_5_VLForConditionalGeneration


def _smolvlm(name: str) -> tuple[Any, Any]:
    (width, mlp, depth, heads, kv), (vision, vision_mlp, layers, vision_heads) = SIZES[name]
    text = hf.LlamaConfig(
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        vocab_size=49280,
        max_position_embeddings=8192,
    )
    tower = hf.SmolVLMVisionConfig(
        hidden_size=vision,
        intermediate_size=vision_mlp,
        num_hidden_layers=layers,
        num_attention_heads=vision_heads,
        image_size=SIDE,
        patch_size=PATCH,
    )
    config = hf.SmolVLMConfig(vision_config=tower, text_config=text, scale_factor=FACTOR, image_token_id=PICTURE)
    return config, hf.SmolVLMForConditionalGeneration


def prompt(model: Any, tiles: int) -> dict[str, torch.Tensor]:
    """A picture between words."""
    ids = torch.randint(3, 40000, (1, TEXT + EACH * tiles))
    ids[:, 4 : 4 + EACH * tiles] = PICTURE
    found = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.model_type != "smolvlm":
        found["mm_token_type_ids"] = (ids == PICTURE).int()
        found["image_grid_thw"] = torch.tensor([[1, 2 * EACH // 8, 16 * tiles]])
    return found


def encoded(model: Any, tiles: int) -> Any:
    """What a tower gives of a picture, its first tile for all of them."""
    if model.config.model_type != "smolvlm":
        return BaseModelOutputWithPooling(
            pooler_output=[torch.randn(EACH * tiles, model.config.text_config.hidden_size)]
        )
    found = model.model.get_image_features(torch.randn(1, 1, 3, SIDE, SIDE))
    found.pooler_output = list(found.pooler_output) * tiles
    return found


class Prefill(torch.nn.Module):
    """A model whose pictures are encoded already."""

    def __init__(self, model: Any, features: Any) -> None:
        super().__init__()
        self.model, self.features = model, features

    def forward(self, **given: Any) -> Any:
        """The logits of the last token."""
        return self.model(**given, mm_encoder_outputs={"image": self.features}, logits_to_keep=1, use_cache=True)


def error_of(model: Any, tiles: int, seconds: float) -> dict[str, Any]:
    """The error of a cost table of the prefill, in per cent, on how many schedules that it has not seen."""
    whole = Prefill(model, encoded(model, tiles))
    counts = [TEXT + math.ceil(share * EACH * tiles) for share in KEPT]
    table = measure_table(whole, prompt(model, tiles), counts=counts, methods=METHODS, time_budget_s=seconds)
    return {
        name: table.summary()[name] for name in ("mape", "worst", "rank_correlation", "schedules", "noisy", "cells")
    }


def runs_of(model: Any, handle: Any, tiles: int) -> dict[str, Callable[[], Any]]:
    """What is timed of a picture of so many tiles: prefill under each plan, and steps of decoding behind it."""
    rest, features = prompt(model, tiles), encoded(model, tiles)
    runs: dict[str, Callable[[], Any]] = {}

    def prefill(plan: Plan) -> Any:
        with handle.under(plan):
            return model(**rest, mm_encoder_outputs={"image": features}, logits_to_keep=1, use_cache=True)

    def step(plan: Plan) -> Callable[[], Any]:
        n = rest["input_ids"].shape[1]
        more = {"input_ids": torch.tensor([[5]]), "position_ids": torch.tensor([[n]])}
        cache = prefill(plan).cache

        def one() -> None:
            with handle.under(plan):
                for _ in range(STEPS):
                    model(**more, attention_mask=torch.ones(1, n + 1), cache=cache, logits_to_keep=1)
                    for layer in cache.layers:  # as it was before the step
                        layer.keys, layer.values = layer.keys[:, :, :-1], layer.values[:, :, :-1]

        return one

    for name, text in PLANS.items():
        plan = Plan.parse(text) if text else Plan()
        runs[f"prefill | {name}"] = lambda plan=plan: prefill(plan)  # type: ignore[misc]
        runs[f"{STEPS} steps | {name}"] = step(plan)
    return runs


def tower_ms(model: Any, tiles: int) -> dict[str, Any]:
    """Of the tower and the projector, twice: they are the same under every plan."""
    pixels, took = torch.randn(1, tiles, 3, SIDE, SIDE), []
    for _ in range(2):
        started = time.perf_counter()
        model.model.get_image_features(pixels)
        took.append(1e3 * (time.perf_counter() - started))
    return {"ms": statistics.median(took), "timings": 2}


def medians(runs: dict[str, Callable[[], Any]], seconds: float) -> dict[str, Any]:
    """Median milliseconds of each and how many timings it is of, interleaved; at least three of each."""
    took: dict[str, list[float]] = {name: [] for name in runs}
    order, rng = list(runs), random.Random(0)
    for run in runs.values():
        run()
    end = time.monotonic() + seconds
    while time.monotonic() < end or min(map(len, took.values())) < 3:
        rng.shuffle(order)
        for name in order:
            started = time.perf_counter()
            runs[name]()
            took[name].append(1e3 * (time.perf_counter() - started))
    return {name: {"ms": statistics.median(ms), "timings": len(ms)} for name, ms in took.items()}


def say(found: dict[str, Any], tiles: int) -> None:
    """Print what was timed; of the first token nothing where the tower was not."""
    tower, base = found.get("tower", {"ms": None})["ms"], found["prefill | unpruned"]["ms"]
    beside = "not timed" if tower is None else f"{tower:.0f} ms"
    print(f"{tiles} tiles, {EACH * tiles} + {TEXT} tokens: tower {beside}", flush=True)
    for name in PLANS:
        ms, steps = found[f"prefill | {name}"]["ms"], found[f"{STEPS} steps | {name}"]["ms"] / STEPS
        first = ""
        if tower is not None:
            first = f"first token {tower + ms:8.1f} ms ({(tower + base) / (tower + ms):.2f}x), "
        print(f"  {name:26} prefill {ms:8.1f} ms ({base / ms:.2f}x), {first}a step {steps:.2f} ms", flush=True)


def main() -> None:
    """Time everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=[*SIZES, QWEN])
    parser.add_argument("--tiles", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--seconds", type=float, default=40.0, help="of forwards at each number of tiles; 0: none")
    parser.add_argument("--table", type=float, default=0.0, help="seconds of a cost table; 0: none")
    parser.add_argument("--tower", type=int, default=5, help="tiles up to which the tower is timed")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = build(given.model)
    known: dict[str, Any] = {
        "model": given.model,
        "parameters": sum(p.numel() for p in model.parameters()),
        "processor": platform.processor() or platform.machine(),
        "versions": {"prunesearch": ps.__version__, "torch": torch.__version__, "transformers": hf.__version__},
        "tiles": {},
    }
    with torch.inference_mode():
        for tiles in given.tiles:
            found = known["tiles"][str(tiles)] = {}
            if given.table:
                found["table"] = error_of(model, tiles, given.table)
                print(f"{tiles} tiles: the table {found['table']}", flush=True)
            if given.seconds:
                with ps.apply_(model, Plan()) as handle:
                    found |= medians(runs_of(model, handle, tiles), given.seconds)
                if tiles <= given.tower and given.model != QWEN:
                    found["tower"] = tower_ms(model, tiles)
                say(found, tiles)
    given.out.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
