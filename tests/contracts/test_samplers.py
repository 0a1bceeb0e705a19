"""What every sampler must keep, on a study with any number of objectives, fresh, seeded, constrained or resumed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch

from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.core.tables.registry import SAMPLERS
from prunesearch.search.costs.objectives import Objective
from prunesearch.search.samplers.context import SamplerContext
from prunesearch.search.samplers.evolution import EvolutionarySampler
from prunesearch.search.solve.losses import Sensitivities
from prunesearch.search.space.space import Space
from prunesearch.search.trials.ask_tell import Search
from prunesearch.search.trials.evaluate import Evaluation
from prunesearch.study.trials import open_study
from tests.support.fakes import LinearCosts, fake_evaluation, make_space, small_space_file
from tests.support.some import some

LEARNS_NOTHING = {"qmc", "random"}
SLOW = {"gp"}
Evaluate = Callable[[Schedule], Evaluation]


@pytest.fixture(autouse=True)
def _quick_gp() -> Iterator[None]:
    """A Gaussian process sampler that searches its acquisition function less thoroughly, and faster."""
    thorough = SAMPLERS.load("gp")

    def quick(context: SamplerContext) -> Any:
        sampler = thorough(context)
        sampler._n_preliminary_samples, sampler._n_local_search = 128, 2
        return sampler

    with SAMPLERS.replaced("gp", quick):
        yield


def sensitivities_of(space: Space, evaluate: Evaluate) -> Sensitivities:
    """What `evaluate` says of every schedule of one stage."""
    free = Sensitivities.free(space)
    loss = np.zeros_like(free.loss)
    for i, g, m in np.ndindex(loss.shape):
        if g:
            loss[i, g, m] = evaluate(Schedule([space.stage(space.layers[i], g, space.methods[m])])).loss
    return free.with_loss(loss)


def make_search(sampler: str, study: optuna.Study, evaluate: Evaluate = fake_evaluation, **changes: Any) -> Search:
    space, costs = make_space(), LinearCosts()
    settings: dict[str, Any] = {
        "objectives": [Objective("latency", costs, costs.predict(Schedule()))],
        "sensitivities": sensitivities_of(space, evaluate),
        "seed": 5,
        "race": False,
    }
    return Search(study, sampler, space, **{**settings, **changes})


def go(search: Search, trials: int, evaluate: Evaluate = fake_evaluation) -> list[Schedule]:
    """Ask and tell; what was asked, in order."""
    asked = []
    for _ in range(trials):
        proposal = search.ask()
        if proposal is None:
            break
        assert search.tell(proposal, evaluate(proposal.schedule), 0.0) is not None
        asked.append(proposal.schedule)
    return asked


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_seeds_come_first_and_then_new_schedules_of_the_space(tmp_path: Path, sampler: str) -> None:
    seeds = [Schedule([Stage(1, 0.5, "value_norm")]), Schedule([Stage(2, 0.25, merge="bipartite")])]
    search = make_search(sampler, open_study(tmp_path / "s.journal"))
    search.enqueue(seeds)
    asked = go(search, 14)
    assert asked[:2] == seeds
    assert len(set(asked)) == len(asked) == 14
    for schedule in some(asked):
        params = search.space.encode(schedule)
        assert params is not None
        assert search.space.decode(params) == schedule
        assert all(objective.fits(schedule) for objective in some(search.objectives))


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_a_seed_reproduces_the_run_and_another_does_not(sampler: str, tmp_path: Path) -> None:
    studies = [open_study(tmp_path / f"{i}.journal") for i in range(3)]
    runs = [go(make_search(sampler, study, seed=seed), 13) for study, seed in zip(studies, (5, 5, 6), strict=True)]
    assert runs[0] == runs[1]
    if sampler != "guided":  # it is guided by what was measured, and draws little
        assert runs[0] != runs[2]


@pytest.mark.parametrize("values", [1, 2, 3])
@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_one_to_three_values(sampler: str, values: int, tmp_path: Path) -> None:
    costs = LinearCosts()
    bound = costs.predict(Schedule())
    objectives = [Objective("latency", costs, bound, minimised=values > 1)]
    if values == 3:
        objectives.append(Objective("energy", LinearCosts(stem=0.2), bound))
    study = open_study(tmp_path / "s.journal", ["latency", "energy"][: values - 1])
    asked = go(make_search(sampler, study, objectives=objectives), 12)
    assert len(set(asked)) == 12
    assert all(len(trial.values) == values for trial in some(study.trials))


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_a_study_is_resumed_by_a_new_sampler_that_repeats_nothing(tmp_path: Path, sampler: str) -> None:
    before = go(make_search(sampler, open_study(tmp_path / "s.journal")), 12)
    after = go(make_search(sampler, open_study(tmp_path / "s.journal")), 3)
    assert len(after) == 3
    assert not set(before) & set(after)


def bipartite_is_best(schedule: Schedule) -> Evaluation:
    """Every other method loses ten times as much."""
    loss = sum((1 if s.merge == "bipartite" else 10) * (1 - s.keep) / (1 + s.layer) for s in schedule)
    return Evaluation(torch.ones(4, 1), torch.full((4,), loss), torch.ones(4, dtype=torch.bool))


def wide_search(sampler: str, folder: Path, evaluate: Evaluate, **changes: Any) -> Search:
    """On a space too wide for a hundred trials to exhaust what is good in it."""
    space = small_space_file(keep=[k / 10 for k in range(1, 10)]).fit(8, 65, 1)
    costs = LinearCosts(space.depth, space.tokens)
    settings: dict[str, Any] = {
        "objectives": [Objective("latency", costs, costs.predict(Schedule()))],
        "sensitivities": sensitivities_of(space, evaluate),
        "seed": 5,
        "race": False,
    }
    folder.mkdir(exist_ok=True)
    return Search(open_study(folder / "s.journal"), sampler, space, **{**settings, **changes})


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_seeds_teach_those_that_learn(sampler: str, tmp_path: Path) -> None:
    """Half of the seeds show that one method of five is best; random draws take it for a fifth of the stages."""
    search, rng = wide_search(sampler, tmp_path, bipartite_is_best), random.Random(0)
    space = search.space
    others = [method for method in space.methods if method != "bipartite"]
    seeds = []
    for methods in [["bipartite"], others] * 12:
        sites = zip(sorted(rng.sample(space.layers, 2)), sorted(rng.sample(range(1, 10), 2)), strict=True)
        seeds.append(Schedule(space.stage(layer, level, rng.choice(methods)) for layer, level in sites))
    search.enqueue(seeds)
    assert go(search, len(seeds), bipartite_is_best) == seeds
    asked = go(search, 6 if sampler in SLOW else 30, bipartite_is_best)
    share = np.mean([stage.merge == "bipartite" for schedule in asked for stage in schedule])
    assert share < 0.35 if sampler in LEARNS_NOTHING else share > 0.45


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_constraints_are_minded(sampler: str, tmp_path: Path) -> None:
    """To keep at least half, or at most 0.4: who minds asks for more of what is allowed."""

    def least(schedule: Schedule) -> float:
        return min((stage.keep for stage in schedule), default=1.0)

    shares = []
    for sign in (1, -1):
        search = wide_search(
            sampler,
            tmp_path / str(sign),
            fake_evaluation,
            constraints=lambda schedule, _, sign=sign: {"keep": sign * (0.45 - least(schedule))},
        )
        startup = 10 if sampler in SLOW else 30
        asked = go(search, 18 if sampler in SLOW else 70)[startup:]
        shares.append(np.mean([least(schedule) >= 0.5 for schedule in asked]))
    if sampler in LEARNS_NOTHING:
        assert shares[0] == shares[1]
    else:
        assert shares[0] > shares[1] + 0.25


def test_the_evolutionary_sampler_breeds_from_the_front_alone() -> None:
    """Every other gene of a mutant is its parent's: the one schedule that was not dominated."""
    space = make_space()
    study = optuna.create_study(directions=["minimize"] * 2, sampler=EvolutionarySampler(space, seed=0))
    best, dominated = (
        space.encode(Schedule([Stage(3, 0.5, "value_norm")])),
        space.encode(Schedule([Stage(0, 0.25, merge="bipartite")])),
    )
    assert best is not None
    assert dominated is not None
    for k in range(25):
        params, values = (best, [0.1, 0.1]) if k == 7 else (dominated, [1.0, 1.0 + k])
        known = optuna.trial.create_trial(params=params, distributions=space.distributions(), values=values)
        study.add_trial(known)
    children = [study.ask(space.distributions()).params for _ in range(60)]
    alike = [
        np.mean([child[name] == parent[name] for child in children for name in parent]) for parent in (best, dominated)
    ]
    assert alike[0] > 0.5
    assert alike[1] < 0.4
