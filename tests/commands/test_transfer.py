"""`transfer` by hand: two stages at work on the known machine and on one whose attention is four times as slow."""

from __future__ import annotations

import io
import json
from functools import partial
from typing import Any

import pytest
from rich.console import Console

from prunesearch.commands.transfer import PricedTrial, show_transfer, transfer, trust_of
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.study.front import Front
from tests.support.known_device import known_table, one_line, slower
from tests.support.some import some
from tests.support.synthetic_front import latency

DEPTH = 6
A = Schedule([Stage(0, 0.75)])
B = Schedule([Stage(2, 0.5, "value_norm", "fuse")])
C = Schedule([Stage(1, 0.25)])
D = Schedule([Stage(0, 0.75), Stage(3, 0.25)])


class Prices:
    """A table that says what it is told."""

    status, notes = "measured", []

    def __init__(self, prices: dict[Schedule, float]) -> None:
        self.prices = prices

    def predict(self, schedule: Schedule) -> float:
        return self.prices[schedule]


@pytest.fixture
def front_of(make_front):
    return partial(build_front, make_front().to_dict())


def build_front(
    data: dict[str, Any], rows: list[tuple[str, Schedule, float, float]], unpruned_ms: float = 20.0
) -> Front:
    """Points (id, schedule, ms here, quality on both splits); unpruned 0.80, on calibration 0.81."""
    template = data["points"][0]
    points: list[dict[str, Any]] = []
    for i, (name, schedule, ms, quality) in enumerate(rows):
        seen = {**template["qualities"]["accuracy"], "value": quality, "low": quality, "high": quality}
        costs = {**template["costs"], "latency": latency(ms, ms)}
        points.append(
            {
                **template, "id": name, "trial": i, "plan": schedule.to_dict(), "text": str(schedule),
                "tokens": [9] * 9, "costs": costs, "qualities": {"accuracy": {**seen, "calibration": quality}},
                "speedup": unpruned_ms / ms,
            }
        )  # fmt: skip
    base = {**data["unpruned"]["costs"], "latency": latency(unpruned_ms, unpruned_ms)}
    return Front.model_validate(
        {
            **data, "points": points, "budget": None, "unpruned": {**data["unpruned"], "costs": base},
            "verdict": {"text": "", "point": None},
        }
    )  # fmt: skip


ROWS = [("p1", A, 16.0, 0.79), ("p2", B, 12.0, 0.78), ("p3", C, 8.0, 0.70)]
# there, B is the slowest; D, which the front has not, is as good as B
THERE = Prices({Schedule(): 40.0, A: 30.0, B: 36.0, C: 10.0, D: 24.0})
TRIALS = [PricedTrial(A, 0.79, 16.0), PricedTrial(B, 0.78, 12.0), PricedTrial(C, 0.70, 8.0), PricedTrial(D, 0.78, 13.0)]


@pytest.fixture
def found(front_of):
    return transfer(front_of(ROWS), TRIALS, THERE, "other", "measured ±1 %")


def test_latencies_and_speed_ups_on_both_devices(found):
    assert (found.unpruned_here_ms, found.unpruned_there_ms) == (20.0, 40.0)
    assert [(p.here_ms, p.there_ms) for p in found.points] == [(16.0, 30.0), (12.0, 36.0), (8.0, 10.0)]
    assert [p.speedup_here for p in found.points] == [1.25, pytest.approx(20 / 12), 2.5]
    assert [p.speedup_there for p in found.points] == [pytest.approx(4 / 3), pytest.approx(40 / 36), 4.0]


def test_ranks_count_from_the_fastest(found):
    assert [(p.rank_here, p.rank_there) for p in found.points] == [(3, 2), (2, 3), (1, 1)]


def test_who_leaves_the_front(found):
    """B is slower there than A, and worse."""
    assert [p.stays for p in found.points] == [True, False, True]


def test_regret_is_against_the_best_trial_of_no_less_quality(found):
    """Instead of B (36 ms, 0.78): D (24 ms, 0.78). For A and C nothing as good is faster."""
    assert [p.regret for p in found.points] == [pytest.approx(0), pytest.approx(36 / 24 - 1), pytest.approx(0)]
    assert [p.instead for p in found.points] == ["", str(D), ""]
    assert found.mean_regret == pytest.approx(0.5 / 3)
    assert found.worst_regret == pytest.approx(0.5)


def test_the_rank_correlation_is_over_all_trials(found):
    """Here A, B, C, D rank 4, 2, 1, 3; there 3, 4, 1, 2: squared differences 1 + 4 + 0 + 1."""
    assert found.rank_correlation == pytest.approx(1 - 6 * 6 / (4 * 15))


def test_it_says_over_how_many_trials(found, front_of):
    """The study may have more: those in a precision that the table there has not are no part of it."""
    out = io.StringIO()
    show_transfer(found, front_of(ROWS), Console(file=out, width=80))
    assert front_of(ROWS).search.trials != len(TRIALS)
    assert f"rank correlation over {len(TRIALS)} trials" in " ".join(out.getvalue().split())


def test_the_same_device_changes_nothing(front_of):
    same = Prices({Schedule(): 20.0, A: 16.0, B: 12.0, C: 8.0, D: 13.0})
    found = transfer(front_of(ROWS), TRIALS, same, "same", "")
    assert all(p.stays and p.regret == 0 and p.rank_here == p.rank_there for p in some(found.points))
    assert found.rank_correlation == pytest.approx(1)


def test_the_unpruned_model_is_a_choice_too(front_of):
    """Where stages cost more than they save, keeping the model as it is has no regret."""
    costly = Prices({Schedule(): 10.0, A: 15.0, B: 12.0, C: 8.0, D: 14.0})
    found = transfer(front_of(ROWS), TRIALS, costly, "other", "")
    assert [p.stays for p in found.points] == [False, False, True]
    assert [p.regret for p in found.points] == [pytest.approx(0.5), pytest.approx(0.2), pytest.approx(0)]
    assert [p.instead for p in found.points] == [str(Schedule()), str(Schedule()), ""]


def test_a_point_that_is_no_trial_any_more_has_no_regret_against_itself(front_of):
    found = transfer(front_of(ROWS[2:]), [], Prices({Schedule(): 40.0, C: 10.0}), "other", "")
    assert (found.points[0].regret, found.rank_correlation) == (0.0, 1.0)


def test_where_all_trials_cost_the_same_there_is_no_rank(front_of):
    flat = Prices(dict.fromkeys([Schedule(), A, B, C, D], 7.0))
    found = transfer(front_of(ROWS), TRIALS, flat, "other", "")
    assert found.rank_correlation == 0.0
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["study"] == "demo"


def test_an_empty_front_is_refused(front_of):
    with pytest.raises(PruneSearchError) as error:
        transfer(front_of([]), TRIALS, THERE, "other", "")
    one_line(error.value, "no point to transfer")


def test_with_real_tables_slow_stages_cost_speed(front_of):
    here, there = known_table(), slower(known_table(), reduce=400.0)
    rows = sorted(
        ((str(s), s, here.predict(s), 0.7 - 0.01 * len(s)) for s in (A, C, D)), key=lambda r: -r[2]
    )  # fmt: skip
    front = front_of(rows, here.predict(Schedule()))
    trials = [PricedTrial(s, q, ms) for _, s, ms, q in rows]
    found = transfer(front, trials, there, "slow", trust_of(there))
    for point, (_, schedule, *_) in some(zip(found.points, rows, strict=True)):
        assert point.there_ms == pytest.approx(there.predict(schedule))
        assert point.speedup_here > 1
        assert point.speedup_there < point.speedup_here


def shown(found, front):
    out = io.StringIO()
    show_transfer(found, front, Console(file=out, width=80, no_color=True))
    return out.getvalue()


def test_it_is_shown_on_80_columns(found, front_of):
    text = shown(found, front_of(ROWS))
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "…" not in text.replace("--device other …", "")
    lines = {line.split()[0]: " ".join(line.split()) for line in text.splitlines() if line.strip()}
    assert lines["p2"] == "p2 12 ms 1.67× 36 ms 1.11× 2 → 3 leaves +50.0%"
    assert lines["p3"].endswith("1 stays +0.0%")
    assert lines["unpruned"].startswith("unpruned 20 ms 1.00× 40 ms 1.00×")
    assert f"instead of p2, there: {D}" in " ".join(text.split())
    assert "mean 16.7%, worst 50.0%" in " ".join(text.split())
    assert "there (est.)" not in text


def test_an_estimated_device_is_called_so(front_of):
    there = Prices(THERE.prices)
    there.status = "estimated"
    front = front_of(ROWS)
    text = shown(transfer(front, TRIALS, there, "a100-40gb", "estimated ±10 %"), front)
    assert "there (est.)" in text
    assert "to a100-40gb (estimated ±10 %)" in " ".join(text.split())
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "measured" not in text


def test_how_far_a_table_can_be_trusted():
    assert trust_of(known_table(source="from profile 'box'")) == "from profile 'box' ±1.2 %"
