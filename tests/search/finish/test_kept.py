"""What was judged and measured at the end of a run is not judged and measured again, unless it is of something else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.search.finish.kept import Kept
from prunesearch.search.trials.evaluate import Evaluation, InViews
from prunesearch.study.front_items import Measured
from prunesearch.tasks.batching.batches import Batch, EvalSet, Held
from prunesearch.tasks.batching.mixed_views import mixed
from prunesearch.tasks.metrics.classes import Accuracy

PLANS = [Plan(), Plan(Schedule([Stage(1, 0.5)])), Plan(Schedule([Stage(1, 0.25)]))]


def kept_in(folder: Path, **conditions: object) -> Kept:
    return Kept(folder / "finish", {"rows": 3, **conditions})


def evaluation() -> Evaluation:
    agrees = torch.tensor([True, False, True])
    return Evaluation(torch.tensor([[1.0], [0.0], [1.0]]).double(), torch.tensor([0.1, 0.2, 1e-17]).double(), agrees)


def never(unfinished=None):
    raise AssertionError("it was there")


def test_an_evaluation_is_made_once_and_read_to_the_last_bit(tmp_path: Path):
    made, before = kept_in(tmp_path).evaluation(PLANS[1], 3, Accuracy(), evaluation)
    read, again = kept_in(tmp_path).evaluation(PLANS[1], 3, Accuracy(), never)
    assert (before, again) == (False, True)
    for name in ("statistics", "kl", "agrees"):
        mine, other = getattr(made, name), getattr(read, name)
        assert torch.equal(mine, other)
        assert mine.dtype == other.dtype
    assert read.quality == made.quality


def test_an_evaluation_in_views_has_them_again(tmp_path: Path):
    split = mixed(
        {name: EvalSet(name, Held([Batch({}, [0, 0], torch.arange(2))])) for name in ("clean", "fog")}, "a", "worst"
    )
    views = InViews(split.views, torch.tensor([0, 1, 1, 0]), torch.tensor([0, 1, 0, 1]), "worst")
    made = Evaluation(torch.tensor([[1.0], [0.0], [1.0], [0.0]]), torch.zeros(4), torch.ones(4), views=views)
    kept_in(tmp_path).evaluation(PLANS[1], 4, Accuracy(), lambda: made, split)
    read, _ = kept_in(tmp_path).evaluation(PLANS[1], 4, Accuracy(), never, split)
    assert read.views is not None
    assert torch.equal(read.views.of, views.of)
    assert torch.equal(read.views.rows, views.rows)
    assert (read.quality, read.in_views["fog"].quality) == (made.quality, 0.5)


def test_a_measurement_is_of_all_plans_or_none(tmp_path: Path):
    amounts = [Measured(value=2.0, p10=1.5, p90=2.5), Measured(value=1.0)]
    assert kept_in(tmp_path).measured("latency", "a", PLANS[:2], lambda unfinished: amounts) == amounts
    assert kept_in(tmp_path).measured("latency", "a", PLANS[:2], never) == amounts
    # not kept: it may be there later
    assert kept_in(tmp_path).measured("energy", "a", PLANS[:2], lambda unfinished: None) is None
    for cost, load, plans in (("energy", "a", PLANS[:2]), ("latency", "b", PLANS[:2]), ("latency", "a", PLANS)):
        with pytest.raises(AssertionError, match="it was there"):
            kept_in(tmp_path).measured(cost, load, plans, never)


def test_other_conditions_and_damaged_files_are_made_again(tmp_path: Path):
    kept_in(tmp_path).evaluation(PLANS[1], 3, Accuracy(), evaluation)
    kept_in(tmp_path).measured("latency", "a", PLANS, lambda unfinished: [Measured(value=1.0)] * 3)
    for kept, plan in ((kept_in(tmp_path, rows=4), PLANS[1]), (kept_in(tmp_path), PLANS[2])):
        with pytest.raises(AssertionError, match="it was there"):
            kept.evaluation(plan, 3, Accuracy(), never)
    files = sorted((tmp_path / "finish").iterdir())
    assert {path.suffix for path in files} == {".safetensors", ".json"}
    for path in files:
        path.write_bytes(path.read_bytes()[:20])
    assert kept_in(tmp_path).evaluation(PLANS[1], 3, Accuracy(), evaluation)[1] is False
    again = kept_in(tmp_path).measured("latency", "a", PLANS, lambda unfinished: [Measured(value=7.0)] * 3)
    assert [amount.value for amount in again] == [7.0] * 3


def test_what_was_timed_before_an_interruption_is_there_for_the_same_measurement_until_it_is_done(tmp_path: Path):
    def interrupted(unfinished: Path):
        unfinished.parent.mkdir(exist_ok=True)
        unfinished.touch()
        raise KeyboardInterrupt

    def goes_on(unfinished: Path):
        assert unfinished.exists()
        return [Measured(value=1.0)]

    def begins(unfinished: Path):
        assert not unfinished.exists()
        return [Measured(value=2.0)]

    with pytest.raises(KeyboardInterrupt):
        kept_in(tmp_path).measured("latency", "a", PLANS[:1], interrupted)
    assert kept_in(tmp_path).measured("latency", "b", PLANS[:1], begins)[0].value == 2.0
    assert kept_in(tmp_path).measured("latency", "a", PLANS[:1], goes_on)[0].value == 1.0
    assert {path.suffix for path in (tmp_path / "finish").iterdir()} == {".json"}
