"""The guide to a family of one's own, tried on a trained model that is none of the table's."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import prunesearch as ps
from prunesearch.core.errors import UnsupportedModelError
from prunesearch.pruning.families import find as families
from tests.support.paths import ASSETS, EXAMPLES, needs_assets
from tests.support.tables import in_place

EXAMPLE = EXAMPLES / "kwt1.py"
spec = importlib.util.spec_from_file_location("kwt1_example", EXAMPLE)
assert spec is not None
assert spec.loader is not None
kwt1: Any = importlib.util.module_from_spec(spec)
sys.modules["kwt1_example"] = kwt1
spec.loader.exec_module(kwt1)

HALF = ps.Schedule([ps.Stage(2, 0.7, "cls_attention", "fuse"), ps.Stage(5, 0.4, "cls_attention", "bipartite")])
WEIGHTS = ASSETS / "kwt1"
assets = needs_assets("kwt1")


@pytest.fixture
def table() -> Iterator[None]:
    """Families registered in a test are gone after it."""
    with in_place(families.FAMILIES, "kwt1"):
        yield


def test_without_its_row_the_error_says_what_is_missing() -> None:
    with pytest.raises(UnsupportedModelError, match=r"'kwt1' is not supported: no row says .*ps.register_family"):
        ps.apply_(kwt1.Kwt1(kwt1.Kwt1Config()), HALF)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_with_its_row_it_is_a_family_like_any_other(table: None, attention: str) -> None:
    families.register_family(kwt1.KWT1)
    model = kwt1.Kwt1(kwt1.Kwt1Config()).eval()
    model.set_attn_implementation(attention)
    x = torch.randn(2, 98, 40)
    with torch.no_grad():
        before = model(x).logits
        with ps.apply_(model, ps.Schedule([ps.Stage(1, 1.0)])):
            assert torch.equal(model(x).logits, before)
        with ps.apply_(model, HALF, trace=True) as handle:
            reduced = model(x).logits
            assert handle.tokens is not None
            assert handle.tokens.n == HALF.counts(12, 99, 1)[-1] == 41
        assert torch.equal(model(x).logits, before)
    assert not torch.equal(reduced, before)


@assets
def test_the_trained_model_keeps_its_accuracy_and_is_reduced(table: None) -> None:
    families.register_family(kwt1.KWT1)
    model, front_end = kwt1.load(WEIGHTS)
    samples, labels = kwt1.clips(WEIGHTS)
    inputs = kwt1.features(samples, front_end)
    assert len(labels) == 572
    assert kwt1.accuracy(model, inputs, labels) == pytest.approx(0.970, abs=0.0005)
    with ps.apply_(model, HALF) as handle:
        reduced = kwt1.accuracy(model, inputs, labels)
        assert handle.tokens is not None
        assert handle.tokens.n == 41
    assert reduced > 0.9
