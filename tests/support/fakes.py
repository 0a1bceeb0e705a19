"""A cost model that needs no clock, a space to go with it, and a quality that needs no model."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from prunesearch.core.plans.flow import Flow, Geometry
from prunesearch.core.plans.schedule import Schedule
from prunesearch.cost.costs import OfOneModel, sum_of_pieces
from prunesearch.search.space.space import Space, SpaceFile
from prunesearch.search.trials.evaluate import Evaluation

DEPTH, TOKENS = 4, 17


@dataclass(frozen=True)
class LinearCosts(OfOneModel):
    """Milliseconds that grow with tokens; a stage costs 0.3, sizes in play 0.05 a block."""

    depth: int = DEPTH
    tokens: int = TOKENS
    protected: int = 1
    stem: float = 1.0

    @property
    def geometry(self) -> Geometry:
        return Geometry(self.depth, self.tokens, self.protected)

    def attention(self, n: int, sized: bool, layer: int) -> float:
        return 0.1 * n + 0.002 * n * n + (0.05 if sized else 0.0)

    def mlp(self, n: int, layer: int) -> float:
        return 0.2 * n

    def reduce(self, scorer: str, merge: str, n_in: int, n_out: int) -> float:
        return 0.3 + (0.1 if merge == "bipartite" else 0.0)

    def head(self, n: int) -> float:
        return 0.0

    def price(self, flow: Flow) -> float:
        return sum_of_pieces(self, flow)


def small_space_file(**changes: object) -> SpaceFile:
    settings = {
        "format": "prunesearch.space",
        "version": 1,
        "keep": [0.75, 0.5, 0.25],
        "scorers": ["cls_attention", "value_norm"],
        "merges": ["drop", "fuse", "bipartite"],
        "max_stages": 3,
    }
    return SpaceFile.model_validate({**settings, **changes})


def fake_evaluation(schedule: Schedule) -> Evaluation:
    """Loses in proportion to the tokens removed; deterministic, no model."""
    loss = sum((1 - s.keep) / (1 + s.layer) for s in schedule)
    n = 10
    right = torch.arange(n) < round(9 - min(loss * 4, 8))
    return Evaluation(right[:, None].float(), torch.full((n,), loss), right)


def make_space(**changes: object) -> Space:
    return Space(small_space_file(**changes), DEPTH, TOKENS, 1)
