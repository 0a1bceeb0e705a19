"""Budgets as people type them."""

from __future__ import annotations

import pytest

from prunesearch.core.budget import Budget
from prunesearch.core.errors import PruneSearchError


@pytest.mark.parametrize(
    ("text", "kind", "value", "limit"),
    [
        ("10ms", "latency", 10, 10),
        (" 10 ms ", "latency", 10, 10),
        ("10MS", "latency", 10, 10),
        ("500us", "latency", 0.5, 0.5),
        ("0.2s", "latency", 200, 200),
        (".5s", "latency", 500, 500),
        ("1e1ms", "latency", 10, 10),
        ("40mJ", "energy", 40, 40),
        ("1.5 J", "energy", 1500, 1500),
        ("700uj", "energy", 0.7, 0.7),
        ("2GMACs", "macs", 2, 2),
        ("900 mmacs", "macs", 0.9, 0.9),
        ("1tMACs", "macs", 1000, 1000),
        ("64MiB", "memory", 64, 64),
        ("0.5GiB", "memory", 512, 512),
        ("2048kib", "memory", 2, 2),
        ("1MB", "size", 1.0, 1.0),
        ("2.5GB", "size", 2500, 2500),
        ("60%", "share", 0.6, 24),
        ("100%", "share", 1.0, 40),
        ("12.5 %", "share", 0.125, 5),
        ("2x", "speedup", 2, 20),
        ("1.6X", "speedup", 1.6, 25),
        ("1x", "speedup", 1, 40),
        ("1.6×", "speedup", 1.6, 25),
        ("500\u00b5s", "latency", 0.5, 0.5),
        ("500 \u03bcs", "latency", 0.5, 0.5),
        ("700µJ", "energy", 0.7, 0.7),
    ],
)
def test_good(text: str, kind: str, value: float, limit: float) -> None:
    budget = Budget.parse(text)
    assert (budget.kind, budget.text) == (kind, text)
    assert budget.value == pytest.approx(value)
    assert budget.limit(40.0) == pytest.approx(limit)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("10", "without a unit"),
        ("10min", "unit 'min'"),
        ("10 fps", "unit 'fps'"),
        ("10 kWh", "unit 'kWh'"),
        ("2GFLOPs", "unit 'GFLOPs'"),
        ("64Mb/s", "not understood"),
        ("0mJ", "> 0"),
        ("0ms", "> 0"),
        ("0x", "> 0"),
        ("1e999s", "> 0"),
        ("-5ms", "not understood"),
        ("101%", "share <= 100%"),
        ("0.5x", "speed-up >= 1x"),
        ("", "not understood"),
        ("fast", "not understood"),
        ("10ms 20ms", "not understood"),
        ("1,5ms", "not understood"),
        ("nan", "not understood"),
        ("infs", "not understood"),
    ],
)
def test_bad(text: str, says: str) -> None:
    with pytest.raises(PruneSearchError, match=says) as error:
        Budget.parse(text)
    message = str(error.value)
    assert f"'{text}'" in message
    assert "10ms" in message, "the way out"
    assert "\n" not in message
