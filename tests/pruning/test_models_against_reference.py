"""Whole reduced forwards of HF's ViT and BERT equal a forward written with loops, row by row, to 1e-9 in fp64."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import reference as ref
import torch
from small_models import build, inputs_of, last_hidden
from torch import Tensor

import prunesearch as ps
from prunesearch.core.registry import MERGES, SCORERS

TOLERANCE = 1e-9
LENGTHS = (13, 9, 4)


@cache
def model_of(family: str) -> Any:
    return build(family, dtype=torch.float64)


@cache
def weights_of(family: str) -> dict[str, np.ndarray]:
    return {k: v.numpy() for k, v in model_of(family).base_model.state_dict().items()}


def reference_rows(family: str, inputs: dict[str, Tensor], stages: list[ref.Stage]) -> list[list[ref.Token]]:
    base = model_of(family).base_model
    embedded = base.embeddings(**{k: v for k, v in inputs.items() if k != "attention_mask"}).detach()
    config, forward = base.config, {"vit": ref.vit, "bert": ref.bert}[family]
    mask = inputs.get("attention_mask", torch.ones(embedded.shape[:2])).bool()
    return [
        forward(
            weights_of(family),
            [np.array(x) for x in embedded[b, mask[b]].numpy()],
            config.num_attention_heads,
            config.num_hidden_layers,
            config.layer_norm_eps,
            stages,
        )
        for b in range(len(embedded))
    ]


def check(family: str, stages: list[ref.Stage], lengths: tuple[int, ...] = LENGTHS) -> None:
    inputs, model = inputs_of(family, lengths, dtype=torch.float64), model_of(family)
    expected = reference_rows(family, inputs, stages)
    handle = ps.apply_(model, ps.Schedule(ps.Stage(*s) for s in stages), trace=True)
    try:
        with torch.no_grad():
            hidden = last_hidden(model, inputs)
        tokens, trace = handle.tokens, handle.trace
    finally:
        handle.remove()
    assert tokens is not None
    assert trace is not None
    assert trace.source is not None
    for b, row in enumerate(expected):
        slots = torch.arange(tokens.n) if tokens.valid is None else tokens.valid[b].nonzero()[:, 0]
        assert len(slots) == len(row)
        want = torch.tensor(np.array([t.x for t in row]))
        torch.testing.assert_close(hidden[b, slots], want, rtol=TOLERANCE, atol=TOLERANCE)
        sizes = torch.tensor([t.size for t in row], dtype=torch.float64)
        torch.testing.assert_close(tokens.mass[b, slots].double(), sizes, rtol=TOLERANCE, atol=TOLERANCE)
        source = torch.zeros(len(row), trace.source.shape[2], dtype=torch.float64)
        for i, token in enumerate(row):
            for place, part in token.source.items():
                source[i, place] = part
        torch.testing.assert_close(trace.source[b, slots].double(), source, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("family", ["vit", "bert"])
@pytest.mark.parametrize("merge", list(MERGES))
@pytest.mark.parametrize("scorer", list(SCORERS))
def test_two_stages_of_one_method(family: str, scorer: str, merge: str) -> None:
    check(family, [(1, 0.7, scorer, merge), (2, 0.3, scorer, merge)])


@pytest.mark.parametrize("family", ["vit", "bert"])
@pytest.mark.parametrize(
    "merges",
    [
        ("fuse", "drop", "nearest"),
        ("soft", "drop", "fuse"),
        ("nearest", "drop", "bipartite"),
        ("drop", "bipartite", "soft"),
        ("bipartite", "soft", "drop"),
    ],
)
def test_three_stages_of_different_methods(family: str, merges: tuple[str, str, str]) -> None:
    scorers = ("attention_received", "value_norm", "cls_attention_value")
    keeps = (0.8, 0.55, 0.2)
    check(family, [(i, k, s, m) for i, (k, s, m) in enumerate(zip(keeps, scorers, merges, strict=True))])


@pytest.mark.parametrize("merge", list(MERGES))
def test_a_short_row_gives_where_the_longest_does_not(merge: str) -> None:
    # reducible 10 and 3: 7 and 3 stay at 0.7, 7 and 2 at 0.65
    check("bert", [(0, 0.7, "value_norm", merge), (2, 0.65, "value_norm", merge)], lengths=(12, 5))


@pytest.mark.parametrize("merge", list(MERGES))
def test_rows_that_have_nothing_to_give(merge: str) -> None:
    check("bert", [(1, 0.01, "cls_attention", merge)], lengths=(12, 3, 2))


@pytest.mark.parametrize("merge", list(MERGES))
def test_a_keep_below_any_rounding_still_keeps_one_token(merge: str) -> None:
    check("vit", [(1, 1e-11, "value_norm", merge)])
