"""What every merge must pass. A new row in `MERGES` is picked up by itself; nothing is to be added here."""

from __future__ import annotations

import pytest
import torch

import prunesearch as ps
from prunesearch.core.tables.token_tables import MERGES
from prunesearch.pruning.forward.assignment import Assignment
from tests.support.small_models import build, inputs_of
from tests.support.some import some
from tests.support.states import Shape, State, make_state

EVERY = pytest.mark.parametrize("merge", list(MERGES))
SHAPES = {
    "plain": Shape(5, 17, (17, 17), 3, 1, 0, 1.0, 0.5, "one", False, False),
    "sizes": Shape(6, 17, (17, 17), 3, 2, 0, 0.8, 0.2, "whole", False, False),
    "padded": Shape(3, 20, (20, 13, 7), 2, 1, 1, 0.6, 0.34, "broken", False, False),
    "left": Shape(4, 15, (15, 9, 4), 2, 2, 0, 1.0, 0.2, "whole", False, True),
    "few": Shape(7, 16, (16, 2, 3), 2, 1, 1, 1.0, 0.07, "one", False, False),
}
PADDED = {name: shape for name, shape in SHAPES.items() if min(shape.lengths) < max(shape.lengths)}
STATES = pytest.mark.parametrize("shape", list(SHAPES.values()), ids=list(SHAPES))


def decide(merge: str, state: State) -> Assignment:
    generator = torch.Generator().manual_seed(1)
    score = torch.rand(state.tokens.protected.shape, generator=generator, dtype=torch.float64) + 0.01
    out: Assignment = MERGES.load(merge)(state.merge_input(score if MERGES.entry(merge).uses_scores else None))
    return out


def real_mass(state: State) -> torch.Tensor:
    tokens = state.tokens
    return tokens.mass if tokens.valid is None else tokens.mass * tokens.valid


@EVERY
def test_the_row_says_what_it_is(merge: str) -> None:
    assert MERGES.entry(merge).help
    assert MERGES.load(merge).__doc__


@EVERY
@STATES
def test_the_count_is_the_one_of_the_schedule(merge: str, shape: Shape) -> None:
    state = make_state(shape)
    after = decide(merge, state).advance(state.tokens)
    schedule = ps.Schedule([ps.Stage(0, shape.keep)])
    protected = shape.leading + shape.trailing
    for b, length in enumerate(shape.lengths):
        alive = after.n if after.valid is None else int(after.valid[b].sum())
        assert alive == schedule.counts(1, length, protected)[0]
    assert after.n == schedule.counts(1, shape.width, protected)[0]


@EVERY
@STATES
def test_protected_tokens_pass_untouched(merge: str, shape: Shape) -> None:
    state = make_state(shape)
    assignment = decide(merge, state)
    x, after = assignment.features(state.x), assignment.advance(state.tokens)
    for b in range(len(x)):
        assert torch.allclose(x[b, after.protected[b]], state.x[b, state.tokens.protected[b]], rtol=1e-12, atol=1e-12)
        assert after.protected[b].sum() == state.tokens.protected[b].sum()
        before = real_mass(state)[b, state.tokens.protected[b]]
        assert torch.equal(after.mass[b, after.protected[b]].double(), before.double())


@EVERY
@STATES
def test_sizes_add_up_and_agree_with_the_source(merge: str, shape: Shape) -> None:
    state = make_state(shape)
    assignment = decide(merge, state)
    after, mass = assignment.advance(state.tokens), real_mass(state).double()
    source = assignment.matrix(mass)
    held = (source @ mass[..., None])[..., 0]
    if assignment.counted:
        torch.testing.assert_close(held, after.mass.double(), rtol=1e-9, atol=1e-9)
    else:  # a mean counts as the token whose place it has
        assert (held >= after.mass.double() - 1e-9).all()
    if MERGES.entry(merge).makes_sizes:
        torch.testing.assert_close(after.mass.double().sum(1), mass.sum(1), rtol=1e-9, atol=1e-9)
    else:
        assert ((source == 0) | (source == 1)).all()
        assert not assignment.counted or (source.sum(-1) <= 1).all()


@EVERY
@STATES
def test_tokens_keep_their_order(merge: str, shape: Shape) -> None:
    state = make_state(shape)
    assignment = decide(merge, state)
    after = assignment.advance(state.tokens)
    for b in range(len(state.x)):
        kept = assignment.kept[b] if after.valid is None else assignment.kept[b, after.valid[b]]
        assert (kept.diff() > 0).all()


@EVERY
@STATES
def test_features_are_means_and_finite(merge: str, shape: Shape) -> None:
    """Every token that leaves lies between the tokens that it holds; equal tokens stay what they were."""
    state = make_state(shape)
    assignment = decide(merge, state)
    after = assignment.advance(state.tokens)
    x = assignment.features(state.x)
    assert torch.isfinite(x).all()
    valid = torch.ones(x.shape[:2], dtype=torch.bool) if after.valid is None else after.valid
    source = assignment.matrix(real_mass(state))
    for b, slot in valid.nonzero().tolist():
        inside = state.x[b, source[b, slot] > 0]
        assert (x[b, slot] >= inside.amin(0) - 1e-9).all()
        assert (x[b, slot] <= inside.amax(0) + 1e-9).all()
    same = torch.full_like(state.x, 2.5)
    torch.testing.assert_close(assignment.features(same)[valid], same[:, : after.n][valid], rtol=1e-12, atol=1e-12)


@EVERY
@pytest.mark.parametrize("shape", PADDED.values(), ids=list(PADDED))
def test_padding_does_not_matter(merge: str, shape: Shape) -> None:
    state = make_state(shape)
    assignment = decide(merge, state)
    after = assignment.advance(state.tokens)
    assert state.tokens.valid is not None
    assert after.valid is not None
    before = assignment.features(state.x)[after.valid]
    state.x[~state.tokens.valid] = 1e3
    state.view.key[(~state.tokens.valid)[:, None].expand(state.view.key.shape[:3])] = -9.0
    again = decide(merge, state)
    torch.testing.assert_close(again.features(state.x)[after.valid], before, rtol=1e-12, atol=1e-12)


@EVERY
@STATES
def test_the_inverse_gives_every_token_what_holds_it(merge: str, shape: Shape) -> None:
    state = make_state(shape)
    assignment = decide(merge, state)
    y = torch.arange(assignment.n_out, dtype=torch.float64)[None, :, None].expand(len(state.x), -1, 1)
    back = assignment.inverse(y, torch.full((*state.x.shape[:2], 1), -1.0, dtype=torch.float64))[..., 0]
    source = assignment.matrix(real_mass(state))
    alive = torch.ones_like(back, dtype=torch.bool) if state.tokens.valid is None else state.tokens.valid
    for b, i in some(alive.nonzero().tolist()):
        held = source[b, :, i]
        assert back[b, i] == (held.argmax() if held.any() else -1)


@EVERY
@pytest.mark.parametrize("name", ["vit", "bert"])
def test_a_step_of_training_is_finite(merge: str, name: str) -> None:
    model, inputs = build(name).train(), inputs_of(name)
    with ps.apply_(model, ps.Schedule([ps.Stage(0, 0.7, merge=merge), ps.Stage(2, 0.3, merge=merge)])):
        model(**inputs).logits.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
