"""The encoders of all families again, slowly: one row at a time, places and biases pair by pair, in Python loops.

Nothing of `prunesearch` is used. `Maths` says what a block of a family computes; `blocks_of` where its weights are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.support import reference as ref
from tests.support.reference import Stage, Token, Vector

Weights = dict[str, Vector]


@dataclass(frozen=True)
class Maths:
    """A block: names of its parts, where its norms are, and what its attention knows of places.

    `bias(model, weights, layer, head, query, key)` is added to a logit; `turn(model, layer, vector, place)` is done to
    queries and keys; `beside(model, place)` is added to what queries and keys are made of. `head_norms` are those of
    each head's queries and keys; with `norm_on_branch`, a part's output is normalised before it is added.
    """

    qkv: tuple[str, str, str]
    out: str
    norms: tuple[str, str]
    mlp: tuple[str, str]
    pre_norm: bool
    act: str = "gelu"
    eps: float = 1e-5
    scales: tuple[str, str] | None = None
    cls: int | None = 0
    leading: int = 1
    trailing: int = 0
    scaling: float | None = None
    rms: bool = False
    gated: bool = False
    bias: Callable[[Model, Weights, int, int, Site, Site], float] | None = None
    turn: Callable[[Model, int, Vector, int], Vector] | None = None
    beside: Callable[[Model, int], Vector] | None = None
    between: Callable[[Model, int, int], Vector] | None = None
    adapter: bool = False
    head_norms: tuple[str, str] | None = None
    norm_on_branch: bool = False


@dataclass
class Model:
    """A model to be followed: its blocks' weights in the order of a forward, those around them, and its config."""

    maths: Maths
    blocks: list[Weights]
    around: Weights
    config: Any
    heads: int
    given: dict[str, Vector] = field(default_factory=dict)  # [place, width], of the row at hand


@dataclass
class Site:
    """A token in attention: its place, the features that attention is given, and its head vector."""

    place: int
    x: Vector
    vector: Vector


ACTS: dict[str, Callable[[float], float]] = {
    "gelu": lambda v: 0.5 * v * (1 + math.erf(v / math.sqrt(2))),
    "relu": lambda v: max(v, 0.0),
    "silu": lambda v: v / (1 + math.exp(-v)),
    "quick_gelu": lambda v: v / (1 + math.exp(-1.702 * v)),
    "gelu_tanh": lambda v: 0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))),
    "gelu_fast": lambda v: 0.5 * v * (1 + math.tanh(0.7978845608 * v * (1 + 0.044715 * v**2))),
}


def linear(weights: Weights, name: str, x: Vector) -> Vector:
    return weights[f"{name}.weight"] @ x + weights.get(f"{name}.bias", 0.0)


def norm(maths: Maths, weights: Weights, name: str, x: Vector) -> Vector:
    if f"{name}.weight" not in weights:  # an identity
        return x
    if maths.rms:
        return x / math.sqrt(float((x**2).mean()) + maths.eps) * weights[f"{name}.weight"]
    centred = x - x.mean()
    scaled = centred / math.sqrt(float((centred**2).mean()) + maths.eps) * weights[f"{name}.weight"]
    return scaled + weights.get(f"{name}.bias", 0.0)


def _split(x: Vector, heads: int) -> list[Vector]:
    width = len(x) // heads
    return [x[h * width : (h + 1) * width] for h in range(heads)]


def _projected(model: Model, weights: Weights, xs: list[Vector], places: list[int]) -> list[list[list[Vector]]]:
    """Queries, keys and values, `[which][head][token]`."""
    maths, tables = model.maths, []
    for which, name in enumerate(maths.qkv):
        if name.startswith("Wqkv:"):  # all three in one matrix
            flat = [np.split(linear(weights, name[5:], x), 3)[which] for x in xs]
        else:
            given = xs
            if maths.beside is not None and which < 2:
                given = [x + maths.beside(model, p) for x, p in zip(xs, places, strict=True)]
            flat = [linear(weights, name, x) for x in given]
        table = [[_split(f, model.heads)[h] for f in flat] for h in range(model.heads)]
        if maths.head_norms is not None and which < 2:
            table = [[norm(maths, weights, maths.head_norms[which], v) for v in head] for head in table]
        tables.append(table)
    return tables


def heads_of(model: Model, layer: int, row: list[Token]) -> ref.Heads:
    maths, weights = model.maths, model.blocks[layer]
    xs = [norm(maths, weights, maths.norms[0], t.x) if maths.pre_norm else t.x for t in row]
    query, key, value = _projected(model, weights, xs, [t.place for t in row])
    if maths.turn is not None:
        for table in (query, key):
            for h in range(model.heads):
                table[h] = [maths.turn(model, layer, v, t.place) for v, t in zip(table[h], row, strict=True)]
    scaling = len(query[0][0]) ** -0.5 if maths.scaling is None else maths.scaling
    bias = None
    if maths.bias is not None:
        bias = [
            [
                [
                    maths.bias(
                        model, weights, layer, h, Site(a.place, xs[i], query[h][i]), Site(b.place, xs[j], key[h][j])
                    )
                    for j, b in enumerate(row)
                ]
                for i, a in enumerate(row)
            ]
            for h in range(model.heads)
        ]
    return ref.Heads(query, key, value, scaling, bias)


def _joined(maths: Maths, weights: Weights, name: str, x: Vector, y: Vector) -> Vector:
    """What a part was given and what came out of it, and the norm where that comes last."""
    if maths.norm_on_branch:
        return x + norm(maths, weights, name, y)
    return x + y if maths.pre_norm else norm(maths, weights, name, x + y)


def _feed(model: Model, weights: Weights, x: Vector) -> Vector:
    maths, act = model.maths, ACTS[model.maths.act]
    y = norm(maths, weights, maths.norms[1], x) if maths.pre_norm else x
    y = linear(weights, maths.mlp[0], y)
    if maths.gated:
        y, gate = np.split(y, 2)
        y = np.array([act(v) for v in y]) * gate
    else:
        y = np.array([act(v) for v in y])
    y = linear(weights, maths.mlp[1], y)
    y = y if maths.scales is None else y * weights.get(maths.scales[1], 1.0)
    x = _joined(maths, weights, maths.norms[1], x, y)
    if maths.adapter:
        y = linear(weights, "adapter_layer.linear_1", norm(maths, weights, "adapter_layer.norm", x))
        x = x + linear(weights, "adapter_layer.linear_2", np.maximum(y, 0))
    return x


def run(model: Model, features: list[Vector], stages: list[Stage], seed: int = 0) -> list[Token]:
    """A row's tokens after the last block; `features` is what the first is given."""
    maths, depth = model.maths, len(model.blocks)
    row, before = ref.start_row(features, maths.leading, maths.trailing), 1.0
    start, by_layer = sum(not t.protected for t in row), {s[0]: s for s in stages}
    places_told = any((maths.bias, maths.turn, maths.beside, maths.between)) or maths.trailing > 0
    for layer, weights in enumerate(model.blocks):
        heads = heads_of(model, layer, row)
        moved = []
        for t, y in zip(row, ref.attend(heads, [t.size for t in row]), strict=True):
            y = linear(weights, maths.out, y)
            y = y if maths.scales is None else y * weights.get(maths.scales[0], 1.0)
            moved.append(replace(t, x=_joined(maths, weights, maths.norms[0], t.x, y)))
        row = moved
        if layer in by_layer:
            _, keep, scorer, merge = by_layer[layer]
            site = ref.Site(keep, before, start, layer, depth, seed, maths.cls, places_told)
            row, before = ref.reduce_row(row, heads, scorer, merge, site), keep
        row = [replace(t, x=_feed(model, weights, t.x)) for t in row]
        if maths.between is not None and layer < depth - 1:
            row = [replace(t, x=t.x + maths.between(model, layer, t.place)) for t in row]
    return row


# -- what attention knows of places ------------------------------------------------------------------


def log_bucket(distance: int, buckets: int, furthest: int) -> int:
    """Bucket of `key - query` (T5): half for either side, of which half are exact and half logarithmic."""
    side = buckets // 2
    base = side if distance > 0 else 0
    distance, exact = abs(distance), side // 2
    if distance < exact:
        return base + distance
    step = math.log(np.float32(distance / exact)) / math.log(furthest / exact) * (side - exact)
    return base + min(exact + int(step), side - 1)


def t5_bias(model: Model, _: Weights, layer: int, head: int, query: Site, key: Site) -> float:
    table = model.blocks[0]["layer.0.SelfAttention.relative_attention_bias.weight"]
    c = model.config
    bucket = log_bucket(key.place - query.place, c.relative_attention_num_buckets, c.relative_attention_max_distance)
    return float(table[bucket, head])


def mpnet_bias(model: Model, _: Weights, layer: int, head: int, query: Site, key: Site) -> float:
    table = model.around["encoder.relative_attention_bias.weight"]
    return float(table[log_bucket(key.place - query.place, 32, 128), head])


def wavlm_bias(model: Model, weights: Weights, layer: int, head: int, query: Site, key: Site) -> float:
    table = model.blocks[0]["attention.rel_attn_embed.weight"]
    bucket = log_bucket(key.place - query.place, model.config.num_buckets, model.config.max_bucket_distance)
    part = _split(query.x, model.heads)[head]
    a, b = (1 / (1 + math.exp(-v)) for v in linear(weights, "attention.gru_rel_pos_linear", part).reshape(2, 4).sum(1))
    gate = a * (b * float(weights["attention.gru_rel_pos_const"][0, head, 0, 0]) - 1) + 2
    return float(gate * table[bucket, head])


def beit_bias(model: Model, weights: Weights, layer: int, head: int, query: Site, key: Site) -> float:
    own = "relative_position_bias.relative_position_bias_table"
    shared = "shared_position_bias.relative_position_bias_table"
    table = weights[own] if own in weights else model.around[shared]
    side = model.config.image_size // model.config.patch_size
    if query.place == 0 or key.place == 0:
        index = len(table) - (1 if query.place == key.place else 3 if query.place == 0 else 2)
        return float(table[index, head])
    (y, x), (other_y, other_x) = divmod(query.place - 1, side), divmod(key.place - 1, side)
    return float(table[(y - other_y + side - 1) * (2 * side - 1) + x - other_x + side - 1, head])


def deberta_bias(model: Model, weights: Weights, layer: int, head: int, query: Site, key: Site) -> float:
    c, name = model.config, "attention.self"
    span = c.position_buckets if c.position_buckets > 0 else c.max_position_embeddings
    distance = query.place - key.place
    if c.position_buckets > 0 and abs(distance) > span // 2:
        mid = span // 2
        far = math.log(abs(distance) / mid) / math.log((c.max_position_embeddings - 1) / mid) * (mid - 1)
        distance = int(math.copysign(math.ceil(far) + mid, distance))
    where = min(max(distance + span, 0), 2 * span - 1)
    embedding = model.around["encoder.rel_embeddings.weight"][where]
    if c.norm_rel_ebd == "layer_norm":
        embedding = norm(model.maths, model.around, "encoder.LayerNorm", embedding)
    of_key, of_query = ("key_proj", "query_proj") if c.share_att_key else ("pos_key_proj", "pos_query_proj")
    to_place = _split(linear(weights, f"{name}.{of_key}", embedding), model.heads)[head]
    from_place = _split(linear(weights, f"{name}.{of_query}", embedding), model.heads)[head]
    return float(query.vector @ to_place + key.vector @ from_place) / math.sqrt(3 * len(to_place))


def causal(model: Model, _: Weights, layer: int, head: int, query: Site, key: Site) -> float:
    return 0.0 if key.place <= query.place else -math.inf


def window(model: Model, _: Weights, layer: int, head: int, query: Site, key: Site) -> float:
    near = layer % model.config.global_attn_every_n_layers == 0
    near = near or abs(query.place - key.place) <= model.config.local_attention // 2
    return 0.0 if near else -math.inf


def _turned(x: Vector, angles: Vector) -> Vector:
    half = len(x) // 2
    return x * np.cos(angles) + np.concatenate([-x[half:], x[:half]]) * np.sin(angles)


def modernbert_turn(model: Model, layer: int, x: Vector, place: int) -> Vector:
    everywhere = layer % model.config.global_attn_every_n_layers == 0
    theta = 160_000.0 if everywhere else 10_000.0
    speeds = np.array([theta ** (-2 * k / len(x)) for k in range(len(x) // 2)])
    return _turned(x, np.concatenate([speeds, speeds]) * place)


def dinov3_turn(model: Model, layer: int, x: Vector, place: int) -> Vector:
    c = model.config
    patch, side = place - 1 - c.num_register_tokens, c.image_size // c.patch_size
    if patch < 0:
        return x
    speeds = np.array([c.rope_theta ** (-4 * k / len(x)) for k in range(len(x) // 4)])
    y, x_place = ((v + 0.5) / side * 2 - 1 for v in divmod(patch, side))
    angles = 2 * math.pi * np.concatenate([y * speeds, x_place * speeds])
    return _turned(x, np.concatenate([angles, angles]))


def eva_turn(model: Model, layer: int, x: Vector, place: int) -> Vector:
    """EVA-02's pairs of neighbours: a quarter of the speeds for rows, then for columns, on a grid of 16 x 16."""
    if place == 0:
        return x
    out, quarter = np.array(x), len(x) // 4
    for axis, at in enumerate(divmod(place - 1, 4)):
        for k in range(quarter):
            angle = at / 4 * 16 * 10_000.0 ** (-k / quarter)
            i = 2 * (axis * quarter + k)
            out[i] = x[i] * math.cos(angle) - x[i + 1] * math.sin(angle)
            out[i + 1] = x[i + 1] * math.cos(angle) + x[i] * math.sin(angle)
    return out


def timm_dinov3_turn(model: Model, layer: int, x: Vector, place: int) -> Vector:
    config = SimpleNamespace(num_register_tokens=4, image_size=24, patch_size=6, rope_theta=100.0)
    return dinov3_turn(replace(model, config=config), layer, x, place)


def detr_beside(model: Model, place: int) -> Vector:
    return model.given["spatial_position_embeddings"][place]


def yolos_between(model: Model, layer: int, place: int) -> Vector:
    return model.around["encoder.interpolation.mid_position_embeddings"][layer, 0, place]
