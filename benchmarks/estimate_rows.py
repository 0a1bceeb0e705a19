"""The public measurements behind benchmarks/estimates.py, and the kernels of what they measured."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import BertConfig, ViTConfig, ViTForImageClassification
from transformers.models.bert.modeling_bert import BertEncoder

from prunesearch.core.plans.schedule import Schedule
from prunesearch.cost.estimate.ops import Op, record_forward
from prunesearch.cost.estimate.roofline import fused
from prunesearch.pruning.apply import apply_

DATA = Path(__file__).parent / "data" / "public_throughput.csv"
_WIDTHS = {  # width, depth, heads
    "tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16), "huge": (1280, 32, 16),
}  # fmt: skip
_DTYPES = {"amp": torch.float32, "tf32": torch.float32}


@dataclass(frozen=True)
class Row:
    """A measurement; `ms` is that of the whole batch."""

    device: str
    model: str
    size: int
    batch: int
    dtype: str
    library: str
    mode: str
    schedule: str
    value: float
    unit: str
    source: str

    @property
    def ms(self) -> float:
        if self.unit == "ms":
            return self.value
        if self.unit == "images_per_s":
            return self.batch / self.value * 1e3
        return 2 * self.size**3 / self.value / 1e9  # of a square product, 1e12 operations a second

    @property
    def group(self) -> tuple[str, ...]:
        """What differs only in the amount of work."""
        return (self.device, self.library, self.mode, self.model, self.dtype)

    @property
    def host(self) -> str:
        """Which launch cost it pays."""
        return "torchscript" if self.library == "torchscript" else self.mode

    @cached_property
    def ops(self) -> Counter[Op]:
        return Counter(self.kernels)

    @cached_property
    def kernels(self) -> list[Op]:
        """The kernels of its forward, in order; fused if it was compiled."""
        ops = _record(self)
        if self.mode != "compile":
            return ops
        runs = groupby(ops, key=lambda op: op.kind == "memory")
        return [op for memory, run in runs for op in ([fused(list(run))] if memory else run)]


class _Amp(TorchFunctionMode):
    """`torch.autocast` for float16, which knows no `meta` device: products in half precision, norms in float32."""

    halves = (nn.functional.linear, nn.functional.conv2d, nn.functional.scaled_dot_product_attention, torch.matmul)
    singles = (nn.functional.layer_norm, nn.functional.softmax)

    def __init__(self) -> None:
        super().__init__()
        self.latest: tuple[Any, Any] = (None, None)

    def cast(self, x: Any, dtype: torch.dtype) -> Any:
        if not _is_float(x):
            return x
        if self.latest[0] is not x or self.latest[1].dtype != dtype:  # timm's q, k and v are one product: one cast
            self.latest = x, x.to(dtype)
        return self.latest[1]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        wanted = torch.float16 if func in self.halves else torch.float32 if func in self.singles else None
        if wanted is not None:
            args = [self.cast(args[0], wanted), *(x.to(wanted) if _is_float(x) else x for x in args[1:])]
        return func(*args, **(kwargs or {}))


def _is_float(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


class _Encoder(nn.Module):
    """BERT-base without embeddings and pooler, as FasterTransformer's guide times it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = BertEncoder(BertConfig(attn_implementation="eager"))

    def forward(self, hidden: Tensor, mask: Tensor) -> Any:
        return self.encoder(hidden, mask)


_recorded: dict[tuple[Any, ...], list[Op]] = {}


def _record(row: Row) -> list[Op]:
    key = (row.model, row.size, row.batch, row.dtype, row.library, row.schedule)
    if key not in _recorded:
        _recorded[key] = _kernels(row)
    return _recorded[key]


def _kernels(row: Row) -> list[Op]:
    dtype = _DTYPES.get(row.dtype) or getattr(torch, row.dtype)
    if row.model == "square_product":
        moved = row.size**2 * dtype.itemsize
        return [Op("matmul", dtype, 3 * moved, 2 * moved, 1, row.size, row.size, row.size)]
    with torch.device("meta"):
        if row.model == "bert_base_encoder":
            model: nn.Module = _Encoder().to(dtype).eval()
            hidden = torch.empty(row.batch, row.size, 768, dtype=dtype)
            return record_forward(
                model, {"hidden": hidden, "mask": torch.empty(row.batch, 1, 1, row.size, dtype=dtype)}
            )
        model = vit(row.model, row.size, "sdpa" if row.library == "timm" else "eager").to(dtype).eval()
        inputs = {"pixel_values": torch.empty(row.batch, 3, row.size, row.size, dtype=dtype)}
    with _amp() if row.dtype == "amp" else _as_it_is(), _scheduled(model, row.schedule):
        return record_forward(model, inputs)


def vit(name: str, size: int, attention: str) -> ViTForImageClassification:
    """A ViT of the size that timm calls `name`, such as `vit_small_patch16`."""
    _, scale, patch = name.split("_")
    width, depth, heads = _WIDTHS[scale]
    config = ViTConfig(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=4 * width,
        image_size=size, patch_size=int(patch.removeprefix("patch")), num_labels=1000, attn_implementation=attention,
    )  # fmt: skip
    return ViTForImageClassification(config)


@contextmanager
def _amp() -> Iterator[None]:
    with _Amp():
        yield


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield


@contextmanager
def _scheduled(model: nn.Module, schedule: str) -> Iterator[None]:
    """ToMe's constant schedule: r tokens merged in every block, at most half of those that may."""
    if not schedule:
        yield
        return
    r, n, counts = int(schedule.removeprefix("tome r=")), model.vit.embeddings.position_embeddings.shape[1], []
    tokens = n
    for _ in range(model.config.num_hidden_layers):
        n -= min(r, (n - 1) // 2)
        counts.append(n)
    with apply_(model, Schedule.from_counts(counts, tokens, merge="bipartite")):
        yield


def read_rows() -> list[Row]:
    """The public measurements."""
    with DATA.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    numbers = {"size": int, "batch": int, "value": float}
    return [Row(**{key: numbers.get(key, str)(text) for key, text in row.items()}) for row in rows]
