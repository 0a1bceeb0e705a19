"""A synthetic front with round numbers, so that expected results can be checked by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.study.front import Front

DEPTH, TOKENS, PROTECTED = 9, 65, 1

# id, trial, median ms, holdout accuracy, calibration accuracy, stages. The unpruned model: 20 ms, 0.80.
ROWS: list[tuple[str, int, float, float, float, list[Stage]]] = [
    ("p1", 17, 16.0, 0.802, 0.805, [Stage(3, 0.8, "value_norm", "fuse")]),
    (
        "p2",
        4,
        12.0,
        0.796,
        0.801,
        [Stage(2, 0.75, "key_redundancy", "nearest"), Stage(5, 0.5, merge="bipartite")],
    ),
    (
        "p3",
        230,
        10.0,
        0.784,
        0.781,
        [
            Stage(1, 0.7, merge="bipartite"),
            Stage(4, 0.45, "attention_received", "soft"),
            Stage(7, 0.2, "cls_attention_value", "drop"),
        ],
    ),
    ("p4", 31, 8.0, 0.700, 0.702, [Stage(0, 0.25, "attention_entropy", "fuse")]),
]


def _interval(value: float, half: float) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


def latency(median: float, predicted: float | None = None, **changes: Any) -> dict[str, Any]:
    """A latency that was measured; predicted 2 % too high unless it is said."""
    measured = {"value": median, "p10": median * 0.97, "p90": median * 1.08, **changes}
    return {"predicted": median * 1.02 if predicted is None else predicted, "measured": measured}


def quality(value: float, calibration: float, base: float | None = None, half: float = 0.005) -> dict[str, Any]:
    """A quality with its interval; with the `base` that the unpruned model has, a difference that is `half` sure."""
    found: dict[str, Any] = {**_interval(value, 0.0125), "at_least": value - 0.0105, "calibration": calibration}
    if base is not None:
        at_least = value - base - 0.75 * half
        found["difference"] = {**_interval(value - base, half), "at_least": at_least, "promised": at_least}
    return found


def _point(row: tuple[str, int, float, float, float, list[Stage]]) -> dict[str, Any]:
    name, trial, median, holdout, calibration, stages = row
    schedule = Schedule(stages)
    counts = schedule.counts(DEPTH, TOKENS, PROTECTED)
    return {
        "id": name,
        "trial": trial,
        "plan": schedule.to_dict(),
        "text": str(schedule),
        "tokens": counts,
        "qualities": {"accuracy": quality(holdout, calibration, 0.80)},
        "fidelity": {"kl": (0.81 - holdout) / 2, "agreement": 0.97, "calibration_kl": (0.81 - calibration) / 2},
        "costs": {"latency": latency(median), "macs": {"predicted": 0.26 * sum(counts) / (DEPTH * TOKENS)}},
        "speedup": 20.0 / median,
    }


def front_dict() -> dict[str, Any]:
    """The plain form of the synthetic front, as it stands in a file."""
    return {
        "format": "prunesearch.front",
        "version": 4,
        "study": "demo",
        "created": "2026-11-23T21:04:05+00:00",
        "prunesearch": "0.1.0",
        "config": {"model": "demo", "budget": "60%", "trials": 64, "seed": 0, "space": None},
        "model": {
            "id": "prunesearch/demo-vit-cifar10",
            "class": "ViTForImageClassification",
            "family": "vit",
            "depth": DEPTH,
            "tokens": TOKENS,
            "protected": PROTECTED,
        },
        "task": {
            "name": "image-classification",
            "metric": "accuracy",
            "calibration": 2000,
            "holdout": 4000,
            "notes": ["label column: label", "image column: image"],
        },
        "device": {
            "name": "AMD EPYC 7B13",
            "kind": "cpu",
            "threads": 2,
            "torch": "2.13.0+cpu",
            "transformers": "5.23.0",
            "python": "3.11.9",
        },
        "conditions": {
            "batch_size": 32,
            "dtype": "float32",
            "attention": "sdpa",
            "mode": "eager",
            "threads": 2,
            "tokens": TOKENS,
        },
        "cost_table": {
            "status": "measured",
            "source": "measured in this study",
            "against": "unseen schedules on the same device",
            "notes": [],
            "mape": 0.013,
            "worst": 0.031,
            "rank_correlation": 0.995,
            "schedules": 24,
            "noisy": False,
            "noise": 0.02,
            "seconds": 41.5,
            "cells": 212,
        },
        "objectives": ["latency"],
        "budget": {"text": "60%", "limit": 12.0, "cost": "latency"},
        "unpruned": {
            "qualities": {"accuracy": quality(0.80, 0.81)},
            "costs": {"latency": latency(20.0), "macs": {"predicted": 0.26}},
            "tokens": [TOKENS] * DEPTH,
        },
        "points": [_point(row) for row in ROWS],
        "dropped": 2,
        "verdict": {
            "text": "fastest schedule within 1 % of the unpruned model: p2, 1.67× faster (12.0 ms)",
            "point": "p2",
        },
        "search": {
            "sampler": "tpe",
            "trials": 64,
            "seeds": 24,
            "failed": 0,
            "evaluations": 74.5,
            "seconds": 187.2,
        },
    }


@pytest.fixture
def make_front() -> Callable[..., Front]:
    """A builder: `make_front(**changes)` replaces top-level fields of the synthetic front."""

    def build(**changes: Any) -> Front:
        return Front.model_validate({**front_dict(), **changes})

    return build
