"""Scales fitted to a study against the constants, on losses that were recorded (benchmarks/data/losses)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from prunesearch.core.plans.schedule import Schedule
from prunesearch.search.samplers.surrogate import CorrectionScales, LossModel
from prunesearch.search.solve.gaussian import Array, fit_scales
from prunesearch.search.solve.loss_surface import FLOOR, Cell, LossSurface, SurfaceScales
from prunesearch.search.solve.losses import Sensitivities
from prunesearch.search.space.space import Space, SpaceFile
from tests.support.paths import ROOT

RECORDED = sorted((ROOT / "benchmarks" / "data" / "losses").glob("*.json"))


class Recorded:
    """One model's one-stage losses `[layers, levels, methods]` in nats, and its schedules with theirs."""

    def __init__(self, path: Path) -> None:
        data = json.loads(path.read_text(encoding="utf-8"))
        self.space: Space = SpaceFile.load(None).fit(**data["geometry"], methods=data["methods"])
        shape = (len(self.space.layers), len(self.space.keeps) - 1, len(self.space.methods))
        self.loss, self.scatter = (np.array(data[name]).reshape(shape) for name in ("loss", "scatter"))
        self.rows = data["rows"]
        self.schedules = [
            Schedule([self.space.stage(self.space.layers[i], g, self.space.methods[m]) for i, g, m in sites])
            for sites, _ in data["schedules"]
        ]
        self.losses = np.array([loss for _, loss in data["schedules"]])

    def cells(self, seed: int, n: int) -> list[Cell]:
        rng = np.random.default_rng(seed)
        places = rng.permutation(self.loss.size)[:n]
        return [
            (int(i), int(g) + 1, int(m)) for i, g, m in zip(*np.unravel_index(places, self.loss.shape), strict=True)
        ]

    def surface(self, scales: SurfaceScales | None, cells: list[Cell]) -> LossSurface:
        surface = LossSurface(self.space, scales)
        for i, g, m in cells:
            sides = np.resize([1.0, -1.0], self.rows)
            surface.add((i, g, m), self.loss[i, g - 1, m] + self.scatter[i, g - 1, m] * sides)
        return surface

    def sensitivities(self) -> Sensitivities:
        mean, sd = self.surface(None, self.cells(0, 100)).posterior()
        loss = np.maximum.accumulate(np.exp(mean), axis=1)
        loss[:, 0] = 0.0
        return Sensitivities(self.space.layers, self.space.keeps, self.space.methods, loss, sd, self.rows, 100)


@pytest.fixture(scope="module", params=RECORDED, ids=lambda path: path.stem)
def recorded(request: pytest.FixtureRequest) -> Recorded:
    return Recorded(request.param)


def doubt(mean: Array, variance: Array, truth: Array) -> float:
    """Negative log predictive density a value: what counts both error and calibration."""
    return float(0.5 * np.mean((mean - truth) ** 2 / variance + np.log(2 * np.pi * variance)))


def test_a_fitted_surface_predicts_unmeasured_cells_as_well_or_better(recorded: Recorded) -> None:
    truth = np.log(recorded.loss + FLOOR)
    noise = (recorded.scatter / (recorded.loss + FLOOR)) ** 2 / recorded.rows + 1e-4
    doubts: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(4):
        cells = recorded.cells(seed, 80)
        other = np.ones(truth.shape, dtype=bool)
        other[tuple((np.array(cells) - [0, 1, 0]).T)] = False
        for fitted in (True, False):
            mean, sd = recorded.surface(None if fitted else SurfaceScales(), cells).posterior()
            doubts[fitted].append(doubt(mean[:, 1:][other], (sd[:, 1:] ** 2 + noise)[other], truth[other]))
    assert np.mean(doubts[True]) < np.mean(doubts[False]) + 0.05


def test_fitted_corrections_predict_unseen_schedules_better(recorded: Recorded) -> None:
    found, truth = recorded.sensitivities(), np.log(recorded.losses + FLOOR)
    doubts: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(len(truth))
        told, asked = order[:50], order[50:]
        for fitted in (True, False):
            model = LossModel(recorded.space, found, None if fitted else CorrectionScales())
            model.fit([recorded.schedules[k] for k in told], recorded.losses[told])
            mean, sd = model.predict([recorded.schedules[k] for k in asked])
            doubts[fitted].append(doubt(mean, sd**2, truth[asked]))
    assert np.mean(doubts[True]) < np.mean(doubts[False])


def test_a_fit_is_deterministic_and_within_its_bounds(recorded: Recorded) -> None:
    cells = recorded.cells(0, 80)
    surfaces = [recorded.surface(None, cells) for _ in range(2)]
    one, two = (surface.posterior() for surface in surfaces)
    np.testing.assert_array_equal(one, two)
    assert surfaces[0].scales == surfaces[1].scales != SurfaceScales()
    within = np.array(surfaces[0].scales[:-1]) / np.array(SurfaceScales()[:-1])
    assert ((within > 1 / 3) & (within < 3)).all()


def test_a_fit_waits_until_the_cells_have_doubled() -> None:
    recorded = Recorded(RECORDED[0])
    cells = recorded.cells(0, 63)
    surface = recorded.surface(None, cells[:32])
    surface.posterior()
    first = surface.scales
    for i, g, m in cells[32:]:
        surface.add((i, g, m), np.full(8, recorded.loss[i, g - 1, m]))
    surface.posterior()
    assert surface.scales is first
    surface.add(recorded.cells(1, 1)[0], np.full(8, 0.1))
    surface.posterior()
    assert surface.scales is not first


def test_few_cells_keep_the_constants() -> None:
    recorded = Recorded(RECORDED[0])
    surface = recorded.surface(None, recorded.cells(0, 12))
    surface.posterior()
    assert surface.scales == SurfaceScales()


def test_where_the_values_say_nothing_a_scale_stays_and_none_runs_away() -> None:
    np.testing.assert_allclose(fit_scales(lambda factors: 0.0, [0.5, 1.0]), [1.0, 1.0])
    np.testing.assert_allclose(fit_scales(lambda factors: 1e6 * factors[0], [0.5]), [np.exp(1.5)])


def test_a_fit_looks_at_a_bounded_number_of_scales() -> None:
    looks = 0

    def rough(factors: Array) -> float:
        nonlocal looks
        looks += 1
        return float(np.sin(37 * factors).sum())

    fit_scales(rough, [0.7] * 8)
    assert looks <= 250
