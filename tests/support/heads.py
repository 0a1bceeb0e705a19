"""Models with every kind of head or decoder that a schedule has to look after, and inputs for them."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf
from torch import Tensor

from prunesearch.tasks.kinds.verification import XVector
from tests.support.small_models import CASES, build, inputs_of

# name: (small model, class of the head; None: the model's own)
HEADS: dict[str, tuple[str, str | None]] = {
    "tags": ("bert", "ForTokenClassification"),
    "spans": ("electra", "ForQuestionAnswering"),
    "words": ("albert", "ForMaskedLM"),
    "ctc": ("wav2vec2", "ForCTC"),
    "x-vector": ("wav2vec2", "ForXVector"),
    "frames": ("wavlm", "ForAudioFrameClassification"),
    **{
        name: (name, None)
        for name in (
            *("vit", "dinov2", "beit", "siglip-pool", "clip-text", "yolos", "detr", "videomae"),
            *("modernbert", "mpnet", "deberta", "t5", "bart", "whisper", "whisper-audio", "wav2vec2", "wavlm"),
        )
    },
}


def headed(name: str, head: str, dtype: torch.dtype = torch.float64) -> Any:
    """A model of the family with a head, random but wide enough for its tokens to differ."""
    torch.manual_seed(0)
    config = CASES[name].make().config
    config.num_labels = 2 if head == "ForQuestionAnswering" else 5
    if head == "ForXVector":
        config.tdnn_dim, config.tdnn_kernel, config.tdnn_dilation, config.xvector_output_dim = (8,), (1,), (1,), 8
        model: Any = hf.Wav2Vec2ForXVector(config)
    else:
        model = getattr(hf, f"AutoModel{head}").from_config(config)
    model = model.to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 1.2 / parameter[0].numel() ** 0.5)
    return XVector(model).eval() if head == "ForXVector" else model


def model_of(kind: str) -> Any:
    """The model of `HEADS[kind]`, in float32."""
    name, head = HEADS[kind]
    return build(name) if head is None else headed(name, head, torch.float32)


def given_to(kind: str, seed: int) -> dict[str, Tensor]:
    """Inputs of `HEADS[kind]`, padded where it takes padding."""
    return inputs_of(HEADS[kind][0], (9, 12) if seed % 2 else (12, 7), seed=seed)


@torch.no_grad()
def answers_of(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Every number of the output that a user may look at, in one row."""
    out = model(**inputs)
    names = ("logits", "start_logits", "end_logits", "embeddings", "text_embeds", "pooler_output", "last_hidden_state")
    found = [getattr(out, name, None) for name in (*names, "pred_boxes")]
    return torch.cat([x.flatten() for x in found if x is not None])
