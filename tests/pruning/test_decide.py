"""What is looked up by the lengths of rows is what would have been worked out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import prunesearch as ps
from prunesearch.core.tables.token_tables import SCORERS
from prunesearch.pruning.attention import AttentionView
from prunesearch.pruning.decide import Rule
from prunesearch.pruning.forward import constants
from prunesearch.pruning.forward.tokens import Tokens

N = 19
STAGES = (ps.Stage(1, 0.8), ps.Stage(2, 0.5), ps.Stage(4, 0.07))


def rows() -> torch.Tensor:
    """Bool `[batch, N]`: padding behind, in front and in between, and none."""
    behind = torch.arange(N) < torch.tensor([N, 1, 2, 3, 8, 13])[:, None]
    between = torch.rand(4, N, generator=torch.Generator().manual_seed(3)) < 0.6
    return torch.cat([behind, behind.flip(1), between])


@pytest.mark.parametrize("ends", [(1, 1), (1, 0), (0, 0)])
@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("scorer", [name for name in SCORERS if SCORERS.entry(name).by_place])
def test_by_place(scorer: str, in_order: bool, ends: tuple[int, int]) -> None:
    x, valid = torch.randn(len(rows()), N, 4), rows()
    view = AttentionView(x[:, None], x[:, None], x[:, None], None, 1.0, None)
    stages = [ps.Stage(s.layer, s.keep, scorer, "drop") for s in STAGES]
    for mask in (valid, None):
        before, tokens = 1.0, Tokens.start(x, mask, *ends)
        for i, stage in enumerate(stages):
            rule = Rule.of(stage, before, stages[i + 1 :])
            assert rule.fixed
            assert tokens.by_length_alone
            found = rule.decide(tokens, view, 6, 0, 0, in_order=in_order)
            asked = replace(rule, fixed=False)
            plain = asked.decide(replace(tokens, marks=tokens.ends), view, 6, 0, 0, in_order=in_order)
            there = torch.ones_like(found.kept, dtype=torch.bool) if found.occupied is None else found.occupied
            assert plain.occupied is None or torch.equal(there, plain.occupied)
            assert torch.equal(found.kept[there], plain.kept[there])
            before, tokens = stage.keep, found.advance(tokens).kept(stage.keep)
            long = torch.ones(len(x), dtype=torch.bool) if mask is None else tokens.length[:, 0] > sum(ends)
            assert torch.equal(tokens.protected[long], replace(tokens, keep_left=None).protected[long])


def test_rows_of_more_tokens_than_there_are_tables_for() -> None:
    made = []

    @constants.by_length
    def twice(length: torch.Tensor, more: int) -> torch.Tensor:
        made.append(len(length))
        return 2 * length + torch.arange(more)

    lengths = torch.tensor([3, 0, 7])
    for _ in range(2):
        assert twice(lengths, 9, 2).tolist() == [[6, 7], [0, 1], [14, 15]]
    assert made == [10]
    assert twice(lengths, constants._LONGEST + 1, 2).tolist() == [[6, 7], [0, 1], [14, 15]]
    assert made == [10, 3]


def test_what_is_kept_is_bounded() -> None:
    like, made = torch.empty(0), []

    @constants.constant
    def row(device: torch.device, n: int) -> torch.Tensor:
        made.append(n)
        return torch.empty(constants._KEPT_BYTES // 4 + n, dtype=torch.int8)

    for _ in range(2):
        for n in range(5):
            row(like, n)
    assert made == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]
    row(like, 4)
    assert len(made) == 10
