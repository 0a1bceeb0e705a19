"""Plans at equal latency: what is chosen is what trying every plan of a method finds."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.cost.timing.samples import Samples
from prunesearch.search.finish.kept import Kept
from prunesearch.search.rivals.arena import Entrant
from prunesearch.search.rivals.meeting import Meeting, at_target, within

TOKENS = 64


def plan(site: int, kept: int) -> Plan:
    return Plan(Schedule([Stage(site, kept / TOKENS)]))


def ladder(site: int, counts: Sequence[int]) -> list[Plan]:
    return [plan(site, kept) for kept in counts]


def predicted(one: Plan) -> float:
    """The fewer tokens and the earlier, the cheaper; the unpruned model takes 10 ms."""
    return 10.0 - sum((1 - stage.keep) * (8 - stage.layer) for stage in one)


@dataclass
class Device:
    """Takes so many times what is predicted for plans with a stage at each block."""

    off: dict[int, float]
    timed: int = 0

    def ms(self, one: Plan) -> float:
        return predicted(one) * next((self.off[stage.layer] for stage in one), 1.0)

    def __call__(self, plans: Sequence[Plan], seconds: float, unfinished: Path) -> list[Samples]:
        self.timed += 1
        assert plans[0] == Plan()
        return [Samples([self.ms(one)] * 5) for one in plans]


def meeting(tmp_path: Path, share: float, device: Any) -> Meeting:
    prices = SimpleNamespace(predict=predicted)
    arena: Any = SimpleNamespace(share=share, limit=share * 10.0, prices=prices, setting=SimpleNamespace(loads=["one"]))
    return Meeting(arena, Kept(tmp_path, {}), 1.0, device)


@pytest.mark.parametrize("share", [0.5, 0.7])
def test_the_slowest_plan_within_the_target_is_found_however_far_the_table_is_off(tmp_path: Path, share: float) -> None:
    device = Device({0: 1.2, 1: 0.8, 2: 1.0})
    ladders = {f"at {site}": ladder(site, range(63, 0, -1)) for site in device.off}
    unpruned, chosen, left_out = meeting(tmp_path, share, device).choose(
        {name: Entrant(plans) for name, plans in ladders.items()}
    )
    assert unpruned.value == 10.0
    for name, plans in ladders.items():
        able = [one for one in plans if device.ms(one) <= 1.02 * share * 10]
        if not able:
            assert name in left_out
            continue
        best = max(device.ms(one) for one in able)
        assert chosen[name].ms.value == device.ms(chosen[name].plan)
        assert 0.96 * best <= chosen[name].ms.value <= best


def test_what_cannot_reach_the_target_is_left_out_and_says_how_near_it_comes(tmp_path: Path) -> None:
    entrants = {"coarse": Entrant(ladder(0, [60, 50])), "none": Entrant([]), "able": Entrant(ladder(0, [40, 20]))}
    _, chosen, left_out = meeting(tmp_path, 0.5, Device({0: 1.0})).choose(entrants)
    assert set(chosen) == {"able"}
    assert chosen["able"].plan == plan(0, 20)
    assert "no schedule" in left_out["none"]
    assert f"{10 / predicted(plan(0, 50)):.2f}x" in left_out["coarse"]


def test_what_was_timed_is_not_timed_again(tmp_path: Path) -> None:
    device = Device({0: 1.1})
    entrants = {"one": Entrant(ladder(0, range(63, 0, -1)))}
    first = meeting(tmp_path, 0.5, device).choose(entrants)
    timed = device.timed
    assert timed
    assert meeting(tmp_path, 0.5, device).choose(entrants) == first
    assert device.timed == timed


def test_bisecting_finds_what_looking_at_every_plan_finds() -> None:
    made = random.Random(0)
    plans = ladder(0, range(63, 0, -1))
    for limit in (made.uniform(1.0, 10.5) for _ in range(50)):
        wanted = next((one for one in plans if predicted(one) <= limit), plans[-1])
        assert within(plans, predicted, [limit, limit]) == [wanted]


def test_the_slowest_within_two_percent_or_the_fastest() -> None:
    a, b, c = ladder(0, [30, 20, 10])
    assert at_target({a: 0.6, b: 0.505, c: 0.4}, 0.5) == b
    assert at_target({a: 0.6, b: 0.52, c: 0.4}, 0.5) == c
    assert at_target({a: 0.6, b: 0.55}, 0.5) == b
