"""Small random models of every supported family, and inputs for them. The table is `small_cases`."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

from prunesearch.pruning.families.find import find_encoder
from tests.support.small_cases import (
    BACKENDS,
    CASES,
    IMAGES,
    LOOKS_AT_VALUES,
    MEL,
    PAD,
    PAIRS,
    PLAIN,
    SAMPLES_A_FRAME,
    VIDEO,
    WAVES,
)

__all__ = ["BACKENDS", "CASES", "LOOKS_AT_VALUES", "PLAIN", "answer", "build", "inputs_of", "last_hidden", "rows"]


def build(name: str, attention: str | None = None, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    """Build the model of `CASES[name]`, in eval mode, with weights large enough that tokens differ."""
    model = CASES[name].make()
    attention = attention or CASES[name].backends[0]
    model.set_attn_implementation({"": attention} if name == "detr" else attention)  # its backbone has none to set
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if (parameter.dim() == 1 and "weight" in key) or "lambda" in key or "gamma" in key:
                parameter.copy_(1 + 0.1 * noise)  # norms, layer scales
            elif parameter.dim() == 1:
                parameter.copy_(0.1 * noise)
            else:
                fan_in = parameter[0].numel() if parameter.dim() == 2 and "embed" not in key else 1
                parameter.copy_(1.5 * noise / fan_in**0.5)
    return model.to(dtype).eval()


def inputs_of(
    name: str, lengths: tuple[int, ...] = (14, 9, 5), seed: int = 1, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Random inputs: images, videos or spectrograms, one a length; or texts and sounds of these many tokens, padded."""
    case, generator = CASES[name], torch.Generator().manual_seed(seed)
    rows, width = len(lengths), max(lengths)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    if case.reads == IMAGES:
        side = 40 if name == "detr" else 24
        extra = {"noise": torch.rand(rows, 16, generator=generator)} if name == "vit-mae" else {}
        return {"pixel_values": noise(rows, 3, side, side), **extra}
    if case.reads == VIDEO:
        return {"pixel_values": noise(rows, 4, 3, 24, 24)}
    if case.reads == MEL and name == "ast":
        return {"input_values": noise(rows, 26, 14)}
    ids = torch.randint(3, 60, (rows, width), generator=generator)
    decoder = {"decoder_input_ids": ids[:, :4].flip(0)} if _decodes(name) else {}
    if case.reads == MEL:
        return {"input_features": noise(rows, 8, 28), **decoder}
    mask = torch.arange(width)[None] < torch.tensor(lengths)[:, None]
    if case.reads == WAVES:
        mask = mask.repeat_interleave(SAMPLES_A_FRAME, 1)
        return {"input_values": noise(*mask.shape) * mask, "attention_mask": mask.long()}
    if name == "clip-text":
        ids[torch.arange(rows), torch.tensor(lengths) - 1] = 59  # the highest ends the text where the config says 2
        ids = ids.where((ids < 59) | (torch.arange(width) == torch.tensor(lengths)[:, None] - 1), 58)
    return {"input_ids": ids.masked_fill(~mask, PAD), "attention_mask": mask.long(), **decoder}


def _decodes(name: str) -> bool:
    return CASES[name].reads == PAIRS or name == "whisper"


def tokens_of(inputs: dict[str, Tensor]) -> Tensor | None:
    """Tokens of each row that are no padding; None if nothing is padded."""
    if "attention_mask" not in inputs:
        return None
    real = inputs["attention_mask"].sum(1)
    return real if "input_ids" in inputs else real // SAMPLES_A_FRAME


def rows(inputs: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    """One row of a batch, its padding cut off."""
    mask = inputs.get("attention_mask")
    one = {k: v[row : row + 1] for k, v in inputs.items()}
    if mask is None:
        return one
    return {k: v[:, mask[row].bool()] if v.shape[1] == mask.shape[1] else v for k, v in one.items()}


def encode(model: Any, inputs: dict[str, Tensor]) -> Any:
    """The output of the model, or the part of one, that runs the encoder."""
    if "decoder_input_ids" in inputs or isinstance(model, hf.WhisperPreTrainedModel):
        given = {k: v for k, v in inputs.items() if k != "decoder_input_ids"}
        return model.base_model.encoder(**given)
    return find_encoder(model).base(**inputs)


def last_hidden(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Last hidden states of the encoder, `[batch, tokens, width]`."""
    inner = getattr(model, "timm_model", None)
    if inner is not None:
        features: Tensor = inner.forward_features(inputs["pixel_values"])
        return features
    out = encode(model, inputs)
    hidden: Tensor | None = getattr(out, "encoder_last_hidden_state", None)
    return out.last_hidden_state if hidden is None else hidden


def answer(out: Any) -> Tensor:
    """What a model is there for."""
    for name in ("logits", "text_embeds", "pooler_output", "last_hidden_state"):
        found = getattr(out, name, None)
        if found is not None:
            result: Tensor = found
            return result
    raise AssertionError(f"no answer in {type(out).__name__}")
