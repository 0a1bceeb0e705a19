"""The project's sampler in a world where the true front can be listed."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch

from prunesearch.core.pareto import hypervolume_2d
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.search.costs.objectives import Objective
from prunesearch.search.solve.losses import Sensitivities
from prunesearch.search.space.space import Space
from prunesearch.search.trials.ask_tell import Search
from prunesearch.search.trials.evaluate import Evaluation
from prunesearch.study.trials import open_study
from tests.support.fakes import LinearCosts, make_space


def truth(space: Space) -> Sensitivities:
    """Methods differ block by block; what is lost falls with depth."""
    free = Sensitivities.free(space)
    rng = np.random.default_rng(7)
    factor = np.exp(rng.normal(0, 0.7, (len(space.layers), 1, len(space.methods))))
    gone = (1 - np.array(space.keeps))[None, :, None] ** 1.5
    loss = 0.6 * gone * np.exp(-np.arange(len(space.layers)))[:, None, None] * factor
    return free.with_loss(loss)


def noisy(table: Sensitivities, sd: float) -> Sensitivities:
    rng = np.random.default_rng(8)
    loss = table.loss * np.exp(rng.normal(0, sd, table.loss.shape))
    full = np.full(table.loss.shape, sd)
    return Sensitivities(table.layers, table.keeps, table.methods, np.maximum.accumulate(loss, axis=1), full, 16, 30)


def interacting(space: Space, schedule: Schedule) -> float:
    """The additive loss, and a third more for stages in neighbouring blocks."""
    near = sum(b.layer - a.layer == 1 for a, b in itertools.pairwise(schedule))
    return truth(space).estimate(schedule) * 1.33**near


def evaluation(loss: float) -> Evaluation:
    right = torch.ones(4, dtype=torch.bool)
    return Evaluation(right[:, None].float(), torch.full((4,), loss), right)


def area_after(path: Path, sampler: str, trials: int, seed: int = 0) -> float:
    space, costs = make_space(), LinearCosts()
    bound = costs.predict(Schedule())
    study = open_study(path / f"{sampler}-{trials}-{seed}.journal")
    objectives = [Objective("latency", costs, bound)]
    search = Search(study, sampler, space, objectives, (), noisy(truth(space), 0.4), seed, race=False)
    points = []
    for _ in range(trials):
        proposal = search.ask()
        assert proposal is not None
        loss = interacting(space, proposal.schedule)
        search.tell(proposal, evaluation(loss), 0.0)
        points.append((costs.predict(proposal.schedule) / bound, loss))
    return hypervolume_2d(points, (1.0, 0.5))


def best_area(space: Space) -> float:
    costs = LinearCosts()
    bound, points = costs.predict(Schedule()), []
    for number in range(1, space.max_stages + 1):
        for layers in itertools.combinations(range(len(space.layers)), number):
            for levels in itertools.combinations(range(1, len(space.keeps)), number):
                for methods in itertools.product(space.methods, repeat=number):
                    sites = zip(layers, levels, methods, strict=True)
                    schedule = Schedule([space.stage(la, g, m) for la, g, m in sites])
                    points.append((costs.predict(schedule) / bound, interacting(space, schedule)))
    return hypervolume_2d(points, (1.0, 0.5))


def test_it_is_near_the_true_front_when_others_are_far(tmp_path: Path) -> None:
    best = best_area(make_space())
    ours = [area_after(tmp_path, "guided", 25, seed) for seed in range(3)]
    others = [area_after(tmp_path, "random", 25, seed) for seed in range(3)]
    assert min(ours) > 0.95 * best
    assert max(ours) <= best
    assert np.mean(others) < 0.9 * best


def test_two_costs_are_both_searched(tmp_path: Path) -> None:
    """A cheap table for one cost and another order of schedules for the second: both fronts are found."""
    space, costs = make_space(), LinearCosts()

    class Energy(LinearCosts):
        def predict(self, schedule: Schedule) -> float:
            return 30.0 + 10.0 * len(schedule) - 8.0 * (1 - min((s.keep for s in schedule), default=1.0))

    objectives = [Objective("latency", costs, costs.predict(Schedule())), Objective("energy", Energy())]
    study = open_study(tmp_path / "s.journal", ["latency", "energy"])
    search = Search(study, "guided", space, objectives, (), truth(space), 0, race=False)
    for _ in range(30):
        proposal = search.ask()
        assert proposal is not None
        search.tell(proposal, evaluation(interacting(space, proposal.schedule)), 0.0)
    trials = study.best_trials
    latency, energy = (np.array([t.values[k] for t in trials]) for k in (1, 2))
    assert len(trials) >= 8
    assert latency.min() < 0.6 * costs.predict(Schedule())
    assert energy.min() < 34.0


def test_without_sensitivities_it_says_so(tmp_path: Path) -> None:
    study = open_study(tmp_path / "s.journal")
    with pytest.raises(optuna.exceptions.OptunaError, match="needs sensitivities"):
        Search(study, "guided", make_space(), [Objective("latency", LinearCosts())])


@pytest.mark.parametrize(("every", "costs"), [(1, ("latency",)), (5, ("latency", "macs"))])
def test_a_search_that_is_interrupted_asks_what_it_would_have_asked(
    tmp_path: Path, every: int, costs: tuple[str, ...]
) -> None:
    """Before and within its batches: whoever goes on is in the middle of one."""
    space, bound = make_space(), LinearCosts().predict(Schedule())
    objectives = [Objective(name, LinearCosts(), bound) for name in costs]

    def begin(name: str) -> Search:
        study = open_study(tmp_path / name, costs)
        sensitivities = noisy(truth(space), 0.4)
        found = Search(study, "guided", space, objectives, (), sensitivities, 3, race=False)
        found.enqueue([Schedule([space.stage(1, 2, space.methods[0])])])
        return found

    def told(name: str, every: int | None) -> list[Plan]:
        search, asked, interrupted = begin(name), list[Plan](), -1
        while len(asked) < 20:
            proposal = search.ask()
            assert proposal is not None
            if every is not None and len(asked) % every == 0 and interrupted < len(asked):
                interrupted = len(asked)
                search.fail(proposal, "interrupted", lost=True)
                search = begin(name)
                continue
            search.tell(proposal, evaluation(interacting(space, proposal.schedule)), 0.0)
            asked.append(proposal.plan)
        return asked

    assert told("interrupted.journal", every) == told("whole.journal", None)
