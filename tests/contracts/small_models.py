"""One small random model (or more) of every supported family, for tests.

A new row in `prunesearch.pruning.families.FAMILIES` needs one line in `CASES`: the class, its config, and whether it
reads images or text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

_SIZE = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "num_labels": 3,
}
_IMAGE = {**_SIZE, "image_size": 24, "patch_size": 6}
_DINO = {k: v for k, v in _IMAGE.items() if k != "intermediate_size"} | {"mlp_ratio": 2}
_TEXT = {**_SIZE, "vocab_size": 60, "max_position_embeddings": 40}
_DISTIL = {
    "dim": 32,
    "n_layers": 4,
    "n_heads": 2,
    "hidden_dim": 64,
    "num_labels": 3,
    "vocab_size": 60,
    "max_position_embeddings": 40,
}
PAD, IMAGES, TEXT = 1, "images", "text"


@dataclass(frozen=True)
class Case:
    """A model class with a small config; `reads` is `images` or `text`; `mlp_in` the first Linear of a block's MLP."""

    name: str
    family: str
    make: Callable[[], Any]
    reads: str
    mlp_in: str


def _case(name: str, family: str, cls: str, config: str, settings: dict[str, Any], reads: str, mlp_in: str) -> Case:
    def make() -> Any:
        extra = {"pad_token_id": PAD} if reads == TEXT else {}
        return getattr(hf, cls)(getattr(hf, config)(**settings, **extra))

    return Case(name, family, make, reads, mlp_in)


CASES: dict[str, Case] = {
    c.name: c
    for c in (
        _case("vit", "vit", "ViTForImageClassification", "ViTConfig", _IMAGE, IMAGES, "mlp.fc1"),
        _case("deit", "deit", "DeiTForImageClassification", "DeiTConfig", _IMAGE, IMAGES, "mlp.fc1"),
        _case("deit-teacher", "deit", "DeiTForImageClassificationWithTeacher", "DeiTConfig", _IMAGE, IMAGES, "mlp.fc1"),
        _case("dinov2", "dinov2", "Dinov2ForImageClassification", "Dinov2Config", _DINO, IMAGES, "mlp.fc1"),
        _case(
            "dinov2-registers",
            "dinov2_with_registers",
            "Dinov2WithRegistersForImageClassification",
            "Dinov2WithRegistersConfig",
            {**_DINO, "num_register_tokens": 4},
            IMAGES,
            "mlp.fc1",
        ),
        _case("bert", "bert", "BertForSequenceClassification", "BertConfig", _TEXT, TEXT, "intermediate.dense"),
        _case(
            "roberta", "roberta", "RobertaForSequenceClassification", "RobertaConfig", _TEXT, TEXT, "intermediate.dense"
        ),
        _case(
            "electra", "electra", "ElectraForSequenceClassification", "ElectraConfig", _TEXT, TEXT, "intermediate.dense"
        ),
        _case(
            "distilbert",
            "distilbert",
            "DistilBertForSequenceClassification",
            "DistilBertConfig",
            _DISTIL,
            TEXT,
            "ffn.lin1",
        ),
    )
}


def build(name: str, attention: str = "sdpa", dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    """Build the model of `CASES[name]`, in eval mode, with weights large enough that tokens differ."""
    model = CASES[name].make()
    model.set_attn_implementation(attention)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if (parameter.dim() == 1 and "weight" in key) or "lambda" in key:
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
    """Random inputs: images, one a length; or texts of these lengths, padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    if CASES[name].reads == IMAGES:
        return {"pixel_values": torch.randn(len(lengths), 3, 24, 24, generator=generator).to(dtype)}
    width = max(lengths)
    ids = torch.randint(3, 60, (len(lengths), width), generator=generator)
    mask = torch.arange(width)[None] < torch.tensor(lengths)[:, None]
    return {"input_ids": ids.masked_fill(~mask, PAD), "attention_mask": mask.long()}


def rows(inputs: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    """One row of a batch, its padding cut off."""
    if "attention_mask" not in inputs:
        return {k: v[row : row + 1] for k, v in inputs.items()}
    real = inputs["attention_mask"][row].bool()
    return {k: v[row : row + 1][:, real] for k, v in inputs.items()}


def last_hidden(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Last hidden states of the base model, `[batch, tokens, width]`."""
    out: Tensor = model.base_model(**inputs).last_hidden_state
    return out
