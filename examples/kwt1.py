"""A model of no known family, made reducible: KWT-1, a keyword transformer (Berg et al. 2021) with its trained weights.

    python examples/kwt1.py [FOLDER]      # with kwt1.npz and speech_commands_sample.parquet

The module below is what one would have anyway. What prunesearch needs of it: a config with a `model_type`, attention
through transformers' interface, and the row at `KWT1`. `docs/families.md` is the guide.
"""

from __future__ import annotations

import io
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.vit.modeling_vit import eager_attention_forward

import prunesearch as ps
from prunesearch.pruning.families.blocks import PostNorm
from prunesearch.pruning.families.find import Family, register_family

FOLDER = Path(__file__).parents[2] / "shared" / "assets" / "kwt1"
WINDOW, HOP = 480, 160  # samples at 16 kHz


class Kwt1Config(PreTrainedConfig):
    """KWT-1's sizes."""

    model_type = "kwt1"

    def __init__(self, scaling: float = 0.125, layer_norm_eps: float = 1e-5, **kwargs: Any) -> None:
        self.hidden_size, self.num_hidden_layers, self.num_attention_heads = 64, 12, 1
        self.hidden_act, self.scaling, self.layer_norm_eps = "gelu_tanh", scaling, layer_norm_eps
        super().__init__(num_labels=12, **kwargs)


class Attention(nn.Module):
    """One head, without biases on query, key and value."""

    def __init__(self, config: Kwt1Config) -> None:
        super().__init__()
        self.config, self.is_causal = config, False
        self.q, self.k, self.v = (nn.Linear(64, 64, bias=False) for _ in range(3))
        self.o = nn.Linear(64, 64)

    def forward(self, x: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """`x` `[batch, frames, 64]`; returns the same and, where the backend computes them, the weights."""
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        query, key, value = (proj(x)[:, None] for proj in (self.q, self.k, self.v))
        out, weights = attend(self, query, key, value, attention_mask, scaling=self.config.scaling, **kwargs)
        return self.o(out.flatten(2)), weights


class Block(nn.Module):
    """Post-norm: `x = ln1(x + attention(x))`, then `x = ln2(x + mlp(x))`."""

    def __init__(self, config: Kwt1Config) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.mlp = nn.Sequential(nn.Linear(64, 256), nn.GELU(approximate="tanh"), nn.Linear(256, 64))
        self.ln1, self.ln2 = (nn.LayerNorm(64, eps=config.layer_norm_eps) for _ in range(2))

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """`x` `[batch, frames, 64]`."""
        x = self.ln1(self.attention(x, attention_mask)[0] + x)
        return self.ln2(self.mlp(x) + x)


class Kwt1(PreTrainedModel):
    """CLS and 98 frames of 40 cepstral coefficients, 12 blocks, a linear head on CLS."""

    config_class = Kwt1Config
    _supports_sdpa = _supports_attention_backend = True

    def __init__(self, config: Kwt1Config) -> None:
        super().__init__(config)
        self.proj, self.head = nn.Linear(40, 64), nn.Linear(64, config.num_labels)
        self.cls, self.pos = nn.Parameter(torch.zeros(1, 1, 64)), nn.Parameter(torch.zeros(1, 99, 64))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.post_init()

    def forward(self, input_features: Tensor) -> SequenceClassifierOutput:
        """`input_features` `[batch, 98, 40]`; logits `[batch, 12]`."""
        x = torch.cat([self.cls.expand(input_features.shape[0], -1, -1), self.proj(input_features)], dim=1) + self.pos
        for block in self.blocks:
            x = block(x)
        return SequenceClassifierOutput(logits=self.head(x[:, 0]))


# all that prunesearch has to be told
KWT1 = Family("kwt1", "blocks", PostNorm("kwt1", "ln1", "ln2", mlp="mlp"), "CLS", tasks=("audio-classification",))


def load(folder: Path = FOLDER) -> tuple[Kwt1, dict[str, np.ndarray]]:
    """The trained model in eval mode, and the arrays of its front end."""
    arrays = dict(np.load(folder / "kwt1.npz"))
    model = Kwt1(Kwt1Config(scaling=float(arrays["scale"]), layer_norm_eps=float(arrays["ln_eps"])))
    names = {f"attention.{x}": x for x in "qkvo"} | {"mlp.0": "fc1", "mlp.2": "fc2"}
    state = {"proj.weight": "proj.w", "proj.bias": "proj.b", "head.weight": "head.w", "head.bias": "head.b"}
    for i in range(12):
        for ours, theirs in names.items():
            state |= {f"blocks.{i}.{ours}.weight": f"b{i}.{theirs}.w", f"blocks.{i}.{ours}.bias": f"b{i}.{theirs}.b"}
        for norm in ("ln1", "ln2"):
            state |= {f"blocks.{i}.{norm}.weight": f"b{i}.{norm}.g", f"blocks.{i}.{norm}.bias": f"b{i}.{norm}.b"}
    weights = {ours: torch.tensor(arrays[theirs]) for ours, theirs in state.items() if theirs in arrays}
    weights |= {"cls": torch.tensor(arrays["cls"])[None, None], "pos": torch.tensor(arrays["pos"])[None]}
    model.load_state_dict(weights)
    return model.eval(), arrays


def features(samples: np.ndarray, fe: dict[str, np.ndarray]) -> Tensor:
    """Cepstral coefficients `[batch, 98, 40]` of clips `[batch, 16000]` in [-1, 1], by the front end's own matrices."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW, axis=1)[:, ::HOP] * fe["fe.window"]
    power = np.hypot(frames @ fe["fe.dft_real"].T, frames @ fe["fe.dft_imag"].T)
    cepstrum = np.log(np.maximum(power @ fe["fe.mel"].T, fe["fe.floor"])) @ fe["fe.dct"].T
    return torch.tensor((cepstrum - fe["fe.norm_sub"]) * fe["fe.norm_mul"], dtype=torch.float32)


def clips(folder: Path = FOLDER, split: str = "test") -> tuple[np.ndarray, np.ndarray]:
    """Samples `[clips, 16000]` in [-1, 1] and labels."""
    table = pd.read_parquet(folder / "speech_commands_sample.parquet").query("split == @split")
    samples = np.zeros((len(table), 16_000), np.float32)
    for row, audio in zip(samples, table["audio"], strict=True):
        with wave.open(io.BytesIO(audio["bytes"])) as sound:
            read = np.frombuffer(sound.readframes(16_000), "<i2")
        row[: len(read)] = read / 2**15
    return samples, table["label"].to_numpy()


def accuracy(model: Kwt1, inputs: Tensor, labels: np.ndarray) -> float:
    """Share of clips that the model names rightly."""
    with torch.inference_mode():
        guesses = torch.cat([model(batch).logits.argmax(-1) for batch in inputs.split(64)])
    return float((guesses.numpy() == labels).mean())


def main() -> None:
    """Print the accuracy without a schedule, and with half of the frames dropped at two blocks."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    register_family(KWT1)
    model, front_end = load(folder)
    samples, labels = clips(folder)
    inputs = features(samples, front_end)
    print(f"unpruned                       {accuracy(model, inputs, labels):.1%} of {len(labels)} clips")
    schedule = ps.Schedule([ps.Stage(2, 0.7, "cls_attention", "fuse"), ps.Stage(5, 0.4, "cls_attention", "fuse")])
    with ps.apply_(model, schedule):
        print(f"{schedule!s:30} {accuracy(model, inputs, labels):.1%}")


if __name__ == "__main__":
    main()
