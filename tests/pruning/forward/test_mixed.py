"""Tokens that may leave from anywhere in a row count as those between protected ends do."""

from __future__ import annotations

import pytest
import torch

from prunesearch.core.errors import PruneSearchError
from prunesearch.pruning.forward.mixed import MixedTokens, RowCounts
from prunesearch.pruning.forward.tokens import Tokens

LENGTHS = (9, 6, 4)


def both() -> tuple[Tokens, MixedTokens]:
    """The same rows, padded on the right: the first token and the last are protected."""
    x = torch.zeros(3, 9, 4)
    valid = torch.arange(9)[None] < torch.tensor(LENGTHS)[:, None]
    plain = Tokens.start(x, valid, 1, 1, with_places=True)
    return plain, MixedTokens.given(plain.reducible, valid)


def test_it_counts_as_tokens_between_ends_do() -> None:
    plain, mixed = both()
    assert mixed.counts == tuple(RowCounts(n - 2, 2) for n in LENGTHS)
    assert mixed.n_protected == plain.n_protected == 2
    assert torch.equal(mixed.reducible, plain.reducible)
    assert torch.equal(mixed.protected, plain.protected)
    assert torch.equal(mixed.asked, plain.asked)
    assert torch.equal(mixed.asks, plain.asks)
    assert mixed.asked.tolist() == [8, 5, 3]
    for keep in (1.0, 0.7, 0.5, 0.34, 0.07):
        assert mixed.width_after(keep) == plain.width_after(keep)
        assert torch.equal(mixed.row_left(keep), torch.as_tensor(plain.row_left(keep)))
        assert torch.equal(mixed.row_counts(keep), plain.row_counts(keep))
        assert mixed.gives(1.0, keep) == (keep < 0.9)
    ours, theirs = mixed.among_reducible, plain.among_reducible
    assert torch.equal(ours[0][plain.reducible], theirs[0][plain.reducible])
    assert torch.equal(ours[1], theirs[1])


def test_the_last_token_never_leaves_and_what_answers_does_not_ask() -> None:
    pictures = torch.tensor([[True, True, True, False, True]])
    whole = torch.ones(1, 5, dtype=torch.bool)
    assert MixedTokens.given(pictures, whole).counts == ((3, 2),)
    taught = MixedTokens.given(pictures, whole, torch.tensor([3]))
    assert taught.counts == ((4, 1),)
    assert taught.asked.tolist() == [3]
    assert taught.asks.tolist() == [[False, False, False, True, False]]


def test_it_knows_when_nothing_needs_a_mask() -> None:
    even = torch.tensor([[True, True, False], [False, True, False]])
    rows = MixedTokens.given(even, torch.ones(2, 3, dtype=torch.bool))
    assert rows.full
    assert rows.attention_mask(torch.float32, additive=True) is None
    assert not rows.kept(0.5).full  # one of two and one of one: rows of 2 and 3
    assert rows.kept(0.5).real is not None
    padded = MixedTokens.given(even, torch.tensor([[True] * 3, [False, True, True]]))
    assert padded.real is not None


def test_a_row_without_tokens_is_refused() -> None:
    with pytest.raises(PruneSearchError, match="all padding"):
        MixedTokens.given(torch.zeros(2, 3).bool(), torch.tensor([[True] * 3, [False] * 3]))
