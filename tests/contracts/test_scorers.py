"""What every scorer must pass. A new row in `SCORERS` is picked up by itself; nothing is to be added here."""

from __future__ import annotations

import pytest
import torch

import prunesearch as ps
from prunesearch.core.tables.token_tables import SCORERS
from tests.support.small_models import build, inputs_of, last_hidden, rows
from tests.support.some import some
from tests.support.states import Shape, State, make_state

EVERY = pytest.mark.parametrize("scorer", list(SCORERS))
PADDED = Shape(3, 20, (20, 13, 7), 2, 1, 1, 0.6, 0.34, "broken", False, False)
PLAIN = Shape(5, 17, (17, 17), 3, 1, 0, 1.0, 0.5, "one", False, False)
STATES = pytest.mark.parametrize("shape", [PADDED, PLAIN], ids=["padded", "plain"])


def scores(scorer: str, state: State, **how: int) -> torch.Tensor:
    out: torch.Tensor = SCORERS.load(scorer)(state.scorer_input(**how))
    return out


def reducible(state: State) -> torch.Tensor:
    return state.tokens.reducible


@EVERY
def test_the_row_says_what_it_is(scorer: str) -> None:
    entry = SCORERS.entry(scorer)
    assert entry.help
    assert SCORERS.load(scorer).__doc__


@EVERY
@STATES
def test_one_finite_score_a_token_never_negative_and_wide(scorer: str, shape: Shape) -> None:
    state = make_state(shape)
    score = scores(scorer, state)
    assert score.shape == state.tokens.protected.shape
    assert score.dtype in (torch.float32, torch.float64)
    assert torch.isfinite(score).all()
    assert (score[reducible(state)] >= -1e-12).all()


@EVERY
@STATES
def test_it_tells_tokens_apart(scorer: str, shape: Shape) -> None:
    state = make_state(shape)
    score, real = scores(scorer, state), reducible(state)
    for b in range(len(score)):
        assert len(set(score[b, real[b]].tolist())) == int(real[b].sum())


@EVERY
@STATES
def test_it_repeats_and_leaves_its_input_alone(scorer: str, shape: Shape) -> None:
    state = make_state(shape)
    before = [t.clone() for t in (state.view.query, state.view.key, state.view.value, state.tokens.protected)]
    first, second = scores(scorer, state), scores(scorer, state)
    assert torch.equal(first, second)
    after = (state.view.query, state.view.key, state.view.value, state.tokens.protected)
    assert all(torch.equal(a, b) for a, b in some(zip(before, after, strict=True)))


@EVERY
def test_padding_does_not_matter(scorer: str) -> None:
    state = make_state(PADDED)
    before, real = scores(scorer, state), reducible(state)
    valid = state.tokens.valid
    assert valid is not None
    for part in (state.view.query, state.view.key, state.view.value):
        part[~valid[:, None].expand(part.shape[:3])] = -7.0
    torch.testing.assert_close(scores(scorer, state)[real], before[real], rtol=1e-12, atol=1e-12)


@EVERY
def test_rows_do_not_see_each_other(scorer: str) -> None:
    state = make_state(PLAIN)
    before = scores(scorer, state)
    for part in (state.view.query, state.view.key, state.view.value):
        part[1] += 3.0
    torch.testing.assert_close(scores(scorer, state)[0], before[0], rtol=1e-12, atol=1e-12)


@EVERY
@pytest.mark.parametrize("name", ["vit", "bert"])
def test_in_a_model_a_row_alone_equals_the_row_in_a_batch(scorer: str, name: str) -> None:
    model, inputs = build(name, dtype=torch.float64), inputs_of(name, dtype=torch.float64)
    schedule = ps.Schedule([ps.Stage(0, 0.8, scorer, "fuse"), ps.Stage(2, 0.35, scorer, "drop")])
    with ps.apply_(model, schedule) as handle, torch.no_grad():
        together, tokens = last_hidden(model, inputs), handle.tokens
        assert tokens is not None
        for b in range(len(together)):
            real = together[b] if tokens.valid is None else together[b, tokens.valid[b]]
            alone = last_hidden(model, rows(inputs, b))[0]
            torch.testing.assert_close(alone, real, rtol=1e-9, atol=1e-9)


@EVERY
@pytest.mark.parametrize("name", ["vit", "bert"])
def test_eager_and_sdpa_agree(scorer: str, name: str) -> None:
    inputs, hidden = inputs_of(name), []
    for attention in ("sdpa", "eager"):
        model = build(name, attention)
        with ps.apply_(model, ps.Schedule([ps.Stage(1, 0.5, scorer)])), torch.no_grad():
            hidden.append(model(**inputs).logits)
    torch.testing.assert_close(hidden[0], hidden[1], rtol=1e-3, atol=1e-4)
