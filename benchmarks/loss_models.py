"""Loss models with fixed scales against scales fitted to each study, on recorded losses (data/losses/); offline.

    python benchmarks/loss_models.py [--models demo minilm kwt1] [--seeds 10] [--json FILE]

Surface: cells are measured as a search would (first cells, then those that the solver hopes for); what it says of all
the others is held against their recorded losses. Corrections: a model is fitted to some of the recorded schedules and
asked for the rest. `error` is the root mean square of the log loss, over what loses less than half a nat; `z` the same
of the error over the standard deviation predicted (1: calibrated); `nlpd` the negative log predictive density, which
counts both. `area` is the area under the front that the model leads to, over that of the front with all losses known.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from loss_recordings import FOLDER, MODELS, Recording
from numpy.typing import NDArray

from prunesearch.core.files import write_text_atomic
from prunesearch.core.pareto import hypervolume_2d
from prunesearch.core.plans.schedule import Schedule
from prunesearch.search.samplers.improvement import LOST, Staircase
from prunesearch.search.samplers.surrogate import CorrectionScales, LossModel
from prunesearch.search.solve.loss_surface import FLOOR, LossSurface, SurfaceScales
from prunesearch.search.solve.losses import Sensitivities
from prunesearch.search.solve.sensitivity import first_cells, next_cells
from prunesearch.search.solve.solver import solver_for

KINDS = ("fixed", "fitted")
CELLS = (36, 60, 108)
SCHEDULES = (20, 40, 80)
Array = NDArray[np.float64]
Row = dict[str, float]


def judged(mean: Array, sd: Array, truth: Array, noise: Array) -> Row:
    """Errors of predictions `[n]` of the log losses `truth`, whose own variances are `noise`."""
    matter = truth < np.log(LOST)
    error, variance = (mean - truth)[matter], (sd**2 + noise)[matter]
    nlpd = 0.5 * np.mean(error**2 / variance + np.log(2 * np.pi * variance))
    return {"error": rms(error), "z": rms(error / np.sqrt(variance)), "nlpd": float(nlpd)}


def rms(values: Array) -> float:
    """Root mean square."""
    return float(np.sqrt((values**2).mean()))


def sensitivities_of(recording: Recording, mean: Array, sd: Array) -> Sensitivities:
    """What `measure_sensitivities` makes of a surface."""
    loss = np.exp(mean)
    loss[:, 0] = 0.0
    space = recording.space
    return Sensitivities(
        space.layers, space.keeps, space.methods, np.maximum.accumulate(loss, axis=1), sd, recording.rows, 0
    )


def surfaces(recording: Recording, kind: str, seed: int) -> Iterator[tuple[int, Row, Sensitivities]]:
    """What a surface says at each number of cells, and what it leads to."""
    space, costs = recording.space, recording.costs
    unpruned = costs.predict(Schedule())
    solver = solver_for(space, costs, unpruned)
    surface = LossSurface(space, SurfaceScales() if kind == "fixed" else None)
    wanted = first_cells(space, np.random.default_rng(seed))
    known = Sensitivities.free(space).with_loss(np.maximum.accumulate(recording.loss, axis=1))
    best = area(recording, [s.schedule for s in solver.solve(known, 200)], known)
    left = list(CELLS)
    truth = np.log(recording.loss + FLOOR)
    noise = (recording.scatter / (recording.loss + FLOOR)) ** 2 / recording.rows
    while left:
        for cell in wanted:
            surface.add(cell, recording.losses(cell))
        if len(surface.rows) >= left[0] or not wanted:
            mean, sd = surface.posterior()
            other = np.ones(recording.loss.shape, dtype=bool)
            other[:, 0] = False
            other[tuple(np.array(list(surface.rows)).T)] = False
            row = judged(mean[other], sd[other], truth[other], noise[other])
            found = sensitivities_of(recording, mean, sd)
            row["area"] = area(recording, [s.schedule for s in solver.solve(found, 200)], known) / best
            yield left.pop(0), row, found
        wanted = next_cells(surface, solver)


def area(recording: Recording, schedules: list[Schedule], known: Sensitivities) -> float:
    """Area between the unpruned model's cost, half a nat, and the schedules' additive losses by the whole grid."""
    unpruned = recording.costs.predict(Schedule())
    points = [(recording.costs.predict(s) / unpruned, known.estimate(s)) for s in schedules]
    return hypervolume_2d(points, (1.0, LOST))


def corrections(recording: Recording, kind: str, found: Sensitivities, seed: int) -> Iterator[tuple[int, Row]]:
    """What corrections say of schedules they were not told, and the front of those they would verify first."""
    schedules = [s for s, _ in recording.schedules]
    losses = np.array([loss for _, loss in recording.schedules])
    order = np.random.default_rng(seed).permutation(len(schedules))
    # a search verifies what it expects to be on the front, and is fitted to what came nearest
    order = order[np.argsort(losses[order] > 2 * LOST, kind="stable")]
    order[: (losses <= 2 * LOST).sum()] = np.random.default_rng(seed).permutation(order[: (losses <= 2 * LOST).sum()])
    unpruned = recording.costs.predict(Schedule())
    cost = np.array([recording.costs.predict(s) / unpruned for s in schedules])
    model = LossModel(recording.space, found, CorrectionScales() if kind == "fixed" else None)
    for told in SCHEDULES:
        known, asked = order[:told], order[told:]
        model.fit([schedules[k] for k in known], losses[known])
        mean, sd = model.predict([schedules[k] for k in asked])
        row = judged(mean, sd, np.log(losses[asked] + FLOOR), np.zeros(len(asked)))
        points = np.stack([cost[known], losses[known]], axis=1)
        gain = Staircase(points, (1.0, LOST)).expected_gain(cost[asked], mean, sd)
        chosen = asked[np.argsort(-gain, kind="stable")[:10]]
        fronts = [np.concatenate([known, chosen]), np.arange(len(schedules))]
        areas = [hypervolume_2d([(cost[k], losses[k]) for k in part], (1.0, LOST)) for part in fronts]
        row["area"] = areas[0] / areas[1]
        yield told, row


def compare(recording: Recording, seeds: int) -> dict[str, dict[str, Row]]:
    """Means over seeds, for each question and kind."""
    rows: dict[str, dict[str, list[Row]]] = {}
    for kind in KINDS:
        for seed in range(seeds):
            steps = list(surfaces(recording, kind, seed))
            for cells, row, _ in steps:
                rows.setdefault(f"surface, {cells} cells", {}).setdefault(kind, []).append(row)
            for told, row in corrections(recording, kind, steps[-1][-1], seed):
                rows.setdefault(f"corrections, {told} schedules", {}).setdefault(kind, []).append(row)
    return {
        question: {
            kind: {name: float(np.mean([r[name] for r in several])) for name in several[0]}
            for kind, several in kinds.items()
        }
        for question, kinds in rows.items()
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = {}
    for name in arguments.models:
        started = time.process_time()
        found[name] = compare(Recording.load(FOLDER / f"{name}.json"), arguments.seeds)
        print(f"{name} ({time.process_time() - started:.0f} s)")
        print(f"  {'':28}" + "".join(f"{x:>20}" for x in ("error", "z", "nlpd", "area")) + "   fixed > fitted")
        for question, kinds in found[name].items():
            columns = [f"{kinds['fixed'][x]:9.3f} > {kinds['fitted'][x]:6.3f}" for x in ("error", "z", "nlpd", "area")]
            print(f"  {question:28}" + "".join(f"{c:>20}" for c in columns))
    if arguments.json:
        write_text_atomic(arguments.json, json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
