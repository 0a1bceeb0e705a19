"""What fewer picture tokens give models of the sizes that people run: the first token, its parts, steps of decoding.

    python benchmarks/picture_models.py smolvlm-256m --tiles 1 5 --seconds 40 --out FILE.json

Weights are random, sizes those of the checkpoints, one prompt with a picture of so many tiles (64 tokens each, as the
checkpoints cut pictures) and 32 tokens of text, one thread, float32. All forwards are timed interleaved in one process,
in random order; medians are told.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf

import prunesearch as ps
from prunesearch.core.plans.plan import Plan

# hidden, intermediate, blocks, heads, heads of keys of the decoder; the same of the tower (blocks, heads; width, MLP)
SIZES = {
    "smolvlm-256m": ((576, 1536, 30, 9, 3), (768, 3072, 12, 12)),
    "smolvlm-500m": ((960, 2560, 32, 15, 5), (768, 3072, 12, 12)),
}
SIDE, PATCH, FACTOR = 512, 16, 4  # of a tile; tokens are (512 / 16 / 4) squared
EACH, TEXT, PICTURE, STEPS = (SIDE // PATCH // FACTOR) ** 2, 32, 49190, 8
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
    torch.manual_seed(0)
    return hf.SmolVLMForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval()


def prompt(tiles: int) -> dict[str, torch.Tensor]:
    """A picture between words."""
    ids = torch.randint(3, 40000, (1, TEXT + EACH * tiles))
    ids[:, 4 : 4 + EACH * tiles] = PICTURE
    pixels = torch.randn(1, tiles, 3, SIDE, SIDE)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


def runs_of(model: Any, handle: Any, tiles: int) -> dict[str, Callable[[], Any]]:
    """What is timed of a picture of so many tiles: prefill under each plan, and steps of decoding behind it."""
    given = prompt(tiles)
    features = model.model.get_image_features(given["pixel_values"])
    rest = {name: value for name, value in given.items() if name != "pixel_values"}
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
    pixels, took = prompt(tiles)["pixel_values"], []
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


def main() -> None:
    """Time everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=list(SIZES))
    parser.add_argument("--tiles", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--seconds", type=float, default=40.0)
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
    with ps.apply_(model, Plan()) as handle, torch.inference_mode():
        for tiles in given.tiles:
            found = medians(runs_of(model, handle, tiles), given.seconds)
            found = known["tiles"][str(tiles)] = {"tower": tower_ms(model, tiles), **found}
            tower, base = found["tower"]["ms"], found["prefill | unpruned"]["ms"]
            print(f"{tiles} tiles, {EACH * tiles} + {TEXT} tokens: tower {tower:.0f} ms", flush=True)
            for name in PLANS:
                ms, steps = found[f"prefill | {name}"]["ms"], found[f"{STEPS} steps | {name}"]["ms"] / STEPS
                print(
                    f"  {name:26} prefill {ms:8.1f} ms ({base / ms:.2f}x), first token {tower + ms:8.1f} ms "
                    f"({(tower + base) / (tower + ms):.2f}x), a step {steps:.2f} ms"
                )
    given.out.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
