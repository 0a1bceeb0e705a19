"""The picture of a front, or of a search that is under way."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from prunesearch.core.costs import COSTS
from prunesearch.core.pareto import non_dominated
from prunesearch.core.plans.schedule import Schedule
from prunesearch.report.views import figures, pages
from prunesearch.report.views.figures import front_figure
from prunesearch.report.views.figures_point import predicted_figure
from prunesearch.report.views.study_view import StudyView, staircase
from prunesearch.study.storage.reader import Trial
from tests.support.some import some
from tests.support.studies import SHAPE, conditions_of, plain_trials, small_table, texts_of


def test_the_front_is_drawn_as_it_is(study):
    figure = front_figure([study], chosen=[("demo", "p3")])
    points = next(t for t in figure["data"] if t.get("customdata"))
    assert points["customdata"] == [["demo", p.id] for p in study.front.points]
    assert points["x"] == [p.latency.value for p in study.front.points]
    assert points["y"] == [100 * p.quality.value for p in study.front.points]
    p = study.front.points[0]
    assert points["error_x"]["arrayminus"][0] == pytest.approx(p.latency.value - p.latency.measured.p10)
    assert points["error_y"]["array"][0] == pytest.approx(100 * (p.quality.high - p.quality.value))
    assert points["marker"]["size"] == [10, 10, 15, 10]
    predicted = next(t for t in figure["data"] if t.get("name") == "predicted")
    assert predicted["x"][::3] == [p.latency.predicted for p in study.front.points]
    assert figure["layout"]["shapes"][0]["x0"] == 12.0
    assert "measured" in points["hovertext"][0]


@pytest.mark.parametrize("axis", list(COSTS))
def test_every_axis_reads_its_own_number(study, make_front, axis):
    front = make_front().to_dict()
    for item in [front["unpruned"], *front["points"]]:
        item["costs"]["answer"] = {"predicted": 30.0, "measured": {"value": 31.0}}
        item["costs"]["throughput"] = {"predicted": 4.0, "measured": {"value": 5.0}}
        item["costs"]["energy"] = {"predicted": 7.0, "measured": {"value": 6.0, "low": 5.0, "high": 8.0, "net": 2.0}}
        item["costs"]["memory"] = {"predicted": 3.0}
        item["costs"]["size"] = {"predicted": 2.0}
    view = replace(study, front=make_front(**front))
    points = next(t for t in front_figure([view], axis)["data"] if t.get("customdata"))
    expected = {
        "latency": [p.latency.value for p in view.front.points],
        "answer": [31.0] * 4,
        "throughput": [5.0] * 4,
        "energy": [6.0] * 4,
        "macs": [p.cost("macs").value for p in view.front.points],
        "memory": [3.0] * 4,
        "size": [2.0] * 4,
    }
    assert points["x"] == expected[axis]
    # the memory was not measured, though the latency was; the latency's error is not the memory's
    said = {
        "latency": "ms measured",
        "answer": "ms measured",
        "throughput": "ms a token",
        "energy": "(5 to 8) mJ",
        "macs": "GMACs counted",
        "memory": "MiB estimated from",
    }
    said["size"] = "MB counted"
    assert COSTS.entry(axis).unit in points["hovertext"][0]
    assert axis == "energy" or said[axis] in re.sub(r" \([^)]*\)", "", points["hovertext"][0])
    title = front_figure([view], axis)["layout"]["xaxis"]["title"]["text"]
    assert ("estimated" in title) == (axis == "memory")
    assert axis in ("latency", "energy") or set(points["error_x"]["array"]) == {0}


def test_an_estimate_is_hatched_and_says_so(make_front):
    data = make_front().to_dict()
    data["cost_table"] |= {"status": "estimated", "mape": 0.2}
    for item in [data["unpruned"], *data["points"]]:
        item["costs"]["latency"]["measured"] = None
    view = StudyView("a", "a", make_front(**data), shape=SHAPE)
    figure = front_figure([view])
    band = next(t for t in figure["data"] if "fillpattern" in t)
    first = view.front.points[0].latency.predicted
    assert band["x"][0] == pytest.approx(0.8 * first)
    assert band["x"][-1] == pytest.approx(1.2 * first)
    assert "estimated ±20 %" in figure["layout"]["xaxis"]["title"]["text"]
    assert not [t for t in figure["data"] if t.get("name") == "predicted"]
    assert predicted_figure(view) is None
    assert "measured" not in " ".join(texts_of(figure)).replace("not measured", "")


def test_several_studies_have_their_own_colours_and_one_legend(study, make_front):
    other = StudyView("other", "other", make_front(study="other"), shape=SHAPE)
    figure = front_figure([study, other])
    drawn = [t for t in figure["data"] if t.get("customdata")]
    assert [t["name"] for t in drawn] == ["demo (AMD EPYC 7B13)", "other (AMD EPYC 7B13)"]
    assert drawn[0]["marker"]["line"]["color"] != drawn[1]["marker"]["line"]["color"]
    assert figure["layout"]["showlegend"]


def test_of_many_trials_an_even_choice_and_the_whole_front_are_drawn(study):
    trials = plain_trials(40)
    many = [replace(t, number=40 * k + t.number) for k in range(80) for t in trials]
    view = replace(study, trials=many)
    drawn = figures.cloud(view, "latency")
    assert "the 3,200 trials, 1,000 of them and their front drawn" in pages.front_remark(view)
    assert figures.CLOUD <= len(drawn["x"]) <= figures.CLOUD + 40
    x, y = view.columns("latency", many)
    for i in some(staircase(x, y)):
        assert str(many[i].number) in drawn["text"]


def test_the_colour_of_points(study):
    points = next(t for t in front_figure([study], colour="agreement")["data"] if t.get("customdata"))
    assert points["marker"]["color"] == [pytest.approx(97.0)] * 4
    assert points["marker"]["showscale"]
    plain = next(t for t in front_figure([study], colour="energy")["data"] if t.get("customdata"))
    assert "showscale" not in plain["marker"]  # nobody knows energies here


def test_macs_of_trials_are_those_of_points(make_front):
    table = small_table()
    table = table.model_copy(update={"shape": table.shape.model_copy(update={"depth": SHAPE.depth})})
    width, mlp = table.shape.width, table.shape.mlp_width
    view = StudyView("a", "a", make_front(), [], {}, SHAPE, lambda: table)
    point = view.front.points[1]
    schedule = point.to_schedule().to_dict()
    trial = Trial(0, "COMPLETE", (0.1, 2.0), {"quality": 0.5, "latency": 2.0, "schedule": schedule})
    (found,), _ = view.columns("macs", [trial])
    blocks = []
    for counts in (view.front.unpruned.tokens, point.tokens):
        steps = zip([65, *counts], counts, strict=False)
        blocks.append(sum(4 * n * width**2 + 2 * n**2 * width + 2 * m * width * mlp for n, m in steps) / 1e9)
    assert found == pytest.approx(view.front.unpruned.cost("macs").value - blocks[0] + blocks[1])


def test_a_running_search_shows_the_front_of_its_trials():
    trials = plain_trials(20)
    worse = replace(trials[0], number=20, attrs={**trials[0].attrs, "quality": 2.0, "rows": 64})  # an estimate
    view = StudyView("run", "run", None, [*trials, worse], {"batch_size": 8}, SHAPE)
    qualities = [(t.attrs["latency"], -t.attrs["quality"]) for t in trials]
    expected = {f"t{trials[i].number}" for i in np.flatnonzero(non_dominated(qualities))}
    assert {item.id for item in view.items} == expected
    assert view.split == "calibration"
    assert "calibration" in front_figure([view])["layout"]["yaxis"]["title"]["text"]
    assert view.items[0].tokens == SHAPE.counts(view.items[0].plan)
    assert view.best_at_budget() is None


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"budget": "10ms"}, ("latency", 10.0)),
        ({"budget": "40mJ", "objectives": ["energy"]}, ("energy", 40.0)),
        ({"budget": "2GMACs"}, ("macs", 2.0)),
        ({"budget": "0.5GiB"}, ("memory", 512.0)),
        ({"budget": "50%", "objectives": ["latency"]}, ("latency", 0.5)),  # of the cost table's prediction
        ({"budget": "50%", "objectives": ["memory"]}, None),  # nobody knows the unpruned memory before there is a front
        ({"budget": "nonsense"}, None),
        ({"budget": "50%", "objectives": 3}, ("latency", 0.5)),  # a file that nobody has checked
        ({}, None),
    ],
)
def test_the_budget_of_a_running_search_is_on_its_own_axis(config, expected):
    table = small_table()
    view = StudyView("run", "run", None, plain_trials(3), config, SHAPE, lambda: table)
    if expected is None:
        assert view.budget is None
        return
    axis, limit = expected
    base = table.predict(Schedule()) if config["budget"].endswith("%") else 1.0
    assert (view.budget.axis, view.budget.limit) == (axis, pytest.approx(limit * base))
    shapes = {name: front_figure([view], name)["layout"].get("shapes") for name in COSTS}
    assert {name for name, found in shapes.items() if found} == {axis}


@pytest.mark.parametrize(("text", "axis"), [("40mJ", "energy"), ("1GMACs", "macs"), ("9MiB", "memory")])
def test_the_budget_of_a_front_is_on_its_own_axis(make_front, text, axis):
    data = make_front(budget={"text": text, "limit": 9.0, "cost": axis}).to_dict()
    for item in [data["unpruned"], *data["points"]]:
        item["costs"]["energy"] = {"predicted": 7.0}
        item["costs"]["memory"] = {"predicted": 3.0}
        item["costs"]["size"] = {"predicted": 2.0}
    view = StudyView("a", "a", make_front(**data), shape=SHAPE)
    assert view.budget.axis == axis
    for name in COSTS:
        assert ("shapes" in front_figure([view], name)["layout"]) == (name == axis)
    assert ("budget", text) in [(dt, dd.split(" =")[0]) for dt, dd in conditions_of(view)]


def test_trials_that_break_a_constraint_are_crosses_and_say_which(study):
    bad = replace(study.trials[3], constraints={"quality >= 0.9 <b>": 0.1, "agreement >= 0.5": -0.2})
    view = replace(study, trials=[*study.trials[:3], bad, *study.trials[4:]])
    drawn = figures.cloud(view, "latency")
    assert [i for i, symbol in enumerate(drawn["marker"]["symbol"]) if symbol != "circle"] == [3]
    assert drawn["text"][3] == "3, breaks quality &gt;= 0.9 &lt;b&gt;"
    assert "Crosses: the 1 that break a constraint." in pages.front_remark(view)
    assert "symbol" not in figures.cloud(study, "latency")["marker"]
    assert "Crosses" not in pages.front_remark(study)
    running = replace(view, front=None)
    assert "t3" not in [item.id for item in running.items]
