"""Quality constraints as a study keeps them, in a search that needs no model."""

from __future__ import annotations

import optuna
import pytest
import torch

from prunesearch.core.constraint import Constraint
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.search.costs.objectives import Objective
from prunesearch.search.engines.local import LocalEngine
from prunesearch.search.trials.ask_tell import Search
from prunesearch.search.trials.constraints import QualityConstraints, feasible_records
from prunesearch.search.trials.evaluate import Evaluation
from prunesearch.study.trials import finished_trials, open_study
from tests.support.fakes import fake_evaluation, make_space
from tests.support.some import some

UNPRUNED = fake_evaluation(Schedule())  # right on 9 rows of 10
HALF = Schedule([Stage(0, 0.5)])


def bounds(*texts):
    return QualityConstraints([Constraint.parse(text) for text in texts], UNPRUNED)


def test_how_far_an_evaluation_is_beyond_each_bound():
    right = torch.arange(10) < 6
    agrees = torch.arange(10) < 7
    found = bounds("quality >= 0.5*unpruned", "quality >= 0.8", "agreement >= 0.9")(
        HALF, Evaluation(right[:, None].float(), torch.zeros(10), agrees)
    )
    assert found == {
        "quality >= 0.5*unpruned": pytest.approx(-0.15),
        "quality >= 0.8": pytest.approx(0.2),
        "agreement >= 0.9": pytest.approx(0.2),
    }


def test_one_that_lost_its_race_is_held_against_the_same_rows():
    """On the first 5 rows the unpruned model is always right."""
    first = Evaluation(torch.ones(5, 1), torch.zeros(5), torch.ones(5, dtype=torch.bool))
    assert bounds("quality >= unpruned")(HALF, first) == {"quality >= unpruned": 0.0}


def run(tmp_path, constraints, trials=25):
    from tests.support.fakes import LinearCosts

    costs = LinearCosts()
    study = open_study(tmp_path / "study.journal")
    objective = Objective("latency", costs, costs.predict(Schedule()))
    search = Search(study, "tpe", make_space(), [objective], constraints=constraints, race=False)
    list(LocalEngine(lambda schedule, rival: fake_evaluation(schedule)).run(search, trials))
    return study


def test_the_study_knows_what_is_feasible(tmp_path):
    study = run(tmp_path, bounds("quality >= 0.85*unpruned"))
    records = finished_trials(study)
    feasible = feasible_records(study, records)
    assert 0 < len(feasible) < len(records)
    assert {r.number for r in feasible} == {r.number for r in records if r.quality >= 0.85 * 0.9}
    # Optuna reads them as constraints of its own
    for trial in some(optuna.load_study(study_name=study.study_name, storage=study._storage).best_trials):
        assert trial.user_attrs["quality"] >= 0.85 * 0.9


def test_where_nothing_is_feasible_the_one_that_breaks_least_is_left(tmp_path):
    study = run(tmp_path, bounds("quality >= 0.99"), trials=8)
    records = finished_trials(study)
    (left,) = feasible_records(study, records)
    assert left.quality == max(r.quality for r in records)


def test_without_constraints_all_are_feasible(tmp_path):
    study = run(tmp_path, None, trials=6)
    records = finished_trials(study)
    assert feasible_records(study, records) == records
