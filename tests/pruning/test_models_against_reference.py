"""Whole reduced forwards of every family equal a forward written with loops, row by row, to 1e-9 in fp64."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import prunesearch as ps
from prunesearch.core.tables.token_tables import MERGES, SCORERS
from tests.support import reference as ref
from tests.support import reference_models as slow
from tests.support.reference_families import MATHS
from tests.support.small_models import CASES, build, inputs_of, tokens_of

# where transformers or timm compute in fp32 whatever the dtype: rotary angles, T5's variance, DeBERTa's scale
TOLERANCES = dict.fromkeys(("modernbert", "modernbert-cls", "dinov3", "t5"), 1e-4)
TOLERANCES |= dict.fromkeys(("deberta", "deberta-unshared", "timm-eva", "timm-dinov3"), 1e-6)
LENGTHS = (13, 9, 4)
BLOCKS = {
    "albert": lambda base: [base.encoder.albert_layer_groups[0].albert_layers[0]] * 4,
    "albert-groups": lambda base: [x for group in base.encoder.albert_layer_groups for x in group.albert_layers],
    "clip": lambda base: base.vision_model.encoder.layers,
    "clip-text": lambda base: base.encoder.layers,
    "siglip": lambda base: base.vision_model.encoder.layers,
    "siglip-pool": lambda base: base.encoder.layers,
    "dinov3": lambda base: base.layer,
    "distilbert": lambda base: base.transformer.layer,
}


@cache
def model_of(name: str) -> Any:
    return build(name, dtype=torch.float64)


def blocks_of(name: str) -> list[nn.Module]:
    base = model_of(name).base_model
    if name.startswith("timm"):
        return list(base.blocks)
    if name in BLOCKS:
        return list(BLOCKS[name](base))
    inside = getattr(base, "encoder", base)
    return list(next(getattr(inside, n) for n in ("layers", "layer", "block") if hasattr(inside, n)))


def weights_of(module: nn.Module) -> slow.Weights:
    weights = {k: v.numpy() for k, v in module.state_dict().items()}
    if "attn.q_bias" in weights:  # timm's Eva keeps the biases apart, and has none for keys
        query, value = weights["attn.q_bias"], weights["attn.v_bias"]
        weights["attn.qkv.bias"] = np.concatenate([query, np.zeros_like(query), value])
    return weights


@cache
def followed(name: str) -> slow.Model:
    model, maths = model_of(name), MATHS[name]
    base, blocks = model.base_model, blocks_of(name)
    config = model.config
    if name in ("clip", "siglip"):
        config = config.vision_config
    return slow.Model(maths, [weights_of(b) for b in blocks], weights_of(base), config, heads=2)


def watch(name: str, inputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Any], Tensor]:
    """What the first block is given, and what comes out of the last."""
    first, last = (blocks_of(name)[i] for i in (0, -1))
    given: list[tuple[Tensor, dict[str, Any]]] = []
    out: list[Tensor] = []

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given.append((args[0].detach().clone(), kwargs))

    hooks = [
        first.register_forward_pre_hook(enter, with_kwargs=True),
        last.register_forward_hook(lambda _, __, y: out.append(y[0] if isinstance(y, tuple) else y)),
    ]
    try:
        with torch.no_grad():
            model_of(name)(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return *given[0], out[-1]


def reference_rows(name: str, inputs: dict[str, Tensor], stages: list[ref.Stage]) -> list[list[ref.Token]]:
    embedded, kwargs, _ = watch(name, inputs)
    model, lengths, rows = followed(name), tokens_of(inputs), []
    for b, features in enumerate(embedded.numpy()):
        model.given = {k: v[b].numpy() for k, v in kwargs.items() if k == "spatial_position_embeddings"}
        length = len(features) if lengths is None else int(lengths[b])
        rows.append(slow.run(model, list(features[:length]), stages))
    return rows


def check(
    name: str,
    stages: list[ref.Stage],
    lengths: tuple[int, ...] = LENGTHS,
    make: Callable[[ref.Stage], ps.Stage] = lambda said: ps.Stage(*said),
) -> None:
    inputs, model, near = inputs_of(name, lengths, dtype=torch.float64), model_of(name), TOLERANCES.get(name, 1e-9)
    expected = reference_rows(name, inputs, stages)
    handle = ps.apply_(model, ps.Schedule(make(s) for s in stages), trace=True)
    try:
        _, _, hidden = watch(name, inputs)
        tokens, trace = handle.tokens, handle.trace
    finally:
        handle.remove()
    assert tokens is not None
    assert trace is not None
    assert trace.source is not None
    for b, row in enumerate(expected):
        slots = torch.arange(tokens.n) if tokens.valid is None else tokens.valid[b].nonzero()[:, 0]
        assert len(slots) == len(row)
        if tokens.place is None:  # where no places are told, any order will do that no later stage asks for
            slots = slots[ref.same_tokens(trace.source[b, slots].numpy(), row)]
        want = torch.tensor(np.array([t.x for t in row]))
        torch.testing.assert_close(hidden[b, slots], want, rtol=near, atol=near)
        sizes = torch.tensor([t.size for t in row], dtype=torch.float64)
        torch.testing.assert_close(tokens.mass[b, slots].double(), sizes, rtol=near, atol=near)
        source = torch.zeros(len(row), trace.source.shape[2], dtype=torch.float64)
        for i, token in enumerate(row):
            for place, part in token.source.items():
                source[i, place] = part
        torch.testing.assert_close(trace.source[b, slots].double(), source, rtol=near, atol=near)
        if tokens.place is not None:
            assert tokens.place[b, slots].tolist() == [t.place for t in row]


def test_there_is_a_reference_for_every_small_model() -> None:
    assert set(MATHS) == set(CASES)


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize(
    "stages",
    [
        [(0, 0.75, "cls_attention", "drop"), (2, 0.4, "attention_entropy", "nearest")],
        [(0, 0.75, "attention_received", "fuse"), (2, 0.4, "value_norm", "bipartite")],
        [(0, 0.75, "value_norm", "drop"), (2, 0.4, "cls_attention_value", "fuse")],  # bipartite asks for no score
    ],
    ids=["drop+nearest", "fuse+bipartite", "values"],
)
def test_every_family(name: str, stages: list[ref.Stage]) -> None:
    check(name, stages)


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
