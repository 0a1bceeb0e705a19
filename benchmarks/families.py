"""Every model family on this CPU: exactness at keep 1.0, and what half of the tokens gain against what MACs promise.

    python benchmarks/families.py [FAMILY ...] [--method attention_received+drop] [--rounds 9] [--json FILE]

transformers' own classes with random weights, four blocks of width 384 (DETR: 256), batch 8, fp32, eager execution.
One stage behind the first block's attention keeps half of the tokens. Unpruned and pruned forwards are timed in turn,
and the median of each is taken; of an encoder-decoder the encoder is timed, since it is what is reduced. `efficiency`
is the speed-up over the ratio of counted MACs: 1.0 is a gain in full. Convolutional stems are in both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers.utils import is_timm_available

from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import ENCODER, Stage, parse_method
from prunesearch.cost.counting.flops import count_macs
from prunesearch.cost.devices.machine import cpu_name
from prunesearch.pruning.apply import apply_
from prunesearch.pruning.families.find import FAMILIES
from prunesearch.pruning.interface import base_name

BATCH, WIDTH, DEPTH, TEXT, SECONDS = 8, 384, 4, 128, 2
_SIZE = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": 6, "intermediate_size": 4 * WIDTH}
_SEQ = {"d_model": WIDTH, "encoder_layers": DEPTH, "decoder_layers": 1, "encoder_attention_heads": 6}
_SEQ |= {"decoder_attention_heads": 6, "encoder_ffn_dim": 4 * WIDTH, "decoder_ffn_dim": 4 * WIDTH}
_SPEECH = {**_SIZE, "conv_dim": (64,) * 7, "layerdrop": 0.0}
_DISTIL = {"dim": WIDTH, "n_layers": DEPTH, "n_heads": 6, "hidden_dim": 4 * WIDTH}
_DEBERTA = {**_SIZE, "relative_attention": True, "pos_att_type": "p2c|c2p", "position_buckets": 256}
_DEBERTA |= {"norm_rel_ebd": "layer_norm", "share_att_key": True, "position_biased_input": False}
_T5 = {"d_model": WIDTH, "d_kv": 64, "d_ff": 4 * WIDTH, "num_layers": DEPTH, "num_decoder_layers": 1, "num_heads": 6}
_VIDEO = {**_SIZE, "image_size": 112, "num_frames": 8}

Inputs = dict[str, Tensor]


def _image(side: int = 224) -> Inputs:
    return {"pixel_values": torch.randn(BATCH, 3, side, side)}


def _video() -> Inputs:
    return {"pixel_values": torch.randn(BATCH, 8, 3, 112, 112)}


def _text() -> Inputs:
    return {"input_ids": torch.randint(5, 1000, (BATCH, TEXT))}


def _ended_text() -> Inputs:
    ids = torch.randint(5, 1000, (BATCH, 77))
    ids[:, -1] = 49407
    return {"input_ids": ids}


def _waves() -> Inputs:
    return {"input_values": torch.randn(BATCH, 16_000 * SECONDS)}


def _detr() -> Any:
    backbone = hf.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 64, 128], depths=[1] * 4, out_features=["stage4"]
    )
    more = {**_SEQ, "d_model": 256, "encoder_attention_heads": 8, "decoder_attention_heads": 8}
    more |= {"encoder_ffn_dim": 1024, "decoder_ffn_dim": 1024, "num_queries": 50}
    return hf.DetrConfig(use_timm_backbone=False, backbone=None, backbone_config=backbone, **more)


@dataclass(frozen=True)
class Subject:
    """A class, its config, what it reads, and whether its encoder alone is timed."""

    cls: str
    config: Callable[[], Any]
    inputs: Callable[[], Inputs]
    encoder_alone: bool = False


def _subject(
    cls: str, config: str, settings: Mapping[str, Any], inputs: Callable[[], Inputs], alone: bool = False
) -> Subject:
    return Subject(cls, lambda: getattr(hf, config)(**settings), inputs, alone)


SUBJECTS: dict[str, Subject] = {
    "vit": _subject("ViTModel", "ViTConfig", _SIZE, _image),
    "deit": _subject("DeiTModel", "DeiTConfig", _SIZE, _image),
    "beit": _subject("BeitModel", "BeitConfig", {**_SIZE, "use_relative_position_bias": True}, _image),
    "dinov2": _subject("Dinov2Model", "Dinov2Config", {**_SIZE, "image_size": 224}, _image),
    "dinov2_with_registers": _subject(
        "Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", {**_SIZE, "image_size": 224}, _image
    ),
    "dinov3_vit": _subject("DINOv3ViTModel", "DINOv3ViTConfig", {**_SIZE, "num_register_tokens": 4}, _image),
    "clip_vision_model": _subject("CLIPVisionModel", "CLIPVisionConfig", {**_SIZE, "patch_size": 16}, _image),
    "siglip_vision_model": _subject("SiglipVisionModel", "SiglipVisionConfig", _SIZE, _image),
    "vit_mae": _subject("ViTMAEModel", "ViTMAEConfig", {**_SIZE, "mask_ratio": 0.0}, _image),
    "yolos": _subject("YolosModel", "YolosConfig", {**_SIZE, "image_size": [224, 224]}, _image),
    "detr": Subject("DetrModel", _detr, lambda: _image(384), encoder_alone=True),
    "videomae": _subject("VideoMAEModel", "VideoMAEConfig", _VIDEO, _video),
    "vivit": _subject("VivitModel", "VivitConfig", _VIDEO, _video),
    "timm_wrapper": _subject(
        "TimmWrapperModel",
        "TimmWrapperConfig",
        {"architecture": "vit_small_patch16_224", "model_args": {"depth": DEPTH}},
        _image,
    ),
    "bert": _subject("BertModel", "BertConfig", _SIZE, _text),
    "roberta": _subject("RobertaModel", "RobertaConfig", _SIZE, _text),
    "xlm-roberta": _subject("XLMRobertaModel", "XLMRobertaConfig", {**_SIZE, "vocab_size": 30_000}, _text),
    "electra": _subject("ElectraModel", "ElectraConfig", _SIZE, _text),
    "distilbert": _subject("DistilBertModel", "DistilBertConfig", _DISTIL, _text),
    "albert": _subject("AlbertModel", "AlbertConfig", _SIZE, _text),
    "mpnet": _subject("MPNetModel", "MPNetConfig", _SIZE, _text),
    "deberta-v2": _subject("DebertaV2Model", "DebertaV2Config", {**_DEBERTA, "vocab_size": 30_000}, _text),
    "modernbert": _subject("ModernBertModel", "ModernBertConfig", _SIZE, _text),
    "clip_text_model": _subject(
        "CLIPTextModel", "CLIPTextConfig", {**_SIZE, "eos_token_id": 49407, "bos_token_id": 49406}, _ended_text
    ),
    "t5": _subject("T5Model", "T5Config", _T5, _text, alone=True),
    "bart": _subject("BartModel", "BartConfig", {**_SEQ, "vocab_size": 30_000}, _text, alone=True),
    "marian": _subject(
        "MarianModel", "MarianConfig", {**_SEQ, "vocab_size": 30_000, "pad_token_id": 1}, _text, alone=True
    ),
    "wav2vec2": _subject("Wav2Vec2Model", "Wav2Vec2Config", _SPEECH, _waves),
    "hubert": _subject("HubertModel", "HubertConfig", _SPEECH, _waves),
    "wavlm": _subject("WavLMModel", "WavLMConfig", _SPEECH, _waves),
    "whisper": _subject(
        "WhisperModel",
        "WhisperConfig",
        {**_SEQ, "max_source_positions": 250},
        lambda: {"input_features": torch.randn(BATCH, 80, 500)},
        alone=True,
    ),
    "audio-spectrogram-transformer": _subject(
        "ASTModel", "ASTConfig", {**_SIZE, "max_length": 256}, lambda: {"input_values": torch.randn(BATCH, 256, 128)}
    ),
}


@dataclass(frozen=True)
class Result:
    """One family. `error_at_keep_1`: largest absolute difference to the untouched model; `block_ms`: of a forward."""

    family: str
    attention: str
    tokens: int
    kept: int
    error_at_keep_1: float
    unpruned_ms: float
    pruned_ms: float
    block_ms: float
    speedup: float
    mac_ratio: float
    efficiency: float


class EncoderAlone(nn.Module):
    """Runs a model's encoder, with the model around it for `apply_` to find."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Tensor) -> Any:
        """The encoder's output."""
        return self.model.encoder(**inputs)


@torch.inference_mode()
def encoder_inputs(model: Any, inputs: Inputs) -> Inputs:
    """What a model gives its encoder: a decoder that wants tokens of its own has not run yet."""
    if "pixel_values" not in inputs:
        return inputs
    seen: Inputs = {}
    hook = model.encoder.register_forward_pre_hook(lambda _, args, given: seen.update(given), with_kwargs=True)
    model(**inputs)
    hook.remove()
    return {name: value for name, value in seen.items() if isinstance(value, Tensor)}


def measure(family: str, method: str, rounds: int) -> Result:
    """Build the family's model and measure it."""
    torch.manual_seed(0)
    subject = SUBJECTS[family]
    model: Any = getattr(hf, subject.cls)(subject.config()).eval().requires_grad_(False)
    inputs, run = subject.inputs(), model
    if subject.encoder_alone:
        inputs, run = encoder_inputs(model, inputs), EncoderAlone(model)
    scorer, merge = parse_method(method)
    half, nothing = Schedule([Stage(0, 0.5, scorer, merge)]), Schedule([Stage(0, 1.0, scorer, merge)])

    def hidden() -> Tensor:
        with torch.inference_mode():
            out: Tensor = next(iter(run(**inputs).values()))
        return out

    def timed() -> float:
        begin = time.perf_counter()
        hidden()
        return (time.perf_counter() - begin) * 1e3

    if family == "vit_mae":  # it shuffles its tokens
        inputs["noise"] = torch.rand(BATCH, 196)
    before, macs = hidden(), count_macs(run, {k: v[:1] for k, v in inputs.items()})
    with apply_(model, nothing) as handle:
        error = float((hidden() - before).abs().max())
        handle.set(half)
        fewer = count_macs(run, {k: v[:1] for k, v in inputs.items()})
        with handle.observing() as widths:
            hidden()
            tokens, kept = widths[0].shape[1], widths[-1].shape[1]
        samples: dict[bool, list[float]] = {True: [], False: []}
        for number in range(rounds + 2):
            for reduced in (True, False):
                handle.set(half if reduced else Schedule())
                took = timed()
                if number >= 2:
                    samples[reduced].append(took)
        name = base_name(handle.encoder.attention_config._attn_implementation)
    slow, fast = (statistics.median(samples[reduced]) for reduced in (False, True))
    speedup, ratio = slow / fast, macs / fewer
    return Result(family, name, tokens, kept, error, slow, fast, slow / DEPTH, speedup, ratio, speedup / ratio)


def show(results: list[Result]) -> None:
    """Print the table."""
    table = Table(title="half of the tokens behind the first block", title_justify="left")
    for title in (
        "family",
        "attention",
        "tokens",
        "error at 1.0",
        "ms",
        "ms a block",
        "speed-up",
        "MACs",
        "efficiency",
    ):
        table.add_column(title, justify="left" if title in ("family", "attention") else "right")
    for r in results:
        table.add_row(
            r.family,
            r.attention,
            f"{r.tokens} > {r.kept}",
            f"{r.error_at_keep_1:g}",
            f"{r.unpruned_ms:.0f} > {r.pruned_ms:.0f}",
            f"{r.block_ms:.1f}",
            f"{r.speedup:.2f}x",
            f"{r.mac_ratio:.2f}x",
            f"{r.efficiency:.2f}",
        )
    Console(width=130).print(table)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description="Every model family on this CPU.")
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="none: all")
    parser.add_argument("--method", default="attention_received+drop")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args()
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    hf.logging.set_verbosity_error()
    unknown = set(given.families) - set(SUBJECTS)
    if unknown:
        parser.error(f"no such family here: {', '.join(sorted(unknown))}")
    missing = {name for name in FAMILIES if FAMILIES[name].part == ENCODER} - set(SUBJECTS)
    if missing:
        parser.error(f"add a subject for {', '.join(sorted(missing))}")
    results: list[Result] = []
    at_hand = [family for family in SUBJECTS if family != "timm_wrapper" or is_timm_available()]
    for family in given.families or at_hand:
        results.append(measure(family, given.method, given.rounds))
        print(f"{family}: {results[-1].efficiency:.2f}", file=sys.stderr)
    show(results)
    if given.json is not None:
        content = {"method": given.method, "batch": BATCH, "threads": torch.get_num_threads(), "cpu": cpu_name()}
        content |= {"torch": torch.__version__, "transformers": hf.__version__}
        given.json.write_text(json.dumps({**content, "results": [asdict(r) for r in results]}, indent=2) + "\n")


if __name__ == "__main__":
    main()
