"""Two thousand studies with known truths: what is promised is false in one of twenty at most, give or take chance."""

from __future__ import annotations

import pytest
import verdict


@pytest.mark.parametrize("setting", list(verdict.SETTINGS))
def test_false_promises_are_rare_where_those_by_estimate_are_not(setting: str):
    old, new, fewer, turn = verdict.simulate(setting, rows=500)
    assert new.false <= 0.06
    assert fewer.false <= 0.06
    assert turn.false <= 0.06
    assert turn.read <= fewer.read <= 1
    assert turn.any >= fewer.any - 0.03
    assert turn.place >= fewer.place - 0.1
    assert old.false > 0.3


def test_the_simulation_knows_its_truth():
    """Twelve candidates that lose nothing: nothing is false, and nearly all of the last are promised."""
    truth = verdict.at_the_border(verdict.np.random.default_rng(0)) * 0
    gained, lost = verdict.counts(truth, 4000, verdict.np.random.default_rng(0))
    found = verdict.judge(verdict.by_promise(gained, lost, 4000), truth)
    assert found.false == 0
    assert found.place > 6
    assert abs((gained - lost).mean()) < 1
