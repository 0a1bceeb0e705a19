"""A decoder that reads pictures, slowly: one row, no cache, no padding; every step anew, tokens in a list.

Nothing of `prunesearch` is used, and of transformers only the weights. What leaves is decided once, on the prompt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor


@dataclass
class Item:
    """A token: its features, its positions (three where text and pictures differ), and where it was in the row."""

    x: Tensor
    position: tuple[int, ...]
    picture: bool
    place: int


@dataclass
class Row:
    """A prompt as its decoder is given it, and which places have left before each block, once that is decided."""

    embeddings: Tensor  # [n, width]
    positions: list[tuple[int, ...]]
    picture: list[bool]
    both_ways: bool = False  # tokens of the prompt see each other, whichever comes first
    later: list[dict[int, Tensor]] = field(default_factory=list)  # added behind each of the first blocks, by place
    gone: dict[int, set[int]] = field(default_factory=dict)
    groups: dict[int, dict[int, list[int]]] = field(default_factory=dict)  # places that become one, by the earliest

    @property
    def n(self) -> int:
        return len(self.picture)


@dataclass(frozen=True)
class Leave:
    """A stage: `first` is the first block with fewer tokens; before block 0 for one at the input."""

    first: int
    keep: float
    scorer: str
    merge: str = "drop"


class Decoder:
    """The blocks, by the weights of a text model of the Llama kind."""

    def __init__(self, text: Any, head: Tensor) -> None:
        self.weights = {k: v.detach() for k, v in text.state_dict().items()}
        self.config, self.head = text.config, head.detach()
        self.heads, self.kv = self.config.num_attention_heads, self.config.num_key_value_heads
        self.width = getattr(self.config, "head_dim", None) or self.config.hidden_size // self.heads

    def answer(self, row: Row, stages: list[Leave], count: int) -> list[int]:
        """`count` tokens, each the likeliest."""
        said: list[int] = []
        for _ in range(count):
            said.append(int(self.logits(row, stages, said)[:93].argmax()))
        return said

    def logits(self, row: Row, stages: list[Leave], said: list[int]) -> Tensor:
        """Of what follows the row and what was said since; places of `row.gone` that are not decided yet are."""
        table = self.weights["embed_tokens.weight"]
        items = [Item(row.embeddings[i], row.positions[i], row.picture[i], i) for i in range(row.n)]
        last = row.positions[-1]
        for i, token in enumerate(said):
            items.append(Item(self._embedded(table[token]), tuple(p + 1 + i for p in last), False, row.n + i))
        items = self._leave(items, 0, row, stages, None)
        for block in range(self.config.num_hidden_layers):
            items = self._block(items, block, row, stages)
        x = self._norm(items[-1].x, "norm.weight")
        return self.head @ x

    def _embedded(self, x: Tensor) -> Tensor:
        return x * torch.tensor(self.config.hidden_size**0.5, dtype=x.dtype) if self.config.model_type == "gemma" else x

    def _leave(self, items: list[Item], first: int, row: Row, stages: list[Leave], seen: Any) -> list[Item]:
        stage = next((s for s in stages if s.first == first), None)
        if stage is None:
            return items
        if first not in row.gone:
            pictures = [i for i, item in enumerate(items) if item.picture]
            total = sum(row.picture)
            scores = SCORERS[stage.scorer](items, pictures, row, seen)
            ranked = sorted(range(len(pictures)), key=lambda j: -scores[j])
            kept = math.ceil(Fraction(repr(stage.keep)) * total)
            row.gone[first] = {items[pictures[j]].place for j in ranked[kept:]}
            if stage.merge == "contextual":
                groups = _contextual(items, pictures, ranked[:kept], seen)
                row.groups[first] = {min(places): places for places in groups}
                row.gone[first] = {place for places in groups for place in places if place != min(places)}
        by_place = {item.place: item for item in items}
        left = [item for item in items if item.place not in row.gone[first]]
        for item in left:
            members = row.groups.get(first, {}).get(item.place, [])
            if len(members) > 1:
                item.x = torch.stack([by_place[place].x for place in members]).mean(0)
        return left

    def _block(self, items: list[Item], block: int, row: Row, stages: list[Leave]) -> list[Item]:
        w, at = self.weights, f"layers.{block}."
        normed = [self._norm(item.x, at + "input_layernorm.weight") for item in items]
        heads = [self._project(x, at + "self_attn.", item.position) for x, item in zip(normed, items, strict=True)]
        keys, values = torch.stack([k for _, k, _ in heads]), torch.stack([v for _, _, v in heads])
        shares: list[list[Tensor]] = []  # of each query, of each head, over the keys up to it
        out: list[Item] = []
        for i, item in enumerate(items):
            parts, mine = [], []
            seen = i + 1
            if row.both_ways and item.place < row.n:
                seen = sum(other.place < row.n for other in items)
            for h in range(self.heads):
                g = h // (self.heads // self.kv)
                share = (keys[:seen, g] @ heads[i][0][h] / math.sqrt(self.width)).softmax(0)
                mine.append(share)
                parts.append(share @ values[:seen, g])
            shares.append(mine)
            y = w[at + "self_attn.o_proj.weight"] @ torch.cat(parts)
            bias = w.get(at + "self_attn.o_proj.bias")
            out.append(Item(item.x + (y if bias is None else y + bias), item.position, item.picture, item.place))
        left = self._leave(out, block + 1, row, stages, (shares, heads))
        fed = [self._feed(item, at) for item in left]
        added = row.later[block] if block < len(row.later) else {}
        for item in fed:
            if item.place in added:
                item.x = item.x + added[item.place]
        return fed

    def _project(self, x: Tensor, at: str, position: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        parts = []
        for name, norm in (("q_proj", "q_norm"), ("k_proj", "k_norm"), ("v_proj", None)):
            y = self.weights[f"{at}{name}.weight"] @ x
            bias = self.weights.get(f"{at}{name}.bias")
            y = (y if bias is None else y + bias).view(-1, self.width)
            if norm is not None and f"{at}{norm}.weight" in self.weights:
                y = torch.stack([self._norm(v, f"{at}{norm}.weight") for v in y])
            parts.append(y if norm is None else torch.stack([self._turn(v, position) for v in y]))
        return parts[0], parts[1], parts[2]

    def _turn(self, v: Tensor, position: tuple[int, ...]) -> Tensor:
        """Rotary position: pair i of `width / 2` turns by position / theta^(2i / width)."""
        half, rope = self.width // 2, self.config.rope_parameters
        out = v.clone()
        for i in range(half):
            which = 0
            if len(position) > 1:
                sections = rope["mrope_section"]
                if rope.get("mrope_interleaved"):
                    which = i % 3 if i < 3 * sections[i % 3] else 0
                else:
                    which = next(s for s in range(3) if i < sum(sections[: s + 1]))
            # transformers keeps the frequencies in single precision
            frequency = float(1.0 / (rope["rope_theta"] ** torch.tensor(2 * i / self.width, dtype=torch.float32)))
            angle = torch.tensor(position[which] * frequency, dtype=torch.float32)
            c, s = float(angle.cos()), float(angle.sin())
            out[i] = v[i] * c - v[i + half] * s
            out[i + half] = v[i + half] * c + v[i] * s
        return out

    def _norm(self, x: Tensor, name: str) -> Tensor:
        wide = x.float()  # as transformers does, whatever the weights are
        y = wide / math.sqrt(float((wide**2).mean()) + self.config.rms_norm_eps)
        if self.config.model_type == "gemma":  # its weights are around 0
            return (y * (1 + self.weights[name].float())).to(x.dtype)
        return self.weights[name] * y.to(x.dtype)

    def _feed(self, item: Item, at: str) -> Item:
        w, y = self.weights, self._norm(item.x, at + "post_attention_layernorm.weight")
        gate, up = w[at + "mlp.gate_proj.weight"] @ y, w[at + "mlp.up_proj.weight"] @ y
        act = gate * torch.sigmoid(gate)
        if self.config.model_type == "gemma":
            act = gate * (1 + torch.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3))) / 2
        y = w[at + "mlp.down_proj.weight"] @ (act * up)
        return Item(item.x + y, item.position, item.picture, item.place)


def _contextual(items: list[Item], pictures: list[int], kept: list[int], seen: Any) -> list[list[int]]:
    """VisionZip's groups, as places: of what is not dominant, around every so many-th of it; 10 of 64 that stay."""
    count = max(1, math.floor(0.15625 * len(kept) + 0.5))
    rest = sorted(pictures[j] for j in range(len(pictures)) if j not in kept[: len(kept) - count])
    keys = {i: (items[i].x if seen is None else seen[1][i][1].mean(0)) for i in rest}
    targets = rest[:: max(1, len(rest) // count)][:count]
    groups = {t: [t] for t in targets}
    for i in rest:
        if i not in targets:
            cosine = [float(torch.nn.functional.cosine_similarity(keys[i], keys[t], dim=0)) for t in targets]
            groups[targets[cosine.index(max(cosine))]].append(i)
    return [[items[i].place for i in group] for group in groups.values()]


# -- scores of the pictures' tokens `pictures`, by their index among `items` ---------------------------------------


def text_attention(items: list[Item], pictures: list[int], row: Row, seen: Any) -> list[float]:
    shares, _ = seen
    asked = max(i for i, item in enumerate(items) if item.place < row.n)
    return [float(sum(head[j] for head in shares[asked])) for j in pictures]


def text_attention_mean(items: list[Item], pictures: list[int], row: Row, seen: Any) -> list[float]:
    shares, _ = seen
    asks = [i for i, item in enumerate(items) if not item.picture and item.place < row.n]
    return [float(sum(head[j] for i in asks if j < len(shares[i][0]) for head in shares[i])) for j in pictures]


def key_norm(items: list[Item], pictures: list[int], row: Row, seen: Any) -> list[float]:
    if seen is None:
        return [float(items[j].x.abs().sum()) for j in pictures]
    return [float(seen[1][j][1].abs().sum()) for j in pictures]


def position(items: list[Item], pictures: list[int], row: Row, seen: Any) -> list[float]:
    return [-float(j) for j in range(len(pictures))]


SCORERS = {f.__name__: f for f in (text_attention, text_attention_mean, key_norm, position)}
