"""Constraints as people type them."""

from __future__ import annotations

import pytest

from prunesearch.core.constraint import Constraint
from prunesearch.core.errors import PruneSearchError


@pytest.mark.parametrize(
    ("text", "name", "limit"),  # the unpruned model has 0.8 of quality, and costs 40
    [
        ("quality >= 0.99*unpruned", "quality", 0.792),
        ("quality>=0.5 * unpruned", "quality", 0.4),
        ("quality >= unpruned", "quality", 0.8),
        (" Quality >= 0.75 ", "quality", 0.75),
        ("agreement >= 0.98", "agreement", 0.98),
        ("agreement >= 0.9*unpruned", "agreement", 0.9),  # the unpruned model agrees with itself everywhere
        ("latency <= 10ms", "latency", 10.0),
        ("latency <= 0.01 s", "latency", 10.0),
        ("latency <= 60%", "latency", 24.0),
        ("latency <= 2x", "latency", 20.0),
        ("macs <= 0.6*unpruned", "macs", 24.0),
        ("macs <= 1500MMACs", "macs", 1.5),
        ("energy <= 40mJ", "energy", 40.0),
        ("memory <= 0.5GiB", "memory", 512.0),
    ],
)
def test_good(text, name, limit):
    found = Constraint.parse(text)
    assert found.name == name
    assert found.limit(0.8 if found.on_quality else 40.0) == pytest.approx(limit)
    assert Constraint.parse(found.text) == found


@pytest.mark.parametrize(
    ("text", "value", "broken_by"),
    [("quality >= 0.9*unpruned", 0.70, 0.02), ("quality >= 0.9*unpruned", 0.72, 0.0), ("macs <= 50%", 0.5, 0.1)],
)
def test_how_far_a_constraint_is_broken(text, value, broken_by):
    assert Constraint.parse(text).violation(value, 0.8) == pytest.approx(broken_by, abs=1e-9)


@pytest.mark.parametrize(
    ("text", "unpruned", "limit"),
    [
        ("quality >= 0.99*unpruned", -0.2, -0.202),  # a correlation; the plain product, -0.198, is above -0.2
        ("quality >= 0.5*unpruned", -0.4, -0.6),
        ("quality >= unpruned", -0.2, -0.2),
        ("quality >= 0.9*unpruned", 0.0, 0.0),
        ("quality >= 0.1", -0.2, 0.1),
    ],
)
def test_a_relative_bound_never_asks_for_more_than_the_unpruned_model_has(text, unpruned, limit):
    found = Constraint.parse(text)
    assert found.limit(unpruned) == pytest.approx(limit)
    assert found.relative == ("unpruned" in text)
    assert (found.violation(unpruned, unpruned) <= 0) == found.relative


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fast", ["not understood", "quality >= 0.99*unpruned"]),
        ("qualty >= 0.9", ["unknown name 'qualty'", "did you mean 'quality'"]),
        ("quality <= 0.9", ["quality >= bound", "quality >= 0.9"]),
        ("quality > 0.9", ["write 'quality >= 0.9'"]),
        ("latency >= 10ms", ["latency <= bound"]),
        ("quality >= 99%", ["0 <= quality <= 1", "80 % is written 0.8"]),
        ("quality >= 80", ["0 <= quality <= 1"]),
        ("quality >= nan", ["0 <= quality <= 1"]),
        ("quality >= 1.1*unpruned", ["0 < factor <= 1"]),
        ("quality >= x*unpruned", ["0 < factor <= 1"]),
        ("quality >= ", ["0 <= quality <= 1"]),
        ("latency <= 10", ["without a unit", "10ms"]),
        ("latency <= 40mJ", ["latency is bounded in ms", "an energy"]),
        ("macs <= 101%", ["share <= 100%"]),
    ],
)
def test_bad(text, words):
    with pytest.raises(PruneSearchError) as error:
        Constraint.parse(text)
    message = str(error.value)
    assert text.strip() in message or text in message
    assert "\n" not in message
    for word in words:
        assert word in message
