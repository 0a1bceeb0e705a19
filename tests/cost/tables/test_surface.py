"""The surface of stages gives back the costs that it was fitted to, of selections that go token by token too."""

from __future__ import annotations

import itertools

import pytest

from prunesearch.core.errors import PruneSearchError
from prunesearch.cost.tables.surface import ReducePoint, ReduceSurface

TOKENS = 100


def cost(scorer: str, n: int, m: int) -> float:
    """Milliseconds of a stage, all shares of the whole sequence."""
    n_, m_ = n / TOKENS, m / TOKENS
    plain = {"random": 0.1, "key_norm": 0.2 + 0.3 * n_}[scorer.partition("@")[0]]
    greedy = 0.4 * n_**2 + 2.0 * m_ + 1.5 * n_ * m_ if "@" in scorer else 0.0
    return plain + 0.05 + 0.1 * m_ + greedy


def test_what_a_selection_takes_for_every_token_that_stays_is_its_own() -> None:
    scorers = ("random", "key_norm", "random@diversity")
    pairs = [(n, m) for n, m in itertools.product(range(10, TOKENS + 1, 10), repeat=2) if m < n]
    points = [ReducePoint(s, "drop", n, m, cost(s, n, m), 5) for s in scorers for n, m in pairs]
    surface = ReduceSurface(points, TOKENS, 2)
    for scorer, (n, m) in itertools.product(scorers, [(95, 15), (95, 85), (55, 33), (25, 11)]):
        assert surface(scorer, "drop", n, m) == pytest.approx(cost(scorer, n, m), rel=0.02)
    assert surface("random@diversity", "drop", 95, 85) > 2 * surface("random@diversity", "drop", 95, 15)
    with pytest.raises(PruneSearchError, match="scorer 'key_norm@diversity' is not in the cost table"):
        surface("key_norm@diversity", "drop", 50, 20)
