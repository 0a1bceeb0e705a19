from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prunesearch.core.appended import Appended
from prunesearch.core.errors import CorruptFileError
from prunesearch.core.pareto import hypervolume_2d
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.pruning.apply import Handle
from prunesearch.search.solve.dynamic import Solver
from prunesearch.search.solve.loss_surface import LossSurface
from prunesearch.search.solve.losses import Sensitivities
from prunesearch.search.solve.sensitivity import Probe, first_cells, measure_sensitivities, next_cells
from prunesearch.search.solve.solver import solve
from prunesearch.search.space.space import Space
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.tasks.base import Task
from tests.support.fakes import LinearCosts


def whole_grid(task: Task, handle: Handle, space: Space) -> Sensitivities:
    """Every cell, by whole forwards."""
    evaluator, free = Evaluator(task, handle, task.calibration), Sensitivities.free(space)
    loss = np.zeros_like(free.loss)
    for i, g, m in np.ndindex(loss.shape):
        if g:
            stage = space.stage(space.layers[i], g, space.methods[m])
            loss[i, g, m] = evaluator.evaluate(Schedule([stage])).loss
    return free.with_loss(np.maximum.accumulate(loss, axis=1))


@pytest.mark.parametrize("cache_bytes", [0, 2**30])
def test_resumed_losses_equal_whole_forwards(
    vit_task: Task, handle: Handle, space: Space, costs: LinearCosts, cache_bytes: int
) -> None:
    probe = Probe(vit_task, handle, vit_task.calibration, space, costs, cache_bytes)
    evaluator = Evaluator(vit_task, handle, vit_task.calibration)
    for i, g, m in ((0, 1, 0), (1, 3, 2), (3, 2, 4), (3, 3, 1)):
        found = probe.losses((i, g, m))
        whole = evaluator.evaluate(Schedule([space.stage(space.layers[i], g, space.methods[m])]))
        # the evaluator takes its batches in an order of its own
        np.testing.assert_allclose(np.sort(found), np.sort(whole.kl.numpy()), rtol=1e-4, atol=1e-7)
    probe.close()
    assert handle.schedule == Schedule()
    references = {0: 4, 2**30: 1}[cache_bytes] * vit_task.calibration.n
    assert references < probe.passes < references + 4 * vit_task.calibration.n


def test_few_cells_give_nearly_the_front_of_all(
    vit_task: Task, handle: Handle, space: Space, costs: LinearCosts
) -> None:
    limit = costs.predict(Schedule())
    found = measure_sensitivities(
        vit_task, handle, vit_task.calibration, space, costs, limit, samples=12, units=1e9, seed=3
    )
    truth = whole_grid(vit_task, handle, space)
    cells = len(space.layers) * (len(space.keeps) - 1) * len(space.methods)
    assert found.measured < cells
    assert found.samples == vit_task.calibration.n
    areas = []
    for table in (found, truth):
        seeds = solve(space, table, costs, limit, 100)
        points = [(seed.cost / limit, truth.estimate(seed.schedule)) for seed in seeds]
        areas.append(hypervolume_2d(points, (1.0, float(truth.loss.max()))))
    assert areas[0] > 0.97 * areas[1]
    assert handle.schedule == Schedule()


def test_measuring_stops_where_its_allowance_ends(
    vit_task: Task, handle: Handle, space: Space, costs: LinearCosts
) -> None:
    spent: list[float] = []
    limit = costs.predict(Schedule())
    found = measure_sensitivities(
        vit_task, handle, vit_task.calibration, space, costs, limit, samples=12, units=2.0, advance=spent.append
    )
    assert sum(spent) == pytest.approx(2.0)
    assert found.measured == len(first_cells(space, np.random.default_rng(0)))
    assert 2.0 < found.passes / vit_task.calibration.n < 8.0


def test_first_cells_have_every_method_and_block(space: Space) -> None:
    cells = first_cells(space, np.random.default_rng(0))
    assert {m for _, _, m in cells} == set(range(len(space.methods)))
    assert {i for i, _, _ in cells} == set(range(len(space.layers)))
    assert {g for _, g, _ in cells} == set(range(1, len(space.keeps)))


def test_next_cells_are_unmeasured_and_on_a_hopeful_front(space: Space, costs: LinearCosts) -> None:
    surface = LossSurface(space)
    for cell in first_cells(space, np.random.default_rng(0)):
        surface.add(cell, np.full(8, 0.1 * cell[1] / (1 + cell[0])))
    cells = next_cells(surface, Solver(space, costs, costs.predict(Schedule())))
    assert cells
    assert not set(cells) & set(surface.rows)
    assert all(1 <= g < len(space.keeps) for _, g, _ in cells)


def test_a_stage_adds_its_share_of_what_is_gone() -> None:
    loss = np.zeros((2, 3, 1))
    loss[0, :, 0] = [0.0, 1.0, 5.0]
    loss[1, :, 0] = [0.0, 0.5, 2.0]
    table = Sensitivities([0, 1], [1.0, 0.5, 0.25], ["value_norm+drop"], loss, np.zeros_like(loss), 1, 4)
    two = Schedule([Stage(0, 0.5, "value_norm"), Stage(1, 0.25, "value_norm")])
    # the second stage removes half of what is there, where from the start it would remove three quarters
    assert table.estimate(two) == pytest.approx(1.0 + 2.0 * 0.5 / 0.75)
    assert table.estimate(Schedule([Stage(1, 0.25, "value_norm")])) == 2.0
    assert table.estimate(Schedule()) == 0.0


def test_round_trip_and_corrupt_file(tmp_path: Path, space: Space) -> None:
    loss, sd = np.random.default_rng(0).random((2, 4, 4, 5))
    before = Sensitivities(space.layers, space.keeps, space.methods, loss, sd, 7, 30, 12.5, 3.0)
    path = tmp_path / "sensitivities.json"
    before.save(path)
    after = Sensitivities.load(path)
    np.testing.assert_array_equal(after.loss, before.loss)
    np.testing.assert_array_equal(after.sd, before.sd)
    rest = ("layers", "keeps", "methods", "samples", "measured", "passes", "seconds")
    assert [getattr(after, name) for name in rest] == [getattr(before, name) for name in rest]
    path.write_text(path.read_text()[:-20])
    with pytest.raises(CorruptFileError, match=r"sensitivities\.json"):
        Sensitivities.load(path)


@pytest.mark.parametrize("every", [1, 5])
def test_what_was_found_before_an_interruption_counts_and_all_ends_as_without_one(
    vit_task: Task, handle: Handle, space: Space, costs: LinearCosts, tmp_path: Path, every: int
) -> None:
    """Interrupted again and again after a few cells, with the same losses, cells and passes in the end."""
    limit = costs.predict(Schedule())

    class Interrupting(Appended):
        """Ends the process when so many cells were kept."""

        left = every

        def add(self, record: object) -> None:
            super().add(record)
            self.flush()
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt

    def measured(keep: Appended | None) -> Sensitivities:
        rows = vit_task.calibration
        return measure_sensitivities(vit_task, handle, rows, space, costs, limit, samples=12, units=9.0, keep=keep)

    whole, found, sittings = measured(None), None, 0
    while found is None:
        try:
            found = measured(Interrupting(tmp_path / "sensitivities.part"))
        except KeyboardInterrupt:
            sittings += 1
    assert sittings == whole.measured // every
    assert np.array_equal(found.loss, whole.loss)
    assert np.array_equal(found.sd, whole.sd)
    assert (found.measured, found.samples) == (whole.measured, whole.samples)
    assert found.passes == pytest.approx(whole.passes)
