"""Figures and their numbers, against slow definitions; names that a user chooses stay text."""

from __future__ import annotations

import base64
import json
import random
import re
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pytest
from dash import html

from prunesearch.core.costs import COSTS
from prunesearch.core.pareto import hypervolume_2d, non_dominated
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.export import FORMATS, export
from prunesearch.report.views import figures, figures_search, pages
from prunesearch.report.views.conditions import conditions
from prunesearch.report.views.figures import front_figure
from prunesearch.report.views.figures_point import predicted_figure, time_figure, time_rows, tokens_figure
from prunesearch.report.views.figures_search import (
    contributions,
    contributions_figure,
    hypervolume_figure,
    hypervolume_history,
    stages_figure,
)
from prunesearch.report.views.freeze import Frozen
from prunesearch.report.views.other_device import front_on
from prunesearch.report.views.parts import exports, point_view, points_table
from prunesearch.report.views.study_view import ShownShape, StudyView, spread_over, staircase
from prunesearch.study.storage.reader import Trial
from tests.support.curve_tables import smooth
from tests.support.curve_tables import table as curve_table
from tests.support.some import some
from tests.support.studies import plain_trials


def small_table():
    """A cost table of smooth blocks."""
    return curve_table(smooth, error=0.02)


EVIL = "<script>alert(1)</script><b>x</b> %{x}"
SHAPE = ShownShape(9, 65, 1)


@pytest.fixture
def study(make_front):
    """A finished study with trials."""
    return StudyView("demo", "demo", make_front(), plain_trials(30), {}, SHAPE)


def texts(figure):
    """All strings of a figure that plotly would read markup in."""
    if isinstance(figure, dict):
        return [t for value in figure.values() for t in texts(value)]
    if isinstance(figure, list | tuple):
        return [t for value in figure for t in texts(value)]
    return [figure] if isinstance(figure, str) else []


@pytest.mark.parametrize("seed", range(20))
def test_the_staircase_is_the_front(seed):
    rng = random.Random(seed)
    values = [(rng.randrange(12), rng.randrange(12)) for _ in range(60)]
    found = staircase([x for x, _ in values], [y for _, y in values])
    assert sorted(found) == np.flatnonzero(non_dominated([(x, -y) for x, y in values])).tolist()
    assert [values[i][0] for i in found] == sorted((values[i][0] for i in found), reverse=True)


@pytest.mark.parametrize("seed", range(20))
def test_the_history_of_the_hypervolume_is_that_of_every_front(seed):
    rng = random.Random(seed)
    costs = [rng.randrange(1, 15) / 10 for _ in range(60)]
    qualities = [rng.randrange(0, 12) / 10 for _ in range(60)]
    found = hypervolume_history(costs, qualities, (1.2, 0.9))
    for i in range(60):
        points = [(x, -y) for x, y in zip(costs[: i + 1], qualities[: i + 1], strict=True)]
        assert found[i] == pytest.approx(hypervolume_2d(points, (1.2, 0.0)) / (1.2 * 0.9), abs=1e-12)


def test_nan_adds_nothing_to_the_hypervolume():
    assert hypervolume_history([0.5, float("nan")], [0.5, 0.9], (1.0, 1.0)) == [0.25, 0.25]


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
        item["costs"]["energy"] = {"predicted": 7.0, "measured": {"value": 6.0, "low": 5.0, "high": 8.0, "net": 2.0}}
        item["costs"]["memory"] = {"predicted": 3.0}
        item["costs"]["size"] = {"predicted": 2.0}
    view = replace(study, front=make_front(**front))
    points = next(t for t in front_figure([view], axis)["data"] if t.get("customdata"))
    expected = {
        "latency": [p.latency.value for p in view.front.points],
        "energy": [6.0] * 4,
        "macs": [p.cost("macs").value for p in view.front.points],
        "memory": [3.0] * 4,
        "size": [2.0] * 4,
    }
    assert points["x"] == expected[axis]
    # the memory was not measured, though the latency was; the latency's error is not the memory's
    said = {"latency": "ms measured", "energy": "(5 to 8) mJ", "macs": "GMACs counted", "memory": "MiB estimated from"}
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
    assert "measured" not in " ".join(texts(figure)).replace("not measured", "")


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


def conditions_of(view):
    """Names and texts of the list of conditions."""
    listed = conditions(view).children[0].children
    return [(name.children, text.children) for name, text in zip(listed[::2], listed[1::2], strict=True)]


def test_what_the_front_notes_and_how_the_search_ended(make_front):
    data = make_front().to_dict()
    data["notes"] = ["only 900 of 1000 rows have a label <b>"]
    data["constraints"] = [{"text": "quality >= 0.99*unpruned", "limit": 0.792, "broken": 3}]
    data["hypervolume"] = {"value": 0.0123, "cost": "latency", "reference": [1.0, 0.5]}
    data["search"] |= {"saved": 12.5, "stopped": "converged"}
    view = StudyView("a", "a", make_front(**data), shape=SHAPE)
    assert "only 900 of 1000 rows have a label &lt;b&gt;" in Frozen().html(pages.head(view))
    said = dict(conditions_of(view))
    assert said["constraints"] == "quality >= 0.99*unpruned, 0.792 (broken by 3 candidates in the end)"
    assert said["hypervolume"].startswith("0.0123 (share of the unpruned latency")
    assert "racing saved 12.5" in said["search"]
    assert "stopped growing" in said["ended"]
    assert not {"ended", "hypervolume"} & dict(conditions_of(replace(view, front=make_front()))).keys()


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


def test_best_at_budget_is_the_best_calibration_quality_within_it(study):
    assert study.best_at_budget().id == "p2"


def test_contributions_find_the_method_that_helps():
    rng = random.Random(0)
    trials = []
    for trial in plain_trials(60):
        good = any(s.scorer == "value_norm" for s in trial.plan)
        quality = 0.02 * trial.attrs["latency"] + (0.1 if good else 0.0) + 0.001 * rng.random()
        trials.append(replace(trial, attrs={**trial.attrs, "quality": quality}))
    view = StudyView("a", "a", None, trials, {}, SHAPE)
    found = contributions(view, "latency")
    assert [c.kind for c in found] == ["scorer"] * 2 + ["merge"] * 3 + ["method"] * 2
    best = {kind: next(c for c in found if c.kind == kind) for kind in ("scorer", "merge", "method")}
    assert [best[kind].name for kind in best] == ["value_norm", "drop", "value_norm+drop"]
    assert best["method"].gain > 3 * best["method"].error
    users = [t for t in trials if any(s.method == "value_norm+drop" for s in t.plan)]
    assert best["method"].trials == best["scorer"].trials == len(users)
    assert [c.name for c in found if c.name == "bipartite"] == ["bipartite"]  # it has no scorer to be a method with
    bars = contributions_figure(found)["data"][0]
    assert bars["y"][::-1] == [f"{c.kind} {c.name}" for c in found[:5]]
    assert contributions(replace(view, trials=trials[:3]), "latency")[0].gain is None
    assert contributions_figure(contributions(replace(view, trials=trials[:3]), "latency")) is None


def test_the_figures_of_a_search(study):
    history = hypervolume_figure(study, "latency")["data"][0]
    assert history["x"][0] == 1
    assert history["x"][-1] == 30
    assert history["y"] == sorted(history["y"])
    began = datetime(2026, 11, 24, 12, 0)
    timed = [replace(t, started=began, completed=began + timedelta(minutes=k)) for k, t in enumerate(study.trials)]
    told = hypervolume_figure(replace(study, trials=timed), "latency")["data"][0]["customdata"]
    assert told[-1] == ", 29.0 min"
    untimed = replace(study, trials=[replace(t, started=None) for t in timed])
    assert set(hypervolume_figure(untimed, "latency")["data"][0]["customdata"]) == {""}
    lines = stages_figure(study)["data"]
    verdict = next(line for line in lines if line.get("name") == "p2")
    point = study.front.point("p2")
    assert verdict["y"][:9] == [pytest.approx(100 * n / 65, abs=0.01) for n in point.tokens]
    assert verdict["y"][9] == pytest.approx(60.0)
    assert len(lines[0]["y"]) == 30 * 12
    assert hypervolume_figure(replace(study, trials=[]), "latency") is None
    assert figures_search.stages_figure(replace(study, shape=None)) is None


def test_tokens_and_time(study):
    item = study.item("p2")
    bars = tokens_figure(study, item)["data"]
    assert bars[0]["y"] == [65] * 9
    assert bars[1]["y"] == item.tokens
    assert [c == "--accent" for c in bars[1]["marker"]["color"]] == [layer in (2, 5) for layer in range(9)]
    table = small_table()
    view = replace(study, read_table=lambda: table)
    plain = replace(item, plan=Plan(), id="q")
    rows = time_rows(view, [plain])
    assert rows == [("q", table.breakdown(Schedule().flow(table.geometry)))]
    drawn = time_figure(rows)["data"]
    assert sum(t["x"][0] for t in drawn) == pytest.approx(table.predict(Schedule()))
    assert time_rows(study, [item]) == []  # no table


def test_names_are_escaped_in_every_figure(make_front):
    data = make_front().to_dict()
    data["model"]["id"] = data["device"]["name"] = data["task"]["metric"] = EVIL
    data["points"][1]["id"] = data["verdict"]["point"] = data["budget"]["text"] = EVIL
    front = make_front(**{**data, "study": EVIL})
    view = StudyView(EVIL, EVIL, front, plain_trials(20), {}, SHAPE)
    other = replace(view, key="b")
    item = view.item(EVIL)
    found = [
        front_figure([view, other]),
        hypervolume_figure(view, "latency"),
        stages_figure(view),
        contributions_figure(contributions(view, "latency")),
        tokens_figure(view, item),
        predicted_figure(view),
        time_figure([(EVIL, {"attention": 1.0, "mlp": 1.0, "reduce": 1.0, "rest": 1.0})]),
    ]
    for figure in some(found):
        for trace in figure["data"]:
            assert trace["type"] in ("scatter", "bar", "pie")  # all that the bundle of plotly.js can draw
            trace.pop("customdata", None)  # data, which nobody draws
            assert "%{x} %" not in trace.get("name", "")
        figure["layout"].pop("uirevision", None)
        for text in texts(figure):
            assert "<script" not in text
            assert "<b>x" not in text
            if text.startswith("trial %{text}"):
                assert text.count("%{x") == 1


def test_exports_hold_what_the_command_writes(study):
    frozen = Frozen().html(exports(study, study.item("p1")))
    written = {}
    for link in re.findall(r"<a [^>]*>", frozen):
        name = re.search(r'download="demo-p1\.([^".]*)', link)[1]
        data = re.search(r'href="data:text/plain;charset=utf-8;base64,([^"]*)"', link)[1]
        written[name] = base64.b64decode(data).decode()
    assert written["json"] == export(study.front, "p1", "json").text
    assert len(written) >= 4
    for name, text in written.items():
        assert text == export(study.front, "p1", name, lossy=True).text
    for name in set(FORMATS) - written.keys():
        assert f"<strong>{name}</strong>" in frozen


def test_frozen_components_are_escaped_html():
    frozen = Frozen()
    text = frozen.html(
        [
            html.P(["a & b", html.Strong("<i>")], className="x", title='"'),
            html.Img(src="data:image/png;base64,AA", alt=""),
        ]
    )
    assert text == (
        '<p class="x" title="&quot;">a &amp; b<strong>&lt;i&gt;</strong></p><img alt="" src="data:image/png;base64,AA">'
    )
    long = "data:image/png;base64," + "A" * 300
    assert frozen.html([html.Img(src=long), html.Img(src=long)]) == '<img data-picture="0"><img data-picture="0">'
    assert frozen.pictures == [long]


def test_the_view_of_a_point_freezes_whole(study):
    frozen = Frozen()
    text = frozen.html(point_view(study, study.item("p2")))
    assert "1.67×" in text
    assert "key_\u200bredundancy" in text
    assert "schedule = ps.Schedule([" in text
    assert frozen.figures["tokens p2"]["data"][1]["y"] == study.item("p2").tokens
    json.dumps(frozen.figures, allow_nan=False)
    rows = Frozen().html(points_table(study, "p2", "/study/demo"))
    assert rows.count("data-point=") == 4
    assert rows.count('aria-current="true"') == 1


def test_a_front_on_another_device(make_front):
    table = small_table()
    front = make_front(points=[], verdict={"text": "none", "point": None})
    there = front_on(front, table, "other")
    assert there.device.name == "other"
    assert there.unpruned.latency.predicted == pytest.approx(table.predict(Schedule()))
    assert not there.measured


def test_an_even_spread():
    assert spread_over([1, 2, 3], 5) == [1, 2, 3]
    assert spread_over(list(range(100)), 5) == [0, 25, 50, 74, 99]


def test_the_python_lines_of_a_point_say_its_parameters():
    from prunesearch.core.plans.stage import Stage
    from prunesearch.report.views.parts import python_lines

    schedule = Schedule(
        [Stage(1, 0.5, "value_norm", "drop"), Stage(3, 0.25, "value_norm", "soft", params={"temperature": 2})]
    )
    lines = python_lines(schedule).partition("handle =")[0]
    said: dict = {}
    exec(lines, said)
    assert said["schedule"] == schedule
    assert lines.count("params") == 1
