"""Random states in the middle of a forward, for the tests of scorers and merges: as tensors and as plain rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from prunesearch.core.tables.names import Registry
from prunesearch.core.tables.token_tables import MERGES, SCORERS
from prunesearch.pruning.attention import AttentionView
from prunesearch.pruning.forward.tokens import Tokens
from prunesearch.pruning.merges.base import MergeInput
from prunesearch.pruning.scorers.base import ScorerInput
from prunesearch.pruning.selections.base import SelectionInput
from prunesearch.pruning.selections.top_k import top_k
from tests.support import reference as ref

KEEPS = (1.0, 0.93, 0.8, 0.75, 0.6, 0.5, 0.34, 0.2, 0.07)


@dataclass(frozen=True)
class Shape:
    """What hypothesis draws."""

    seed: int
    width: int  # at the start, padding included
    lengths: tuple[int, ...]  # of the rows at the start
    heads: int
    leading: int
    trailing: int
    before: float
    keep: float
    sizes: str  # one, whole, broken
    masked: bool  # a mask even where nothing is padded
    left: bool  # padding on the left (first stage only)


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    leading, trailing = draw(st.integers(0, 2)), draw(st.integers(0, 1))
    width = draw(st.integers(max(3, leading + trailing + 1), 24))
    batch = draw(st.integers(1, 3))
    lengths = tuple(draw(st.integers(max(1, leading + trailing), width)) for _ in range(batch))
    if draw(st.booleans()):  # no padding
        lengths = (width,) * batch
    place = draw(st.integers(0, len(KEEPS) - 2))
    return Shape(
        seed=draw(st.integers(0, 10_000)),
        width=width,
        lengths=lengths,
        heads=draw(st.integers(1, 3)),
        leading=leading,
        trailing=trailing,
        before=KEEPS[place],
        keep=draw(st.sampled_from(KEEPS[place + 1 :])),
        sizes=draw(st.sampled_from(["one", "whole", "broken"])),
        masked=draw(st.booleans()),
        left=draw(st.booleans()),
    )


def defaults(table: Registry[Any]) -> dict[str, float]:
    """The default of every parameter of every row of `SCORERS` or `MERGES`."""
    rows = (table.entry(name).params for name in table)
    return {name: param.default for row in rows for name, param in row.items()}


@dataclass
class State:
    """A batch before a stage: tensors, and per row the reference's tokens, heads and site."""

    shape: Shape
    tokens: Tokens
    x: Tensor
    view: AttentionView
    rows: list[list[ref.Token]]
    heads: list[ref.Heads]
    sites: list[ref.Site]
    places: list[list[int]]  # where each row's tokens are in the tensors

    def scorer_input(self, layer: int = 1, depth: int = 4, seed: int = 5, cls: int | None = 0) -> ScorerInput:
        shape = self.shape
        for site in self.sites:
            site.layer, site.depth, site.seed, site.cls = layer, depth, seed, cls
        return ScorerInput(self.view, self.tokens, shape.keep, layer, depth, seed, cls, defaults(SCORERS))

    def merge_input(self, score: Tensor | None, *, in_order: bool = True) -> MergeInput:
        shape = self.shape
        for site in self.sites:
            site.in_order = in_order
        n_out = self.tokens.width_after(shape.keep)
        chosen = None
        if score is not None:
            chosen = top_k(SelectionInput(self.tokens, self.view, score, shape.keep, n_out, {}, in_order))
        keeps = shape.keep, shape.before, n_out
        return MergeInput(self.tokens, self.view, score, chosen, *keeps, defaults(MERGES), in_order)

    @property
    def reduces(self) -> bool:
        """True if some row has something to give."""
        return any(ref.count(s.keep, s.start) < ref.count(s.keep_before, s.start) for s in self.sites)


def make_state(shape: Shape) -> State:
    rng = np.random.default_rng(shape.seed)
    protected_count, batch, head_dim = shape.leading + shape.trailing, len(shape.lengths), 4
    starts = [length - protected_count for length in shape.lengths]
    lengths = [protected_count + ref.count(shape.before, s) for s in starts]
    n = protected_count + ref.count(shape.before, shape.width - protected_count)
    left = shape.left and shape.before == 1.0
    places = [list(range(n - m, n)) if left else list(range(m)) for m in lengths]
    # whatever sits on padding must not matter, so it is loud
    x, q, k, v = (20 * rng.standard_normal((batch, n, shape.heads, head_dim)) for _ in range(4))
    size, protected, valid = np.zeros((batch, n)), np.zeros((batch, n), bool), np.zeros((batch, n), bool)
    rows, heads = [], []
    for b, where in enumerate(places):
        row = ref.start_row([], 0, 0)
        for i, p in enumerate(where):
            x[b, p], q[b, p], k[b, p], v[b, p] = rng.standard_normal((4, shape.heads, head_dim))
            protected[b, p] = i < shape.leading or i >= len(where) - shape.trailing
            drawn = {"one": 1.0, "whole": float(rng.integers(1, 5)), "broken": 1 + rng.random()}[shape.sizes]
            size[b, p], valid[b, p] = (1.0 if protected[b, p] else drawn), True
            row.append(ref.Token(x[b, p].reshape(-1), size[b, p], bool(protected[b, p]), {p: 1.0}, p))
        rows.append(row)
        tables = [[[t[b, p, h] for p in where] for h in range(shape.heads)] for t in (q, k, v)]
        heads.append(ref.Heads(*tables, scaling=head_dim**-0.5))
    padded = shape.masked or any(length < shape.width for length in shape.lengths)
    tokens = Tokens(
        n=n,
        n_start=shape.width,
        leading=shape.leading,
        trailing=shape.trailing,
        marks=torch.tensor(protected),
        size=None if shape.sizes == "one" else torch.tensor(size),
        valid=torch.tensor(valid) if padded else None,
        row_start=torch.tensor(shape.lengths) if padded else None,
    )
    q, k, v = (torch.tensor(t).transpose(1, 2) for t in (q, k, v))
    mask = tokens.attention_mask(torch.float64, additive=bool(shape.seed % 2))
    view = AttentionView(q, k, v, mask, head_dim**-0.5, None)
    sites = [ref.Site(shape.keep, shape.before, s) for s in starts]
    return State(shape, tokens, torch.tensor(x).reshape(batch, n, -1), view, rows, heads, sites, places)
