import math

import numpy as np
import pytest

from prunesearch.cost.devices.others import OthersWatch, wait_until_quiet
from prunesearch.cost.timing.samples import Samples, judge_noise


def test_quantiles_are_those_of_the_samples():
    samples = Samples([float(x) for x in range(1, 102)])
    assert (samples.median_ms, samples.p10_ms, samples.p90_ms, len(samples)) == (51.0, 11.0, 91.0, 101)


def test_median_error_is_unknown_for_few_and_falls_with_more():
    rng = np.random.default_rng(0)
    errors = [Samples(list(rng.normal(10, 1, n))).median_error() for n in (5, 20, 200, 2000)]
    assert errors[0] == math.inf
    assert errors[1] > errors[2] > errors[3]


def test_median_error_covers_the_true_median_as_often_as_it_says():
    rng, hits = np.random.default_rng(1), 0
    for _ in range(400):
        samples = Samples(list(rng.exponential(1.0, 30) + 1))
        hits += abs(samples.median_ms / (1 + math.log(2)) - 1) < 1.3 * samples.median_error()
    assert hits / 400 > 0.9


def test_a_quiet_machine_is_called_quiet():
    noise = judge_noise(list(np.random.default_rng(0).normal(10, 0.2, 200)), others=0.02)
    assert not noise.noisy
    assert noise.why == ""


def test_bursts_are_noise():
    values = np.full(200, 10.0)
    values[::7] = 60.0
    assert "more than its median" in judge_noise(list(values)).why


def test_a_machine_that_slows_down_is_noisy_even_if_each_moment_is_calm():
    noise = judge_noise(list(np.linspace(10, 11, 200)))
    assert noise.noisy
    assert 0.05 < noise.drift < 0.1
    assert "moved" in noise.why


def test_a_busy_neighbour_is_noise_even_if_timings_look_calm():
    noise = judge_noise([1.0] * 50, others=0.5)
    assert noise.noisy
    assert noise.why == "other processes took 50% of the CPU time"


def test_too_few_timings_are_not_called_quiet():
    assert judge_noise([1.0] * 7).noisy


def test_own_work_is_not_blamed_on_others():
    moments = iter([(100.0, 50.0, 10.0), (110.0, 59.0, 16.0)])
    assert math.isclose(OthersWatch(lambda: next(moments)).share(), 0.3)


def test_a_system_that_does_not_tell_gives_none():
    assert OthersWatch(lambda: None).share() is None


def test_a_busy_machine_is_waited_for():
    shares = iter([0.9, 0.5, 0.01])
    assert wait_until_quiet(10, lambda: next(shares)) == 2


@pytest.mark.parametrize(("patience", "share", "waited"), [(0, 0.9, 0), (3, 0.9, 3), (3, None, 0)])
def test_patience_ends(patience, share, waited):
    assert wait_until_quiet(patience, lambda: share) == waited


def test_a_look_takes_a_second():
    slept = []
    wait_until_quiet(1, sleep=slept.append)
    assert slept == [1.0]
