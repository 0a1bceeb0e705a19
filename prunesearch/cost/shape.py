"""What of a model decides its cost, and under what conditions a cost holds: what tables are keyed by."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from torch import Tensor, nn

from prunesearch.core.plans.flow import Geometry, Tower
from prunesearch.core.plans.plan import HALVES, Change, Halves
from prunesearch.core.plans.stage import ENCODER
from prunesearch.cost.devices.device import process_conditions
from prunesearch.pruning.apply import Handle

if TYPE_CHECKING:
    from prunesearch.pruning.families.find import Encoder

# The key of a block: models that agree in these, and in the variants of their blocks, have blocks that cost the same.
BLOCK_KEY = ("kind", "width", "heads", "mlp_width", "activation")
_NEAR = 0.01  # of an attention's weights may be beside its projections (gates of positions), and it still is plain


class Record(BaseModel):
    """A part of a file: no unknown keys."""

    model_config = ConfigDict(extra="forbid")


class Variant(NamedTuple):
    """What of a block's halves is not plain; both empty for full multi-head attention and a two-layer MLP.

    A half is words with numbers, joined by `-`. Attention: `window65` (tokens that a token sees to either side),
    `kv2` (heads of keys and values), `inner512` (width of all heads together, where it is not the model's). MLP:
    `glu1152` (gated, its hidden units), `mlp512` (plain, but of other hidden units than the first block's). `w9000` in
    either: weights that none of these explain. What a plan makes of a half stands behind (`Change.word`): `heads4`,
    `mlp512`, `rank96`, `none`.
    """

    attention: str = ""
    mlp: str = ""

    def __str__(self) -> str:
        return f"{self.attention}/{self.mlp}" if self != PLAIN else ""


PLAIN = Variant()


class Shape(Record):
    """What of a model decides its cost.

    `kind`: how a block computes; `mlp_width`: hidden units of its MLP; `variants`: of every block as `Variant` prints
    itself, or empty where all are plain. `tower`: of a decoder, what makes its pictures, where tokens may leave in it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    family: str
    kind: str
    depth: int = Field(ge=1)
    tokens: int = Field(ge=1)
    protected: int = Field(ge=0)
    width: int = Field(ge=1)
    heads: int = Field(ge=1)
    mlp_width: int = Field(ge=1)
    activation: str
    variants: tuple[str, ...] = ()
    part: str = ENCODER
    tower: TowerShape | None = None

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        if self.variants and len(self.variants) != self.depth:
            raise ValueError(f"`variants` must have one entry a block, but {self.depth} blocks have {self.variants}")
        return self

    @model_serializer(mode="wrap")
    def _without_empty(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        said: dict[str, Any] = handler(self)
        usual = {"variants": not self.variants, "part": self.part == ENCODER, "tower": self.tower is None}
        return {name: value for name, value in said.items() if not usual.get(name)}

    @property
    def geometry(self) -> Geometry:
        """How tokens flow through the model."""
        return _geometry(self.depth, self.tokens, self.protected, self.part, self.tower and self.tower.passed)

    @property
    def blocks(self) -> tuple[Variant, ...]:
        """The variant of every block."""
        return _parsed(self.variants) if self.variants else (PLAIN,) * self.depth

    def under(self, halves: Halves) -> Shape:
        """That of the model with these changes of halves of its blocks."""
        if not halves:
            return self
        blocks = [
            Variant(*(_joined(own, halves.get((layer, half))) for half, own in zip(HALVES, block, strict=True)))
            for layer, block in enumerate(self.blocks)
        ]
        return self.model_copy(update={"variants": tuple(f"{block.attention}/{block.mlp}" for block in blocks)})

    def serves(self, other: Shape) -> bool:
        """Whether every block of `other` costs what a block of this one does."""
        return self.differs(other) is None

    def differs(self, other: Shape) -> tuple[str, Any, Any] | None:
        """The first thing that keeps blocks of `other` from costing what these do: its name, mine and theirs."""
        for name in BLOCK_KEY:
            if getattr(self, name) != getattr(other, name):
                return name, getattr(self, name), getattr(other, name)
        if not set(other.blocks) <= set(self.blocks):
            return "variants", _listed(self.blocks), _listed(other.blocks)
        return None

    def describe(self) -> str:
        """`vit, width 384, 6 heads, MLP 1536, gelu`."""
        said = f"{self.kind}, width {self.width}, {self.heads} heads, MLP {self.mlp_width}, {self.activation}"
        return f"{said}, {_listed(self.blocks)}" if self.variants else said


class TowerShape(Shape):
    """What of a tower decides its cost; of `pictures` of a prompt, stages may be in its first `reach` blocks."""

    pictures: int = Field(ge=1)
    reach: int = Field(ge=1)

    @property
    def passed(self) -> Tower:
        """How tokens pass it."""
        return Tower(self.depth, self.tokens, self.protected, self.pictures, self.reach)


Shape.model_rebuild()


def _joined(own: str, change: Change | None) -> str:
    return own if change is None else "-".join(filter(None, (own, change.word)))


@cache  # asked for with every schedule that is priced
def _geometry(depth: int, tokens: int, protected: int, part: str, tower: Tower | None) -> Geometry:
    return Geometry(depth, tokens, protected, part, tower)


@cache
def _parsed(variants: tuple[str, ...]) -> tuple[Variant, ...]:
    return tuple(Variant(*text.partition("/")[::2]) for text in variants)


def _listed(blocks: tuple[Variant, ...]) -> str:
    return " and ".join(str(variant) or "plain" for variant in dict.fromkeys(blocks))


def device_of(inputs: Mapping[str, Tensor]) -> torch.device:
    """The device that a batch lies on."""
    return next(iter(inputs.values())).device


# -- blocks --------------------------------------------------------------------------------------------------------


class BlockSizes(NamedTuple):
    """What a block computes, in numbers: MACs a token of either half's linear layers, and the width of all heads."""

    attention: int
    mlp: int
    inner: int


def block_sizes(encoder: Encoder, layer: int, width: int) -> BlockSizes:
    """The numbers of a block of a model of that width, read off its own modules.

    The linear layers of the attention half are those around the attention core; all others are the MLP's.
    """
    attention, mlp = _halves(encoder, layer)
    # the last projection of an attention brings all heads back to the width
    inner = next((m.in_features for m in reversed(attention) if m.out_features == width), width)
    return BlockSizes(sum(m.weight.numel() for m in attention), sum(m.weight.numel() for m in mlp), inner)


def block_variants(encoder: Encoder, width: int) -> tuple[Variant, ...]:
    """The variant of every block of a model of that width."""
    first = _mlp_units(encoder, 0, width)[0]
    return tuple(
        Variant(_attention_variant(encoder, layer, width), _mlp_variant(encoder, layer, width, first))
        for layer in range(encoder.depth)
    )


def _halves(encoder: Encoder, layer: int) -> tuple[list[nn.Linear], list[nn.Linear]]:
    """The linear layers of a block's attention half, and those of its MLP half."""
    block, path = encoder.blocks[layer], encoder.family.layout.core.split(".")
    around = block.get_submodule(".".join(path[:-1] or path))
    attention = [m for m in around.modules() if isinstance(m, nn.Linear)]
    inside = set(attention)
    return attention, [m for m in block.modules() if isinstance(m, nn.Linear) and m not in inside]


def _attention_variant(encoder: Encoder, layer: int, width: int) -> str:
    heads, sizes, words = int(encoder.sizes.num_attention_heads), block_sizes(encoder, layer, width), []
    window = getattr(encoder.cores[layer], "sliding_window", None)
    if window:
        words.append(f"window{window}")
    if sizes.inner != width:
        words.append(f"inner{sizes.inner}")
    # queries and the output take `width x inner` each, keys and values a share of that by their heads
    kv = heads * (sizes.attention / (width * sizes.inner) - 2) / 2
    if abs(kv - heads) > 2 * _NEAR * heads:
        grouped = 1 <= kv < heads and kv == round(kv)
        words.append(f"kv{round(kv)}" if grouped else f"w{sizes.attention}")
    return "-".join(words)


def _mlp_units(encoder: Encoder, layer: int, width: int) -> tuple[int, int]:
    """Hidden units of an MLP, and how many layers lead to them: 2 where one gates the other."""
    mlp = _halves(encoder, layer)[1]
    into = sum(m.out_features for m in mlp if m.in_features == width)
    out = sum(m.in_features for m in mlp if m.out_features == width)
    weights = sum(m.weight.numel() for m in mlp)
    ways = 2 if into == 2 * out and weights == 3 * width * out else 1
    return weights // ((1 + ways) * width), ways


def _mlp_variant(encoder: Encoder, layer: int, width: int, first: int) -> str:
    """`first`: hidden units of the first block's."""
    units, ways = _mlp_units(encoder, layer, width)
    if ways == 2:
        return f"glu{units}"
    weights = block_sizes(encoder, layer, width).mlp
    if weights != 2 * width * units:
        return f"w{weights}"
    return "" if units == first else f"mlp{units}"


def sizes_of(shape: Shape) -> Iterator[BlockSizes]:
    """The numbers of every block, from what a table says of its model."""
    for variant in shape.blocks:
        attention, mlp = _numbers(variant.attention), _numbers(variant.mlp)
        inner = attention.get("inner", shape.width)
        keys = inner * attention.get("kv", shape.heads) // shape.heads
        projections = attention.get("w", 2 * shape.width * (inner + keys))
        rank = attention.get("rank")
        if rank is not None:
            projections = rank * 2 * (2 * shape.width + inner + keys)
        heads = attention.get("heads", 0 if "none" in attention else shape.heads)
        hidden = mlp.get("glu", mlp.get("mlp", shape.mlp_width))
        layers = 3 if "glu" in mlp else 2
        products = mlp.get("w", layers * shape.width * hidden)
        rank = mlp.get("rank")
        if rank is not None:
            products = rank * layers * (shape.width + hidden)
        if "glu" in mlp and "mlp" in mlp:  # some of its hidden units
            products = products * mlp["mlp"] // hidden
        yield BlockSizes(
            projections * heads // shape.heads, 0 if "none" in mlp else products, inner * heads // shape.heads
        )


def _numbers(half: str) -> dict[str, int]:
    return {word: int(number or 0) for word, number in re.findall(r"([a-z]+)(\d*)", half)}


# -- conditions ----------------------------------------------------------------------------------------------------

_ACTIVATIONS = ("hidden_act", "activation", "activation_function", "hidden_activation", "dense_act_fn")


def conditions_of(
    handle: Handle, inputs: Mapping[str, Tensor], tokens: int, mode: str = "eager", concurrency: int = 1
) -> dict[str, Any]:
    """The conditions that a latency holds under, for `CostTable.check_conditions`."""
    base, device = handle.encoder.base, device_of(inputs)
    return {
        "batch_size": len(next(iter(inputs.values()))),
        "dtype": str(next(base.parameters()).dtype).removeprefix("torch."),
        "attention": str(base.config._attn_implementation).removeprefix("prunesearch_"),
        "mode": mode,
        "concurrency": concurrency,
        **process_conditions(device),
        "tokens": tokens,
        "device": device.type,
    }


def describe_shape(model: nn.Module, handle: Handle, inputs: Mapping[str, Tensor]) -> Shape:
    """The shape of `model` as it runs on `inputs`; runs one forward."""
    front: list[Tensor] = []
    with torch.inference_mode(), handle.observing() as hidden:
        if handle.tower is None:
            model(**inputs)
        else:
            with handle.tower.observing() as front:
                model(**inputs)
    tower = None
    if handle.tower is not None:
        seen, rows = handle.tower.encoder, len(next(iter(inputs.values())))
        facts = _facts(seen, front[0], seen.protected)
        tower = TowerShape(**facts, pictures=len(front[0]) // rows, reach=handle.encoder.reach)
    return Shape(**_facts(handle.encoder, hidden[0], handle.encoder.protected_in(inputs)), tower=tower)


def _facts(encoder: Encoder, entering: Tensor, protected: int) -> dict[str, Any]:
    """The fields of the shape of an encoder whose first block is given `entering` `[batch, tokens, width]`."""
    _, tokens, width = entering.shape
    variants = block_variants(encoder, width)
    return {
        "family": encoder.family.model_type,
        "kind": encoder.family.layout.kind,
        "depth": encoder.depth,
        "tokens": tokens,
        "protected": protected,
        "width": width,
        "heads": encoder.sizes.num_attention_heads,
        "mlp_width": _mlp_units(encoder, 0, width)[0],
        "activation": str(_setting(encoder.sizes, *_ACTIVATIONS)),
        "variants": () if set(variants) == {PLAIN} else tuple(str(variant) for variant in variants),
        "part": encoder.family.part,
    }


def _setting(config: Any, *names: str) -> Any:
    """The first of `names` that a model's configuration has."""
    return next(getattr(config, name) for name in names if hasattr(config, name))
