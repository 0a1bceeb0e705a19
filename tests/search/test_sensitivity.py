from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prunesearch.core.errors import CorruptFileError
from prunesearch.core.schedule import Schedule, Stage
from prunesearch.pruning.apply import Handle
from prunesearch.search.evaluate import Evaluator
from prunesearch.search.sensitivity import (
    Sensitivities,
    measure_sensitivities,
    screen_methods,
    screening_sites,
)
from prunesearch.search.space import Space
from prunesearch.tasks.base import Task


def test_resumed_losses_equal_whole_forwards(vit_task: Task, handle: Handle, space: Space) -> None:
    rows: list[int] = []
    found = measure_sensitivities(vit_task, handle, vit_task.calibration, space, rows.append)
    evaluator = Evaluator(vit_task, handle, vit_task.calibration)
    whole = np.zeros_like(found.loss)
    for i, layer in enumerate(space.layers):
        for g in range(1, len(space.keeps)):
            for m, method in enumerate(space.methods):
                whole[i, g, m] = evaluator.evaluate(Schedule([space.stage(layer, g, method)])).loss
    expected = np.maximum.accumulate(whole, axis=1)
    np.testing.assert_allclose(found.loss, expected, rtol=1e-4, atol=1e-7)
    assert expected.max() > 0.01
    assert sum(rows) == vit_task.calibration.n * len(space.layers) * (len(space.keeps) - 1) * len(space.methods)
    assert handle.schedule == Schedule()


def test_screening_takes_the_best_drop_and_fills_up(vit_task: Task, handle: Handle, space: Space) -> None:
    chosen = screen_methods(vit_task, handle, vit_task.calibration, space, lambda _: None)
    assert len(chosen) == len(set(chosen)) == 3
    assert chosen[0].endswith("+drop")
    evaluator = Evaluator(vit_task, handle, vit_task.calibration)

    def total(method: str) -> float:
        sites = screening_sites(space)
        return sum(np.log(evaluator.evaluate(Schedule([space.stage(*site, method)])).loss + 1e-4) for site in sites)

    drops = [m for m in space.methods if m.endswith("+drop")]
    assert chosen[0] == min(drops, key=total)


def test_estimate_adds_what_each_stage_adds() -> None:
    loss = np.zeros((2, 3, 1))
    loss[0, :, 0] = [0.0, 1.0, 5.0]
    loss[1, :, 0] = [0.0, 0.5, 2.0]
    table = Sensitivities([0, 1], [1.0, 0.5, 0.25], ["value_norm+drop"], loss, 1)
    two = Schedule([Stage(0, 0.5, "value_norm"), Stage(1, 0.25, "value_norm")])
    assert table.estimate(two) == pytest.approx(1.0 + (2.0 - 0.5))
    assert table.estimate(Schedule()) == 0.0


def test_round_trip_and_corrupt_file(tmp_path: Path, space: Space) -> None:
    loss = np.random.default_rng(0).random((4, 4, 5))
    before = Sensitivities(space.layers, space.keeps, space.methods, loss, 7)
    path = tmp_path / "sensitivities.json"
    before.save(path)
    after = Sensitivities.load(path)
    np.testing.assert_array_equal(after.loss, before.loss)
    assert (after.layers, after.keeps, after.methods, after.samples) == (
        before.layers,
        before.keeps,
        before.methods,
        7,
    )
    path.write_text(path.read_text()[:-20])
    with pytest.raises(CorruptFileError, match=r"sensitivities\.json"):
        Sensitivities.load(path)
