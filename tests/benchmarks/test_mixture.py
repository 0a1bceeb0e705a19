"""What `benchmarks/task_runs.py` reads off a front at a speed: means of batches sent to the two points around it."""

from __future__ import annotations

from types import SimpleNamespace as Of

import numpy as np
import pytest
from task_runs import at_speed, cells


def item(ms: float, quality: float, agreement: float = 1.0, kl: float = 0.0) -> Of:
    return Of(latency=Of(value=ms), quality=Of(value=quality), fidelity=Of(agreement=agreement, kl=kl))


FRONT = Of(unpruned=item(12, 0.9), points=[item(4, 0.6, 0.7, 0.4), item(7, 0.8, 0.9, 0.1)])


@pytest.mark.parametrize("speedup", [1.5, 2.0, 12 / 7, 3.0])
def test_batches_in_the_shares_told_take_that_long_and_are_that_good(speedup: float) -> None:
    found = at_speed(FRONT, speedup)
    slower, faster = (FRONT.unpruned, FRONT.points[1]) if 12 / speedup > 7 else (FRONT.points[1], FRONT.points[0])
    share = (slower.latency.value - 12 / speedup) / (slower.latency.value - faster.latency.value)
    batches = [faster] * round(10_000 * share) + [slower] * round(10_000 * (1 - share))
    assert np.mean([p.latency.value for p in batches]) == pytest.approx(12 / speedup, abs=1e-3)
    assert found["quality"] == pytest.approx(np.mean([p.quality.value for p in batches]), abs=1e-4)
    assert found["agreement"] == pytest.approx(np.mean([p.fidelity.agreement for p in batches]), abs=1e-4)
    assert found["kl"] == pytest.approx(np.mean([p.fidelity.kl for p in batches]), abs=1e-4)


def test_nothing_is_told_of_a_speed_that_no_point_has() -> None:
    assert at_speed(FRONT, 3.1) is None
    assert at_speed(Of(unpruned=item(12, 0.9), points=[]), 1.5) is None


@pytest.mark.parametrize("weights", ["trained", "random"])
def test_quality_is_told_of_trained_weights_alone(weights: str) -> None:
    found = {
        "model": "ViT",
        "weights": weights,
        "task": "image-classification",
        "metric": "accuracy",
        "unpruned": {"quality": {"value": 0.9}, "ms": 12.0},
        "verdict": {"speedup": 1.7},
        "at": {"1.5": at_speed(FRONT, 1.5), "4": at_speed(FRONT, 4.0)},
        "fastest": 3.0,
        "conditions": {"batch_size": 8},
        "tokens": 65,
        "table_error": 0.01,
        "seconds": 60.0,
    }
    line = cells(found)
    told = f"{found['at']['1.5']['quality']:.3f}" in " ".join(line)
    assert told == (weights == "trained")
    assert ("random weights" in line[0], "agreement" in line[2]) == (weights == "random",) * 2
    assert "none (to 3.00x)" in line
