import gc
import itertools

import pytest
import torch

from prunesearch.core.appended import Appended
from prunesearch.cost.devices.device import clock_for
from prunesearch.cost.timing.loop import Job, Sitting, measure, undisturbed


class FakeClock:
    """Time passes only where a job lets it."""

    def __init__(self):
        self.now = 0.0

    def mark(self):
        return self.now

    def between_ms(self, marks):
        return [b - a for a, b in itertools.pairwise(marks)]


def jobs_of(clock, costs, log):
    def job(name):
        def run():
            log.append(name)
            clock.now += costs[name]

        return Job(run)

    return {name: job(name) for name in costs}


def test_every_round_holds_every_job_once_in_changing_order():
    clock, log = FakeClock(), []
    result = measure(
        jobs_of(clock, {"a": 1.0, "b": 2.0, "c": 3.0}, log), clock=clock, sentinel="a", time_budget_s=0, min_rounds=20
    )
    rounds = [log[i : i + 3] for i in range(0, len(log), 3)]
    assert len(rounds) == 21  # one of them to warm up
    assert all(sorted(r) == ["a", "b", "c"] for r in rounds)
    assert len({tuple(r) for r in rounds}) == 6
    assert {name: s.median_ms for name, s in result.samples.items()} == {"a": 1.0, "b": 2.0, "c": 3.0}
    assert {len(s) for s in result.samples.values()} == {20}


def test_samples_come_in_the_order_of_the_jobs_whatever_the_order_of_running():
    clock = FakeClock()
    jobs = jobs_of(clock, {i: float(i) for i in range(9)}, [])
    result = measure(jobs, clock=clock, sentinel=0, time_budget_s=0, min_rounds=2)
    assert list(result.samples) == list(range(9))


def test_preparing_is_not_timed():
    clock = FakeClock()

    def passes(ms):
        clock.now += ms

    jobs = {"x": Job(lambda: passes(1.0), prepare=lambda: passes(100.0))}
    assert measure(jobs, clock=clock, sentinel="x", time_budget_s=0, min_rounds=3).samples["x"].ms == [1.0] * 3


def test_a_job_among_those_of_other_runtimes_does_not_pay_for_what_they_leave_behind():
    """Here each run is followed by 100 ms in which whatever else runs takes a hundred times as long."""
    clock, last = FakeClock(), []

    def runs(name):
        clock.now += 100.0 if last and last[-1] != name else 1.0
        last.append(name)

    def timed(make):
        jobs = {name: make(lambda name=name: runs(name), lambda: None) for name in ("eager", "graph")}
        found = measure(jobs, clock=clock, sentinel="eager", time_budget_s=0, min_rounds=6)
        return {name: max(samples.ms) for name, samples in found.samples.items()}

    assert timed(Job) == {"eager": 100.0, "graph": 100.0}
    assert timed(Job.among_runtimes) == {"eager": 1.0, "graph": 1.0}


def test_stops_when_every_median_is_known():
    clock = FakeClock()
    jobs = jobs_of(clock, {"a": 1.0, "b": 2.0}, [])
    result = measure(jobs, clock=clock, sentinel="a", time_budget_s=60, min_rounds=7)
    assert len(result.samples["a"]) == 7


def test_the_same_seed_gives_the_same_order():
    logs = []
    for seed in (3, 3, 4):
        clock, log = FakeClock(), []
        jobs = jobs_of(clock, dict.fromkeys(range(8), 1.0), log)
        measure(jobs, clock=clock, sentinel=0, time_budget_s=0, min_rounds=3, seed=seed)
        logs.append(log)
    assert logs[0] == logs[1] != logs[2]


def test_nothing_is_collected_or_differentiated_while_timing_and_both_come_back():
    assert gc.isenabled()
    with undisturbed():
        assert not gc.isenabled()
        assert torch.is_inference_mode_enabled()
    assert gc.isenabled()
    assert not torch.is_inference_mode_enabled()


def test_the_wall_clock_gives_milliseconds():
    assert clock_for("cpu").between_ms([0, 1_500_000, 2_000_000]) == [1.5, 0.5]


def interrupted_at(jobs, turn):
    """The same jobs, of which the `turn`th run is interrupted."""
    left = itertools.count(turn, -1)

    def job(run):
        def once():
            if next(left) == 0:
                raise KeyboardInterrupt
            run()

        return Job(once)

    return {name: job(one.run) for name, one in jobs.items()}


@pytest.mark.parametrize("every", [2, 3, 7, 40])
def test_a_measurement_that_is_interrupted_again_and_again_ends_as_if_it_had_not_been(tmp_path, every):
    """It has the same timings in the same order, and times nothing that has not run untimed in the same process."""
    costs = {"a": 1.0, "b": 2.0, "c": 3.0}
    settings = {"sentinel": "a", "time_budget_s": 0, "min_rounds": 8}

    def sitting(turn):
        clock, log = FakeClock(), []
        jobs = interrupted_at(jobs_of(clock, costs, log), turn)
        keep = Appended(tmp_path / "kept.part")
        try:
            return measure(jobs, clock=clock, keep=keep, **settings), log
        except KeyboardInterrupt:
            return None, log

    sittings = 0
    while (found := sitting(every + 1)[0]) is None:
        sittings += 1
        assert sittings < 100
    assert (sittings == 0) == (every > 27)  # three untimed, and eight rounds
    assert {name: s.ms for name, s in found.samples.items()} == {name: [ms] * 8 for name, ms in costs.items()}
    clock, log = FakeClock(), []
    measure(jobs_of(clock, costs, log), clock=clock, **settings)
    timed = [rest[0] for word, *rest in Appended(tmp_path / "kept.part").found if word == "timed"]
    assert ["abc"[n] for n in timed] == log[3:]


def test_time_and_others_are_those_of_all_sittings(tmp_path):
    for spent, in_all in ((3.0, 3.0), (4.0, 7.0), (0.0, 7.0)):
        clock = FakeClock()  # hours may lie between two of them
        with Sitting(Appended(tmp_path / "kept.part"), now=clock.mark) as sitting:
            clock.now += spent
        assert sitting.seconds == in_all
    assert sitting.again
