"""Whether early stages hold better: what holding is, and the interval of it."""

from __future__ import annotations

import early_late
import pytest
import torch


def test_holding_is_the_change_on_altered_rows_beside_that_on_the_same_rows_as_they_are() -> None:
    unpruned = {"": torch.tensor([1.0, 1, 0]), "fog": torch.tensor([1.0, 0, 0]), "snow": torch.tensor([1.0, 1, 0])}
    plan = {"": torch.tensor([0.0, 1, 0]), "fog": torch.tensor([0.0, 1, 0]), "snow": torch.tensor([0.0, 0, 1])}
    assert early_late.held(plan, unpruned).tolist() == [0.0, 0.0, 0.5]


def test_the_interval_is_that_of_a_mean() -> None:
    rows = torch.randn(400, generator=torch.Generator().manual_seed(0)).double() * 0.5 + 1
    value, low, high = early_late.interval(rows)
    assert value == pytest.approx(float(rows.mean()))
    near = 1.96 * float(rows.std()) / 20
    assert (value - low, high - value) == (pytest.approx(near, rel=0.1), pytest.approx(near, rel=0.1))
