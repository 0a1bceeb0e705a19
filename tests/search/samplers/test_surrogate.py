"""The loss model against a world whose corrections are known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from prunesearch.core.plans.schedule import Schedule
from prunesearch.search.samplers.surrogate import LossModel
from prunesearch.search.solve.loss_surface import FLOOR
from prunesearch.search.solve.losses import Sensitivities
from prunesearch.search.space.space import Space
from tests.support.fakes import make_space


def believed(space: Space, sd: float = 0.3) -> Sensitivities:
    free = Sensitivities.free(space)
    keeps = np.array(space.keeps)
    loss = np.broadcast_to(0.5 * (1 - keeps)[None, :, None], free.loss.shape)
    layers = np.exp(-np.arange(len(space.layers)))[:, None, None]
    return Sensitivities(
        free.layers, free.keeps, free.methods, loss * layers, np.full(free.loss.shape, sd), samples=16, measured=9
    )


def many(space: Space) -> list[Schedule]:
    """All schedules of one or two stages."""
    found = []
    for number in (1, 2):
        for layers in itertools.combinations(range(len(space.layers)), number):
            for levels in itertools.combinations(range(1, len(space.keeps)), number):
                for methods in itertools.product(space.methods, repeat=number):
                    sites = zip(layers, levels, methods, strict=True)
                    found.append(Schedule([space.stage(la, g, m) for la, g, m in sites]))
    return found


def test_before_any_trial_the_estimate_is_the_sensitivities() -> None:
    space = make_space()
    model, schedules = LossModel(space, believed(space)), many(space)
    mean, sd = model.predict(schedules)
    expected = [np.log(believed(space).estimate(s) + FLOOR) for s in schedules]
    np.testing.assert_allclose(mean, expected)
    assert (sd > 0.1).all()
    np.testing.assert_allclose(model.corrected().loss, np.maximum.accumulate(believed(space).loss, axis=1))


def test_it_learns_which_block_was_misjudged() -> None:
    """Block 1 loses three times what was believed: told by a few schedules, the model knows it of all."""
    space = make_space()
    truth = believed(space)
    truth = truth.with_loss(truth.loss * np.array([1, 3, 1, 1])[:, None, None])
    schedules = many(space)
    rng = np.random.default_rng(0)
    told = [schedules[k] for k in rng.permutation(len(schedules))[:30]]
    asked = [s for s in schedules if s not in told]
    model = LossModel(space, believed(space, sd=0.6))
    errors = []
    true = np.log([truth.estimate(s) for s in asked])
    for _ in range(2):
        mean, _ = model.predict(asked)
        errors.append(np.sqrt(((mean - true) ** 2).mean()))
        model.fit(told, np.array([truth.estimate(s) for s in told]))
    assert errors[1] < 0.4 * errors[0]
    multipliers = model.corrected().loss[:, 1:] / believed(space).loss[:, 1:]
    assert multipliers[1].mean() > 2.2
    assert 0.7 < multipliers[3].mean() < 1.4


def test_it_learns_that_a_pair_interacts() -> None:
    """Two stages by one method lose half as much again: what single stages cannot say."""
    space = make_space()
    table = believed(space, sd=0.02)

    def loss(schedule: Schedule) -> float:
        twice = len(schedule) == 2 and len({s.method for s in schedule}) == 1
        return table.estimate(schedule) * (1.5 if twice else 1.0)

    pairs = [s for s in many(space) if len(s) == 2]
    rng = np.random.default_rng(1)
    order = rng.permutation(len(pairs))
    told, asked = [pairs[k] for k in order[:200]], [pairs[k] for k in order[200:]]
    model = LossModel(space, table)
    model.fit(told, np.array([loss(s) for s in told]))
    mean, _ = model.predict(asked)
    found = mean - np.log([table.estimate(s) for s in asked])
    twice = np.array([loss(s) > 1.2 * table.estimate(s) for s in asked])
    assert found[twice].mean() - found[~twice].mean() > 0.05


def test_what_was_told_is_remembered_and_surer() -> None:
    space = make_space()
    model, schedules = LossModel(space, believed(space)), many(space)[::7]
    _, before = model.predict(schedules)
    told = schedules[:20]
    model.fit(told, np.array([2 * believed(space).estimate(s) for s in told]))
    mean, after = model.predict(told)
    assert mean == pytest.approx(np.log([2 * believed(space).estimate(s) for s in told]), abs=0.15)
    assert (after < before[:20]).all()
