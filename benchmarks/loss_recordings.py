"""What loss models are judged on: one-stage losses of every cell, and losses of schedules of several stages.

    python benchmarks/loss_recordings.py --models demo minilm kwt1      # minutes each, one thread; writes data/losses/

A recording is a small JSON file: whoever changes a loss model (`loss_models.py`) needs neither the model nor its data.
Half of the schedules are drawn at random; the others lie on and around fronts that few cells lead to, as those that a
search verifies.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import config_of
from numpy.typing import NDArray

from prunesearch import __version__
from prunesearch.core.files import write_text_atomic
from prunesearch.core.plans.schedule import Schedule
from prunesearch.cost.counting.flops import MacCosts
from prunesearch.cost.shape import BlockSizes
from prunesearch.pruning.apply import apply_, runnable
from prunesearch.search.solve.loss_surface import Cell, LossSurface, SurfaceScales
from prunesearch.search.solve.losses import Sensitivities
from prunesearch.search.solve.sensitivity import Probe, first_cells
from prunesearch.search.solve.solver import solver_for
from prunesearch.search.space.moves import neighbours
from prunesearch.search.space.space import Space, SpaceFile
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.study.config import RunConfig
from prunesearch.study.setup import load_study_task

FOLDER = Path(__file__).parent / "data" / "losses"
NAMES = {"demo": "the demo ViT, CIFAR-10", "minilm": "all-MiniLM-L6-v2 with a fitted head, SST-2"}
MODELS = (*NAMES, "kwt1")
FEWER = [f"{s}+{m}" for s in ("cls_attention", "attention_received", "value_norm") for m in ("drop", "fuse", "nearest")]
FEWER += ["key_redundancy+drop", "key_redundancy+fuse", "bipartite"]


@dataclass(frozen=True)
class Size:
    """Rows of every cell and of every schedule, schedules, and the methods: None for all of the default space."""

    rows: int
    schedule_rows: int
    schedules: int
    methods: list[str] | None = None


SIZES = {"demo": Size(48, 192, 160), "minilm": Size(24, 48, 110, FEWER), "kwt1": Size(24, 64, 110, FEWER)}


@dataclass(frozen=True)
class Recording:
    """Losses of one model.

    Attributes:
        loss, scatter: mean and standard deviation over `rows` rows of every cell, nats, `[layers, levels, methods]`;
            level 0 is the whole sequence.
        schedules: those of several stages, with their mean losses on more rows, nats.
    """

    model: str
    space: Space
    costs: MacCosts
    rows: int
    loss: NDArray[np.float64]
    scatter: NDArray[np.float64]
    schedules: list[tuple[Schedule, float]]

    def losses(self, cell: Cell) -> NDArray[np.float64]:
        """Rows of the recorded mean and standard deviation, in place of those that were measured."""
        sides = np.resize([1.0, -1.0], self.rows)
        return np.asarray(self.loss[cell] + self.scatter[cell] * sides, dtype=float)

    @classmethod
    def load(cls, path: Path) -> Recording:
        """Read what `record` wrote."""
        data = json.loads(path.read_text())
        space = SpaceFile.load(None).fit(**data["geometry"], methods=data["methods"])
        shape = (len(space.layers), len(space.keeps) - 1, len(space.methods))
        grids = []
        for name in ("loss", "scatter"):
            grid = np.zeros((shape[0], shape[1] + 1, shape[2]))
            grid[:, 1:] = np.array(data[name]).reshape(shape)
            grids.append(grid)
        schedules = [(_schedule(space, sites), loss) for sites, loss in data["schedules"]]
        return cls(data["model"], space, _macs(data), data["rows"], *grids, schedules)


def _macs(data: dict[str, Any]) -> MacCosts:
    """Of blocks that are all alike, as those of the recorded models are."""
    size = data["geometry"]
    blocks = (BlockSizes(*data["block"]),) * size["depth"]
    return MacCosts(size["tokens"], size["protected"], blocks, data["around"])


def _schedule(space: Space, sites: list[Cell]) -> Schedule:
    return Schedule([space.stage(space.layers[i], g, space.methods[m]) for i, g, m in sites])


def record(name: str, config: RunConfig, about: str) -> dict[str, Any]:
    """Measure a recording; what is written to disk."""
    size, started = SIZES[name], time.process_time()
    task = load_study_task(config, quiet=True)
    with apply_(task.model, Schedule(), seed=0) as handle:
        geometry = {"depth": handle.encoder.depth, "tokens": task.tokens, "protected": handle.encoder.protected}
        space = SpaceFile.load(None).fit(**geometry)
        space = space.with_methods(runnable(size.methods or space.methods, config.attention))
        costs = MacCosts.of(handle.encoder, task.tokens)
        probe = Probe(task, handle, task.calibration.take(size.rows), space, costs)
        grids = np.zeros((2, len(space.layers), len(space.keeps) - 1, len(space.methods)))
        for i, g, m in np.ndindex(*grids.shape[1:]):
            losses = probe.losses((i, g + 1, m))
            grids[:, i, g, m] = losses.mean(), losses.std()
        probe.close()
        rows = task.calibration.take(size.schedule_rows)
        evaluator = Evaluator(task, handle, rows)
        schedules = _schedules(space, costs, grids, size)
        losses = [evaluator.evaluate(schedule).loss for schedule in schedules]
    return {
        "model": name,
        "about": about,
        "made": f"prunesearch {__version__}, torch {torch.__version__}, benchmarks/loss_recordings.py",
        "seconds": round(time.process_time() - started),
        "rows": probe.rows.n,
        "schedule_rows": rows.n,
        "geometry": geometry,
        "block": list(costs.blocks[0]),
        "around": costs.around,
        "methods": space.methods,
        "loss": _rounded(grids[0].ravel()),
        "scatter": _rounded(grids[1].ravel()),
        "schedules": [
            [[(s.layer, space.keeps.index(s.keep), space.methods.index(s.method)) for s in schedule], loss]
            for schedule, loss in zip(schedules, _rounded(losses), strict=True)
        ],
    }


def _rounded(values: Any) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


def _schedules(space: Space, costs: MacCosts, grids: NDArray[np.float64], size: Size) -> list[Schedule]:
    rng = random.Random(0)
    found: dict[Schedule, None] = {}
    while len(found) < size.schedules // 2:
        params = {n: rng.choice(list(_values(d))) for n, d in space.distributions().items()}
        schedule = space.decode(params)
        if len(schedule) > 1:
            found[schedule] = None
    solver, seed = solver_for(space, costs, costs.predict(Schedule())), 0
    while len(found) < size.schedules:
        surface = LossSurface(space, SurfaceScales())
        for i, g, m in first_cells(space, np.random.default_rng(seed)):
            mean, sd = grids[:, i, g - 1, m]
            surface.add((i, g, m), mean + sd * np.resize([1.0, -1.0], size.rows))
        loss = np.exp(surface.posterior()[0])
        loss[:, 0] = 0.0
        front = solver.solve(Sensitivities.free(space).with_loss(np.maximum.accumulate(loss, axis=1)), 12)
        for centre in front:
            near = [centre.schedule, *rng.sample(neighbours(space, centre.schedule, range(4)), 1)]
            found |= dict.fromkeys(s for s in near if len(s) > 1)
        seed += 1
    return list(found)[: size.schedules]


def _values(distribution: Any) -> Any:
    if hasattr(distribution, "choices"):
        return distribution.choices
    return range(distribution.low, distribution.high + 1)


def main() -> None:
    """Record what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in arguments.models:
        with ExitStack() as stack:
            if name == "kwt1":
                from task_rows import ROWS

                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                row = ROWS["kwt1"]
                row.register()
                config, about = RunConfig(**row.make(folder)), row.model
            else:
                config, about = config_of(name), NAMES[name]
            data = record(name, config, about)
        write_text_atomic(FOLDER / f"{name}.json", json.dumps(data))
        print(f"{name}: {len(data['loss'])} cells, {len(data['schedules'])} schedules, {data['seconds']} s")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
