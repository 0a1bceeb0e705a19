"""What a page says of a study and of its points."""

from __future__ import annotations

import base64
import json
import random
import re
from dataclasses import replace

import numpy as np
import pytest
from dash import html

from prunesearch.core.pareto import non_dominated
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.export import FORMATS, export
from prunesearch.report.views import pages
from prunesearch.report.views.freeze import Frozen
from prunesearch.report.views.other_device import front_on
from prunesearch.report.views.parts import exports, point_view, points_table, stages_table
from prunesearch.report.views.study_view import Item, ShownShape, StudyView, spread_over, staircase
from tests.support.studies import SHAPE, conditions_of, small_table


def test_a_stage_before_the_first_block_says_what_it_leaves_and_who_chose():
    shape = ShownShape(2, 20, 4, "decoder")
    plan = Plan.parse("input/0:0.5 random+drop@diversity > decoder/1:0.25 key_norm+drop")
    item = Item("p1", plan, None, {}, shape.counts(plan))
    text = Frozen().html(stages_table(StudyView("a", "a", None, [], {}, shape), item))
    cells = re.findall(r"<td[^>]*>(.*?)</td>", text.replace("\u200b", ""))
    assert cells == ["input/0", "50 %", "12", "diversity", "drop", "decoder/1", "25 %", "8", "key_norm", "drop"]


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


def test_best_at_budget_is_the_best_calibration_quality_within_it(study):
    assert study.best_at_budget().id == "p2"


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


@pytest.mark.parametrize("seed", range(20))
def test_the_staircase_is_the_front(seed):
    rng = random.Random(seed)
    values = [(rng.randrange(12), rng.randrange(12)) for _ in range(60)]
    found = staircase([x for x, _ in values], [y for _, y in values])
    assert sorted(found) == np.flatnonzero(non_dominated([(x, -y) for x, y in values])).tolist()
    assert [values[i][0] for i in found] == sorted((values[i][0] for i in found), reverse=True)


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
