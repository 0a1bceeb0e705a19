"""The definitions again, slowly: one row at a time, without padding, in Python loops over heads and tokens.

Nothing of `prunesearch` is used. A row is a list of `Token`s; padding does not exist here, so whatever equals this
cannot have counted it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

Vector = np.ndarray
Amount = float | tuple[str, float]  # a fraction, or `t` a score, `p` a share of the scores, `ats` a fraction to sample


@dataclass
class Token:
    """One token: features, how many inputs it stands for, the fraction of every input that it holds, and its place."""

    x: Vector
    size: float
    protected: bool
    source: dict[int, float]
    place: int


@dataclass
class Heads:
    """Queries, keys and values, each `[head][token]` -> vector; `bias` `[head][query][key]` is added to the logits."""

    query: list[list[Vector]]
    key: list[list[Vector]]
    value: list[list[Vector]]
    scaling: float
    bias: list[list[list[float]]] | None = None


@dataclass
class Site:
    """What a stage is told beside the tokens."""

    keep: Amount
    keep_before: Amount
    start: int  # reducible tokens of the row at the start
    layer: int = 0
    depth: int = 1
    seed: int = 0
    cls: int | None = 0
    in_order: bool = True  # else in the order that ToMe leaves them in


def count(keep: float, start: int) -> int:
    """`ceil(keep x start)` in exact arithmetic on the decimal that the user wrote."""
    return math.ceil(Fraction(repr(keep)) * start)


def start_row(features: list[Vector], leading: int, trailing: int) -> list[Token]:
    n = len(features)
    return [Token(x, 1.0, i < leading or i >= n - trailing, {i: 1.0}, i) for i, x in enumerate(features)]


# -- attention -----------------------------------------------------------------------------------------


def softmax(values: list[float]) -> list[float]:
    top = max(values)
    powers = [math.exp(v - top) for v in values]
    return [p / math.fsum(powers) for p in powers]


def probabilities(heads: Heads, sizes: list[float]) -> list[list[list[float]]]:
    """`[head][query][key]`, with log(size) added to the logits of every key."""
    out = []
    for h in range(len(heads.query)):
        table = []
        for i, q in enumerate(heads.query[h]):
            logits = []
            for j, k in enumerate(heads.key[h]):
                dot = math.fsum(float(a) * float(b) for a, b in zip(q, k, strict=True))
                extra = 0.0 if heads.bias is None else heads.bias[h][i][j]
                logits.append(dot * heads.scaling + math.log(sizes[j]) + extra)
            table.append(softmax(logits))
        out.append(table)
    return out


def attend(heads: Heads, sizes: list[float]) -> list[Vector]:
    """Attention output of every token, heads side by side."""
    weights, outputs = probabilities(heads, sizes), []
    for i in range(len(sizes)):
        parts = []
        for h in range(len(heads.query)):
            total = np.zeros_like(heads.value[h][0])
            for j, v in enumerate(heads.value[h]):
                total = total + weights[h][i][j] * v
            parts.append(total)
        outputs.append(np.concatenate(parts))
    return outputs


# -- scorers -------------------------------------------------------------------------------------------


def _places(row: list[Token]) -> list[int]:
    """Place of each token among the reducible ones; -1 for protected tokens."""
    places, seen = [], 0
    for token in row:
        places.append(-1 if token.protected else seen)
        seen += not token.protected
    return places


def cls_attention(row: list[Token], heads: Heads, site: Site) -> list[float]:
    if site.cls is None:
        return attention_received(row, heads, site)
    weights = probabilities(heads, [t.size for t in row])
    return [sum(w[site.cls][j] for w in weights) / len(weights) for j in range(len(row))]


def tower_cls_attention(row: list[Token], heads: Heads, site: Site) -> list[float]:
    return cls_attention(row, heads, site)  # an encoder is a tower itself


def attention_received(row: list[Token], heads: Heads, site: Site) -> list[float]:
    weights, n = probabilities(heads, [t.size for t in row]), len(row)
    return [sum(w[i][j] for w in weights for i in range(n)) / (len(weights) * n) for j in range(n)]


def attention_entropy(row: list[Token], heads: Heads, site: Site) -> list[float]:
    weights, scores = probabilities(heads, [t.size for t in row]), []
    for i in range(len(row)):
        entropy = [-sum(p * math.log(p) for p in w[i] if p > 0) for w in weights]
        scores.append(max(0.0, math.log(len(row)) - sum(entropy) / len(entropy)))
    return scores


def text_attention(row: list[Token], heads: Heads, site: Site) -> list[float]:
    weights = probabilities(heads, [t.size for t in row])
    return [sum(w[-1][j] for w in weights) / len(weights) for j in range(len(row))]


def text_attention_mean(row: list[Token], heads: Heads, site: Site) -> list[float]:
    weights, asks = probabilities(heads, [t.size for t in row]), [i for i, t in enumerate(row) if t.protected]
    return [sum(w[i][j] for w in weights for i in asks) / len(weights) / max(len(asks), 1) for j in range(len(row))]


def key_norm(row: list[Token], heads: Heads, site: Site) -> list[float]:
    return [sum(abs(float(c)) for k in heads.key for c in k[j]) for j in range(len(row))]


def value_norm(row: list[Token], heads: Heads, site: Site) -> list[float]:
    return [math.sqrt(sum(float(c) ** 2 for v in heads.value for c in v[j])) for j in range(len(row))]


def cls_attention_value(row: list[Token], heads: Heads, site: Site) -> list[float]:
    attention, norm = cls_attention(row, heads, site), value_norm(row, heads, site)
    return [a * v for a, v in zip(attention, norm, strict=True)]


def key_redundancy(row: list[Token], heads: Heads, site: Site) -> list[float]:
    keys = mean_keys(heads)
    margin = 0.9 * (1 - site.layer / max(site.depth - 1, 1))
    scores = []
    for i in range(len(row)):
        energies = []
        for j, other in enumerate(row):
            if not other.protected:
                above = cosine(keys[i], keys[j]) - margin
                energies.append(above if above > 0 else math.exp(above) - 1)
        scores.append(1 - sum(energies) / max(len(energies), 1))
    return scores


def position(row: list[Token], heads: Heads, site: Site) -> list[float]:
    places, total = _places(row), sum(not t.protected for t in row)
    return [1 - p / max(total, 1) for p in places]


def position_stride(row: list[Token], heads: Heads, site: Site) -> list[float]:
    """The tokens at floor(j x total / keep), rounded up, come first; among equals the earlier one."""
    places, total = _places(row), sum(not t.protected for t in row)
    keep = count(site.keep, site.start)
    chosen = {math.ceil(Fraction(j * total, keep)) for j in range(keep)} if keep else set()
    return [float(p in chosen) + (1 - p / max(total, 1)) / 2 for p in places]


def random(row: list[Token], heads: Heads, site: Site) -> list[float]:
    start = int(np.random.default_rng([site.seed, site.layer]).integers(0xFFFFFFFF // 2))
    scores = []
    for place in _places(row):
        x = start + max(place, 0)
        for _ in range(2):
            x = ((x >> 16) ^ x) * 0x45D9F3B % 2**32
        scores.append(((x >> 16) ^ x) / 2**32)
    return scores


SCORERS: dict[str, Callable[[list[Token], Heads, Site], list[float]]] = {
    f.__name__: f
    for f in (
        cls_attention,
        tower_cls_attention,
        attention_received,
        attention_entropy,
        text_attention,
        text_attention_mean,
        key_norm,
        value_norm,
        cls_attention_value,
        key_redundancy,
        position,
        position_stride,
        random,
    )
}


# -- merges --------------------------------------------------------------------------------------------


def mean_keys(heads: Heads) -> list[Vector]:
    """Keys averaged over heads."""
    n = len(heads.key[0])
    return [sum(k[j] for k in heads.key) / len(heads.key) for j in range(n)]


def cosine(a: Vector, b: Vector) -> float:
    dot = math.fsum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(math.fsum(float(x) ** 2 for x in a) * math.fsum(float(y) ** 2 for y in b))


def _blend(row: list[Token], shares: list[tuple[int, float, float]], onto: Token) -> Token:
    """One token out of (token, share of it, weight in the mean); it stays where `onto` is."""
    total = math.fsum(share * weight for _, share, weight in shares)
    x = np.zeros_like(row[0].x)
    source: dict[int, float] = {}
    for i, share, weight in shares:
        x = x + row[i].x * (share * weight / total)
        for origin, part in row[i].source.items():
            source[origin] = source.get(origin, 0.0) + part * share
    size = math.fsum(row[i].size * share for i, share, _ in shares)
    return replace(onto, x=x, size=size, source=source)


def _chosen(row: list[Token], score: list[float], site: Site) -> tuple[list[int], list[int], int]:
    """(kept, others, last of the kept by score) as token numbers; among equal scores the earlier token is better."""
    reducible = [i for i, t in enumerate(row) if not t.protected]
    ranked = sorted(reducible, key=lambda i: -score[i])
    ranked, n = _leaving(ranked, score, site)
    kept = sorted([i for i, t in enumerate(row) if t.protected] + ranked[:n])
    return kept, ranked[n:], ranked[min(n, len(ranked)) - 1] if ranked else -1


def _leaving(ranked: list[int], score: list[float], site: Site) -> tuple[list[int], int]:
    """The reducible tokens, those that stay first and each of the two the best first, and how many stay."""
    if isinstance(site.keep, float):
        return ranked, count(site.keep, site.start)
    kind, number = site.keep
    if kind == "t":
        return ranked, max(1, sum(score[i] >= number for i in ranked))
    total = sum(score[i] for i in ranked)
    if kind == "p":
        held, n = 0.0, 0
        while n < len(ranked) and (number == 1 or held < number * total or n == 0):
            held, n = held + score[ranked[n]], n + 1
        return ranked, n
    samples, taken = count(number, site.start), set()
    for k in range(samples):
        held = 0.0
        for i in sorted(ranked):
            held += score[i]
            if held >= (2 * k + 1) / (2 * samples) * total:
                taken.add(i)
                break
    return [*(i for i in ranked if i in taken), *(i for i in ranked if i not in taken)], len(taken)


def drop(row: list[Token], keys: list[Vector], score: list[float], site: Site) -> list[Token]:
    kept, _, _ = _chosen(row, score, site)
    return [row[i] for i in kept]


def fuse(row: list[Token], keys: list[Vector], score: list[float], site: Site) -> list[Token]:
    """The fused token is one of those that leave: all but the best n - 1 go into it."""
    kept, others, anchor = _chosen(row, score, site)
    if not others:
        return row
    group = sorted([anchor, *others])
    weights = [row[i].size * max(score[i], 0.0) for i in group]
    if sum(weights) == 0:
        weights = [row[i].size for i in group]
    fused = _blend(row, [(i, 1.0, w) for i, w in zip(group, weights, strict=True)], row[anchor])
    return [fused if i == anchor else row[i] for i in kept]


def nearest(row: list[Token], keys: list[Vector], score: list[float], site: Site) -> list[Token]:
    kept, others, _ = _chosen(row, score, site)
    inside: dict[int, list[int]] = {i: [i] for i in kept}
    for i in others:
        takers = [j for j in kept if not row[j].protected]
        inside[max(takers, key=lambda j: cosine(keys[i], keys[j]))].append(i)
    return [_blend(row, [(i, 1.0, row[i].size) for i in inside[j]], row[j]) for j in kept]


def soft(row: list[Token], keys: list[Vector], score: list[float], site: Site) -> list[Token]:
    kept, others, _ = _chosen(row, score, site)
    takers = [j for j in kept if not row[j].protected]
    inside: dict[int, list[tuple[int, float, float]]] = {j: [(j, 1.0, row[j].size)] for j in kept}
    for i in others:
        parts = softmax([cosine(keys[i], keys[j]) / 0.1 for j in takers])
        for j, share in zip(takers, parts, strict=True):
            inside[j].append((i, share, row[i].size))
    return [_blend(row, inside[j], row[j]) for j in kept]


def contextual(row: list[Token], keys: list[Vector], score: list[float], site: Site) -> list[Token]:
    """VisionZip: the dominant tokens, and means of the others around every so many-th of them (10 of 64)."""
    kept, _, _ = _chosen(row, score, site)
    ranked = sorted((i for i in kept if not row[i].protected), key=lambda i: -score[i])
    groups = min(max(1, math.floor(len(ranked) * 0.15625 + 0.5)), len(ranked))
    dominant = [i for i in kept if i not in ranked[len(ranked) - groups :]]
    rest = sorted(i for i in range(len(row)) if i not in dominant)
    step = max(1, len(rest) // groups)
    targets = rest[::step][:groups]
    inside = {t: [t] for t in targets}
    for i in rest:
        if i not in targets:
            inside[max(targets, key=lambda t: cosine(keys[i], keys[t]))].append(i)
    means = []
    for group in inside.values():
        first = row[min(group)]
        mean = _blend(row, [(i, 1.0, row[i].size) for i in group], first)
        means.append(replace(mean, size=first.size))
    return sorted([*(row[i] for i in dominant), *means], key=lambda token: token.place)


def bipartite(row: list[Token], keys: list[Vector], score: list[float], site: Site) -> list[Token]:
    """ToMe: tokens alternate, those at even places may go to their best match at an odd one.

    Out of order, what is left at even places comes before the odd ones; in order of their similarity, the highest
    first, if no protected token starts the row.
    """
    goal = count(site.keep, site.start)
    row, keys = list(row), list(keys)
    while sum(not t.protected for t in row) > goal:
        reducible = [i for i, t in enumerate(row) if not t.protected]
        givers, takers = [i for i in reducible if i % 2 == 0], [i for i in reducible if i % 2 == 1]
        match = {}
        for i in givers:
            best = max(takers, key=lambda j: cosine(keys[i], keys[j]))
            match[i] = (cosine(keys[i], keys[best]), best)
        spare = min(len(reducible) - goal, len(reducible) // 2)
        ranked = sorted(givers, key=lambda i: -match[i][0])
        gone, left = ranked[:spare], ranked[spare:]
        order = [j for j in range(len(row)) if j not in gone]
        if not site.in_order:
            start = [j for j in order if row[j].protected and j < min(reducible)]
            end = [j for j in order if row[j].protected and j > max(reducible)]
            order = [*start, *(sorted(left) if start else left), *takers, *end]
        new_row, new_keys = [], []
        for j in order:
            group = [j] + [i for i in gone if match[i][1] == j]
            new_row.append(_blend(row, [(i, 1.0, row[i].size) for i in group], row[j]))
            total = sum(row[i].size for i in group)
            new_keys.append(sum(keys[i] * (row[i].size / total) for i in group))
        row, keys = new_row, new_keys
    return row


def same_tokens(source: Vector, row: list[Token]) -> list[int]:
    """For each of the reference's tokens the place of the one that holds the same inputs.

    Args:
        source: `[tokens, inputs]` what each of the others holds.
        row: as many tokens, in any order.
    """
    want = np.zeros((len(row), source.shape[1]))
    for i, token in enumerate(row):
        for origin, part in token.source.items():
            want[i, origin] = part
    apart = np.abs(want[:, None] - source[None]).sum(-1)
    found = [int(j) for j in apart.argmin(1)]
    assert sorted(found) == list(range(len(row))), "two tokens hold the same"
    return found


MERGES: dict[str, Callable[[list[Token], list[Vector], list[float], Site], list[Token]]] = {
    f.__name__: f for f in (drop, fuse, nearest, soft, contextual, bipartite)
}


def reduce_row(row: list[Token], heads: Heads, scorer: str, merge: str, site: Site) -> list[Token]:
    """One stage, for one row. Nothing happens where nothing is to go."""
    reducible = [i for i, t in enumerate(row) if not t.protected]
    if isinstance(site.keep, float) and count(site.keep, site.start) >= len(reducible):
        return row
    score = SCORERS[scorer](row, heads, site)
    if not _chosen(row, score, site)[1]:
        return row
    return MERGES[merge](row, mean_keys(heads), score, site)


Stage = tuple[int, Amount, str, str]  # layer, keep, scorer, merge
