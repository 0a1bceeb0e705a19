"""A machine whose blocks are of two kinds: measured as such, priced as such, solved for as such."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.pareto import non_dominated
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.cost.estimate.estimate import covers
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.tables.device_profile import Profile
from prunesearch.cost.tables.plateaus import block_curve
from prunesearch.cost.timing.build import cells_of
from prunesearch.cost.timing.walk import Piece, Walks, piece_names, plan_walks
from prunesearch.report.curves import block_curve_of
from tests.support.known_device import known_table, write_profile
from tests.support.known_machine import COUNTS, METHODS, SHAPE

TWO = SHAPE.model_copy(update={"variants": ("/glu64", "window9/glu64", "window9/") * 2})


def true_ms(piece: Piece) -> float:
    """Windows take half of the attention, gates half as much again of the MLP."""
    match piece:
        case ("attention", n, sized, variant):
            return (0.2 + 0.02 * n + (0.05 if sized else 0.0)) * (0.5 if variant == "window9" else 1.0)
        case ("mlp", n, variant):
            return (0.1 + 0.04 * n) * (1.5 if variant == "glu64" else 1.0)
        case ("reduce", _, _, n_in, n_out):
            return 0.01 * n_in + 0.002 * n_out
        case ("head", n):
            return 0.1 + 0.002 * n
    return 0.5 if piece == ("stem",) else 0.0


@pytest.fixture(scope="module")
def walks() -> Walks:
    found = Walks()
    plan = plan_walks(TWO.depth, TWO.tokens, TWO.protected, COUNTS, METHODS, seed=0)
    for schedule in itertools.islice(plan, 400):
        found.add([(piece, true_ms(piece)) for piece in piece_names(schedule.flow(TWO.geometry), TWO)])
    return found


@pytest.fixture(scope="module")
def table(walks: Walks) -> CostTable:
    return CostTable(**{**dict(known_table()), "shape": TWO, "cells": cells_of(walks)})


SCHEDULE = Schedule([Stage(1, 0.5, "value_norm", "fuse"), Stage(4, 0.1, "cls_attention", "drop")])


def test_every_block_is_priced_as_its_variant(table: CostTable) -> None:
    for layer in range(6):
        windowed, gated = layer % 3 > 0, layer % 3 < 2
        assert table.attention(33, False, layer) == pytest.approx((0.2 + 0.02 * 33) * (0.5 if windowed else 1))
        assert table.mlp(20, layer) == pytest.approx((0.1 + 0.04 * 20) * (1.5 if gated else 1))
    total = sum(true_ms(piece) for piece in piece_names(SCHEDULE.flow(TWO.geometry), TWO))
    assert table.predict(SCHEDULE) == pytest.approx(total, rel=1e-6)
    moved = Schedule([Stage(0, 0.5, "value_norm", "fuse"), Stage(4, 0.1, "cls_attention", "drop")])
    other = sum(true_ms(piece) for piece in piece_names(moved.flow(TWO.geometry), TWO))
    assert table.predict(moved) == pytest.approx(other, rel=1e-6)


def test_it_is_written_and_read_back(table: CostTable, tmp_path: Path) -> None:
    table.save(tmp_path / "table.json")
    assert json.loads((tmp_path / "table.json").read_text())["version"] == 3
    back = CostTable.load(tmp_path / "table.json")
    assert back == table
    assert back.predict(SCHEDULE) == table.predict(SCHEDULE)
    written = write_profile(tmp_path, "two", table)
    (entry,) = written.tables
    assert Profile.load(tmp_path / "two").read(entry).predict(SCHEDULE) == pytest.approx(table.predict(SCHEDULE), 1e-4)
    conditions = {"batch_size": 8, "dtype": "float32", "attention": "sdpa", "mode": "eager", "device": "cpu"}
    assert written.find(SHAPE, conditions, "plain") is None
    windowed = TWO.model_copy(update={"depth": 3, "variants": ("window9/glu64",) * 3})
    found = written.find(windowed, conditions, "windowed")
    assert found is not None
    assert found.mlp(20, 0) == pytest.approx(1.5 * (0.1 + 0.04 * 20), rel=1e-4)


def test_a_piece_that_was_not_measured_is_refused(table: CostTable) -> None:
    cells = table.cells.model_copy(update={"mlp": [c for c in table.cells.mlp if c.variant != "glu64"]})
    without = table.model_copy(update={"cells": cells})
    fresh = CostTable(**{**dict(without), "cells": cells})
    with pytest.raises(PruneSearchError, match="the MLP of glu64 blocks"):
        fresh.predict(SCHEDULE)


def test_the_curve_of_a_block_is_the_mean_over_the_models(table: CostTable) -> None:
    (point,) = [p for p in block_curve(table, biased=False) if p.tokens == 33]
    attention, mlp = 0.2 + 0.02 * 33, 0.1 + 0.04 * 33
    halves = attention * (2 + 4 * 0.5) / 6, mlp * (4 * 1.5 + 2) / 6
    assert point.ms == pytest.approx(sum(halves))
    (row,) = [r for r in block_curve_of(table).rows if r.tokens == 33]
    assert (row.attention, row.mlp) == pytest.approx(halves)


def test_an_estimate_walks_until_every_variant_was_met(walks: Walks) -> None:
    assert covers(walks, TWO, COUNTS, METHODS)
    missing = TWO.model_copy(update={"variants": ("/glu64",) * 5 + ("kv1/",)})
    assert not covers(walks, missing, COUNTS, METHODS)


def test_the_solver_prices_blocks_by_their_number(table: CostTable) -> None:
    """Against every schedule of a small space, priced one by one."""
    from prunesearch.search.solve.losses import Sensitivities
    from prunesearch.search.solve.solver import solve
    from prunesearch.search.space.space import Space
    from tests.support.fakes import small_space_file

    file = small_space_file(keep=[0.5, 0.25], scorers=["value_norm"], merges=["fuse"], max_stages=1)
    space = Space(file, TWO.depth, TWO.tokens, TWO.protected)
    losses = Sensitivities.free(space)
    loss = np.random.default_rng(0).random(losses.loss.shape)
    loss[:, 0] = 0.0
    every = [
        (table.predict(schedule), float(loss[i, g, 0]), schedule)
        for i, layer in enumerate(space.layers)
        for g in (1, 2)
        for schedule in [Schedule([space.stage(layer, g, space.methods[0])])]
    ]
    every.append((table.predict(Schedule()), 0.0, Schedule()))
    kept = non_dominated([(cost, lost) for cost, lost, _ in every])
    front = {schedule for (_, _, schedule), keep in zip(every, kept, strict=True) if keep}
    found = solve(space, losses.with_loss(loss), table, table.predict(Schedule()), 100)
    assert {seed.schedule for seed in found} == front
    assert all(seed.cost == table.predict(seed.schedule) for seed in found)
