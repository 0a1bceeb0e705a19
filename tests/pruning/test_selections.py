"""Selections against their definitions, written with loops, one row at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings

import prunesearch as ps
from prunesearch.core.plans.stage import Stage
from prunesearch.core.tables.token_tables import SELECTIONS
from prunesearch.pruning.selections.base import SelectionInput
from tests.support import reference as ref
from tests.support.small_models import build, inputs_of, last_hidden, rows
from tests.support.states import Shape, State, defaults, make_state, shapes

PADDED = Shape(3, 20, (20, 13, 7), 2, 1, 1, 0.6, 0.34, "broken", False, False)
LEFT = Shape(4, 12, (12, 5, 3), 2, 1, 0, 1.0, 0.5, "one", False, True)
PLAIN = Shape(5, 17, (17, 17), 3, 1, 0, 1.0, 0.5, "one", False, False)


def max_min(keys: np.ndarray, score: list[float], count: int) -> list[int]:
    """The farthest from its neighbour, then always the one farthest from all that were taken."""
    n = len(keys)
    apart = [[1 - ref.cosine(keys[i], keys[j]) for j in range(n)] for i in range(n)]
    taken = [max(range(n), key=lambda i: min((apart[i][j] for j in range(n) if j != i), default=0.0))]
    while len(taken) < count:
        taken.append(max((i for i in range(n) if i not in taken), key=lambda i: min(apart[i][j] for j in taken)))
    return taken[:count]


def determinant(keys: np.ndarray, score: list[float], count: int) -> list[int]:
    """The token that makes the determinant of what was taken largest, by the determinant itself."""
    n, spread = len(keys), max(score) - min(score)
    r = [(s - min(score)) / spread if spread else 0.0 for s in score]
    kernel = np.array([[r[i] * ref.cosine(keys[i], keys[j]) * r[j] for j in range(n)] for i in range(n)])
    taken: list[int] = []
    for _ in range(count):
        rest = [i for i in range(n) if i not in taken]
        taken.append(max(rest, key=lambda i: np.linalg.det(kernel[np.ix_([*taken, i], [*taken, i])])))
    return taken


DEFINED = {"diversity": max_min, "dpp": determinant}


def least_like_pivots(row: list[ref.Token], heads: ref.Heads, score: list[float], count: int) -> set[int]:
    """DART: four pivots by score, four of the protected tokens by the L1 norm of their keys; what is left of the count
    is shared among them, and each takes what is least like it of what is there."""
    keys = ref.mean_keys(heads)
    norm = [sum(abs(float(c)) for head in heads.key for c in head[i]) for i in range(len(row))]
    pool = [i for i, token in enumerate(row) if not token.protected]
    pivots = sorted(pool, key=lambda i: -score[i])[: min(4, count)]
    text = sorted((i for i, token in enumerate(row) if token.protected), key=lambda i: -norm[i])[:4]
    taken = set(pivots)
    left, parts = count - len(pivots), len(pivots) + len(text)
    for turn, pivot in enumerate([*pivots, *text]):
        mine = left // parts + (turn < left % parts)
        rest = sorted((i for i in pool if i not in taken), key=lambda i: ref.cosine(keys[pivot], keys[i]))
        taken |= set(rest[:mine])
    return taken


def select(name: str, state: State, score: torch.Tensor) -> torch.Tensor:
    """Bool `[batch, n]`: what stays."""
    keep = state.shape.keep
    asked = state.tokens.width_after(keep), defaults(SELECTIONS)
    given_ = SelectionInput(state.tokens, state.view, score, keep, *asked)
    chosen = SELECTIONS.load(name)(given_)
    assert torch.equal(chosen.best[:, -1], score.gather(1, chosen.ranking)[:, -1])
    there = torch.ones_like(chosen.kept, dtype=torch.bool) if chosen.occupied is None else chosen.occupied
    stays = torch.zeros_like(score, dtype=torch.bool)
    for row, (kept, occupied) in enumerate(zip(chosen.kept, there, strict=True)):
        stays[row, kept[occupied]] = True
    return stays


@pytest.mark.parametrize("name", list(DEFINED))
@settings(max_examples=25, deadline=None)
@given(shape=shapes())
@example(shape=PADDED)
@example(shape=LEFT)
@example(shape=PLAIN)
def test_it_takes_what_its_definition_takes(name: str, shape: Shape) -> None:
    state = make_state(shape)
    assume(state.reduces)
    score = torch.rand(state.tokens.protected.shape, generator=torch.Generator().manual_seed(shape.seed)).double()
    stays = select(name, state, score)
    for b, (row, heads, site) in enumerate(zip(state.rows, state.heads, state.sites, strict=True)):
        where = [p for p, token in zip(state.places[b], row, strict=True) if not token.protected]
        keys = [key for key, token in zip(ref.mean_keys(heads), row, strict=True) if not token.protected]
        count = ref.count(site.keep, site.start)
        # keys have 4 numbers: five of them or more span nothing new, and which comes next is rounding
        if not where or (name == "dpp" and count > 4):
            continue
        want = {where[i] for i in DEFINED[name](np.array(keys), score[b, where].tolist(), count)}
        assert {p for p in where if stays[b, p]} == want
        protected = [p for p, token in zip(state.places[b], row, strict=True) if token.protected]
        assert stays[b, protected].all()
        assert int(stays[b].sum()) == len(want) + len(protected)


@settings(max_examples=40, deadline=None)
@given(shape=shapes())
@example(shape=PADDED)
@example(shape=LEFT)
@example(shape=PLAIN)
def test_duplication_takes_what_is_least_like_its_pivots(shape: Shape) -> None:
    state = make_state(shape)
    assume(state.reduces)
    score = torch.rand(state.tokens.protected.shape, generator=torch.Generator().manual_seed(shape.seed)).double()
    stays = select("duplication", state, score)
    for b, (row, heads, site) in enumerate(zip(state.rows, state.heads, state.sites, strict=True)):
        where, count = state.places[b], ref.count(site.keep, site.start)
        taken = least_like_pivots(row, heads, score[b, where].tolist(), count)
        protected = {i for i, token in enumerate(row) if token.protected}
        assert {p for p in where if stays[b, p]} == {where[i] for i in taken | protected}
        assert int(stays[b].sum()) == count + len(protected)


@pytest.mark.parametrize("name", [name for name in SELECTIONS if not SELECTIONS.entry(name).frames])
@pytest.mark.parametrize("merge", ["drop", "fuse", "nearest", "contextual"])
def test_in_a_model_a_row_alone_equals_the_row_in_a_batch(name: str, merge: str) -> None:
    model, inputs = build("bert", dtype=torch.float64), inputs_of("bert", dtype=torch.float64)
    schedule = ps.Schedule([Stage(0, 0.8, "value_norm", merge, name), Stage(2, 0.35, "value_norm", merge, name)])
    with ps.apply_(model, schedule) as handle, torch.no_grad():
        together, tokens = last_hidden(model, inputs), handle.tokens
        assert tokens is not None
        assert tokens.valid is not None
        for b in range(len(together)):
            alone = last_hidden(model, rows(inputs, b))[0]
            torch.testing.assert_close(alone, together[b, tokens.valid[b]], rtol=1e-9, atol=1e-9)


def test_more_than_the_keys_span_is_still_taken() -> None:
    shape = Shape(7, 30, (30, 30), 1, 1, 0, 1.0, 0.8, "one", False, False)
    state = make_state(shape)  # 24 of 29, of four numbers each
    stays = select("dpp", state, torch.rand(2, 30).double())
    assert stays.sum(1).tolist() == [25, 25]


def test_twins_go_first() -> None:
    """Of two alike one stays, whichever the scorer likes: of so few that the keys, of four numbers each, can tell."""
    state = make_state(replace(PLAIN, keep=0.2))
    for part in (state.view.key,):
        part[:, :, 9] = part[:, :, 4]
    for name in DEFINED:
        stays = select(name, state, torch.ones(2, 17).double() + torch.rand(2, 17))
        assert not (stays[:, 4] & stays[:, 9]).any()
