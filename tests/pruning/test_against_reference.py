"""Every scorer, every merge and their products equal the slow reference: fp64, masks, sizes, stages before."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, example, given, settings
from torch import Tensor

from prunesearch.core.tables.token_tables import MERGES, SCORERS
from prunesearch.pruning.forward.assignment import Assignment
from tests.support import reference as ref
from tests.support.states import Shape, State, make_state, shapes

TOLERANCE = 1e-9
PADDED = Shape(3, 20, (20, 13, 7), 2, 1, 1, 0.6, 0.34, "broken", False, False)
LEFT = Shape(4, 15, (15, 9, 4), 2, 2, 0, 1.0, 0.2, "whole", False, True)
PLAIN = Shape(5, 17, (17, 17), 3, 1, 0, 1.0, 0.5, "one", False, False)
# the longest row has nothing to give (7 of 10, then 6.5 of 10), a shorter one has (3 of 3, then 2 of 3)
ONLY_SHORT_ROWS = Shape(6, 12, (12, 5), 1, 1, 1, 0.7, 0.65, "one", False, False)
NOTHING_TO_GIVE = Shape(7, 16, (16, 2, 3), 2, 1, 1, 1.0, 0.07, "whole", False, False)


def quick(examples: int) -> settings:
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None)


def positive_scores(state: State) -> Tensor:
    generator = torch.Generator().manual_seed(state.shape.seed)
    return torch.rand(state.tokens.protected.shape, generator=generator, dtype=torch.float64) + 0.01


def check_merge(
    state: State, assignment: Assignment, expected: list[list[ref.Token]], *, any_order: bool = False
) -> None:
    after, tokens = assignment.advance(state.tokens), state.tokens
    x = assignment.features(state.x)
    together = assignment.apply(state.x, tokens)
    assert torch.equal(together[0], x)
    torch.testing.assert_close(together[1].mass, after.mass, rtol=1e-12, atol=1e-12, check_dtype=False)
    mass = tokens.mass if tokens.valid is None else tokens.mass * tokens.valid
    sizes, source = after.mass, assignment.matrix(mass)
    assert after.n == x.shape[1] == tokens.width_after(state.shape.keep)
    assert torch.isfinite(x).all()
    for b, row in enumerate(expected):
        slots = torch.arange(after.n) if after.valid is None else after.valid[b].nonzero()[:, 0]
        assert len(slots) == len(row)
        if any_order:
            slots = slots[ref.same_tokens(source[b, slots].numpy(), row)]
        want = torch.tensor([t.x for t in row], dtype=torch.float64).reshape(len(row), -1)
        torch.testing.assert_close(x[b, slots], want.reshape(len(row), x.shape[2]), rtol=TOLERANCE, atol=TOLERANCE)
        want_sizes = torch.tensor([t.size for t in row], dtype=torch.float64)
        torch.testing.assert_close(sizes[b, slots].double(), want_sizes, rtol=TOLERANCE, atol=TOLERANCE)
        assert after.protected[b, slots].tolist() == [t.protected for t in row]
        want_source = torch.zeros(len(row), tokens.n, dtype=torch.float64)
        for i, token in enumerate(row):
            for place, part in token.source.items():
                want_source[i, place] = part
        torch.testing.assert_close(source[b, slots].double(), want_source, rtol=TOLERANCE, atol=TOLERANCE)
        unused = torch.ones(after.n, dtype=torch.bool).index_fill(0, slots, False)
        assert not source[b, unused].any(), "an empty slot holds something"
        assert not sizes[b, unused].any(), "an empty slot has a size, which would count as a token later"


def reference_rows(state: State, merge: str, scores: list[list[float]]) -> list[list[ref.Token]]:
    out = []
    for row, heads, site, score in zip(state.rows, state.heads, state.sites, scores, strict=True):
        gives = ref.count(site.keep, site.start) < sum(not t.protected for t in row)
        out.append(ref.MERGES[merge](row, ref.mean_keys(heads), score, site) if gives else row)
    return out


def test_the_reference_covers_the_registries() -> None:
    assert set(ref.SCORERS) == set(SCORERS)
    assert set(ref.MERGES) == set(MERGES)


@pytest.mark.parametrize("scorer", list(SCORERS))
@quick(20)
@given(shape=shapes())
@example(shape=PADDED)
@example(shape=LEFT)
@example(shape=PLAIN)
@example(shape=NOTHING_TO_GIVE)
def test_scorer(scorer: str, shape: Shape) -> None:
    state = make_state(shape)
    for cls in (0, None) if "cls" in scorer else (0,):
        score = SCORERS.load(scorer)(state.scorer_input(cls=cls))
        assert score.shape == state.tokens.protected.shape
        for b, (row, heads, site) in enumerate(zip(state.rows, state.heads, state.sites, strict=True)):
            want = ref.SCORERS[scorer](row, heads, site)
            places = [p for p, token in zip(state.places[b], row, strict=True) if not token.protected]
            wanted = [w for w, token in zip(want, row, strict=True) if not token.protected]
            got = score[b, places].double()
            torch.testing.assert_close(got, torch.tensor(wanted, dtype=torch.float64), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("merge", list(MERGES))
@pytest.mark.parametrize("in_order", [True, False], ids=["in order", "in any"])
@quick(40)
@given(shape=shapes())
@example(shape=PADDED)
@example(shape=LEFT)
@example(shape=PLAIN)
@example(shape=ONLY_SHORT_ROWS)
@example(shape=NOTHING_TO_GIVE)
def test_merge(merge: str, in_order: bool, shape: Shape) -> None:
    # tokens at the end of a row are protected only where order is kept
    state = make_state(shape if in_order else replace(shape, trailing=0))
    assume(state.reduces)
    scored, score = MERGES.entry(merge).uses_scores, positive_scores(state)
    assignment = MERGES.load(merge)(state.merge_input(score if scored else None, in_order=in_order))
    scores = [score[b, places].tolist() for b, places in enumerate(state.places)]
    # what merges by similarity leaves its tokens in an order of its own, which the next stage asks for
    check_merge(state, assignment, reference_rows(state, merge, scores), any_order=scored and not in_order)


@pytest.mark.parametrize("merge", [m for m in MERGES if MERGES.entry(m).uses_scores])
@pytest.mark.parametrize("scorer", list(SCORERS))
@quick(4)
@given(shape=shapes())
@example(shape=PADDED)
@example(shape=LEFT)
@example(shape=PLAIN)
def test_scorer_and_merge(scorer: str, merge: str, shape: Shape) -> None:
    state = make_state(shape)
    assume(state.reduces)
    assignment = MERGES.load(merge)(state.merge_input(SCORERS.load(scorer)(state.scorer_input())))
    scores = [
        ref.SCORERS[scorer](row, heads, site)
        for row, heads, site in zip(state.rows, state.heads, state.sites, strict=True)
    ]
    check_merge(state, assignment, reference_rows(state, merge, scores))


def test_fuse_weighs_by_size_alone_where_every_score_is_zero() -> None:
    state = make_state(PADDED)
    score = torch.zeros_like(positive_scores(state))
    assignment = MERGES.load("fuse")(state.merge_input(score))
    scores = [[0.0] * len(row) for row in state.rows]
    check_merge(state, assignment, reference_rows(state, "fuse", scores))


@pytest.mark.parametrize("merge", list(MERGES))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_means_stay_means(merge: str, dtype: torch.dtype) -> None:
    """400 tokens into few, with scores as small as attention makes them: the mean must survive half precision."""
    shape = Shape(8, 401, (401, 300), 1, 1, 0, 1.0, 0.01, "one", False, False)
    state = make_state(shape)
    score = positive_scores(state) * 1e-7
    assignment = MERGES.load(merge)(state.merge_input(score if MERGES.entry(merge).uses_scores else None))
    x = state.x + torch.linspace(0, 8, state.x.shape[1])[:, None]  # a sum that stalls would see the first ones only
    exact, rough = assignment.features(x), assignment.features(x.to(dtype))
    assert rough.dtype == dtype
    real = assignment.advance(state.tokens).valid
    assert real is not None
    torch.testing.assert_close(rough.double()[real], exact[real], rtol=2e-2, atol=2e-2)
