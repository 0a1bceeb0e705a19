"""Figures of how a search went, and of one point, against slow definitions; names that a user chooses stay text."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from prunesearch.core.pareto import hypervolume_2d
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.report.views import figures_search
from prunesearch.report.views.figures import front_figure
from prunesearch.report.views.figures_point import predicted_figure, time_figure, time_rows, tokens_figure
from prunesearch.report.views.figures_search import (
    contributions,
    contributions_figure,
    hypervolume_figure,
    hypervolume_history,
    stages_figure,
)
from prunesearch.report.views.study_view import StudyView
from tests.search.costs.test_broken_promise import BROKEN
from tests.support.some import some
from tests.support.studies import SHAPE, plain_trials, small_table, texts_of

EVIL = "<script>alert(1)</script><b>x</b> %{x}"


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
    broken = table.model_copy(update={"status": "measured", "validation": BROKEN})  # nothing is ranked by it
    assert time_rows(replace(study, read_table=lambda: broken), [plain]) == []


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
        for text in texts_of(figure):
            assert "<script" not in text
            assert "<b>x" not in text
            if text.startswith("trial %{text}"):
                assert text.count("%{x") == 1
