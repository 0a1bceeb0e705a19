"""The table on a terminal of 80 columns."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.export.pick import pick
from prunesearch.report.tables.show import (
    change_text,
    export_command,
    front_plot,
    short_schedule,
    show_front,
    token_bars,
)
from prunesearch.search.finish.verdict import Judge
from prunesearch.study.front import Front
from tests.support.some import some


def shown(front, width=80, **options):
    """The lines as a terminal of `width` columns prints them, without colours."""
    stream = io.StringIO()
    show_front(front, Console(file=stream, width=width, color_system=None), **options)
    return stream.getvalue().splitlines()


def test_fits_80_columns_and_cuts_nothing(make_front):
    lines = shown(make_front())
    assert max(map(len, lines)) <= 80
    assert "…" not in "\n".join(lines)


def test_row_of_a_point(make_front):
    row = next(line for line in shown(make_front()) if line.startswith("p3"))
    assert row.split("  ")[0] == "p3"
    for part in ["2.00×", "10.0 (9.7", "10.8)", "78.4 (77.", "79.7)", "−1.6 (−2.1, −1.1)", "0.14"]:
        assert part in row


def test_conditions_budget_verdict_and_next_step(make_front):
    text = "\n".join(shown(make_front()))
    for part in [
        "AMD EPYC 7B13 (cpu, 2 threads)",
        "batch 32, float32",
        "mean error 1.3%, worst 3.1%",
        "unpruned  1.00×",
        "60% = 12.00 ms: 3 of 4 points meet it",
        "verdict  fastest schedule within 1 %",
        "prunesearch export demo --pick p2 --to json",
        "dropped  2 points",
    ]:
        assert part in text
    assert "estimated" not in text
    assert "noisy" not in text


def test_every_stage_of_every_schedule_is_shown_in_one_piece(make_front):
    front = make_front()
    text = "\n".join(shown(front)).replace("\u00a0", " ")
    for point in some(front.points):
        for stage in some(point.text.split(" > ")):
            assert stage in text


def test_estimated_and_noisy_are_said(make_front):
    table = {**make_front().to_dict()["cost_table"], "status": "estimated", "noisy": True, "noise": 0.2}
    lines = shown(make_front(cost_table=table))
    assert "cost table: estimated" in lines[2]
    assert any("noisy machine" in line for line in lines)
    assert any("ms, p10–p90" in line for line in lines)  # the device was at hand all the same
    assert max(map(len, lines)) <= 80


def test_wide_numbers_cost_the_gmacs_column_not_digits(make_front):
    data = make_front().to_dict()
    worst, best = (data["points"][i]["qualities"]["accuracy"] for i in (3, 0))
    worst["difference"] = {"value": -0.112, "low": -0.117, "high": -0.107}
    best |= {"value": 1.0, "low": 0.999, "high": 1.0}
    lines = shown(make_front(points=data["points"]))
    text = "\n".join(lines)
    assert max(map(len, lines)) <= 80
    assert "−11.2 (−11.7, −10.7)" in text
    assert "100.0 (99.9–100.0)" in text
    assert "…" not in text
    assert "GMACs" not in text
    assert "GMACs" in "\n".join(shown(make_front(points=data["points"]), width=100))


def test_neighbouring_stages_of_one_method_are_taken_together(make_front):
    stages = [
        Stage(1, 0.9, "value_norm", "fuse"),
        Stage(2, 0.8, "value_norm", "fuse"),
        Stage(5, 0.3, merge="bipartite"),
    ]
    point = make_front().points[0].model_copy(update={"plan": Schedule(stages).to_dict()})
    assert short_schedule(point) == "1:0.90, 2:0.80 value_norm+fuse > 5:0.30 bipartite"


def test_empty_front(make_front):
    lines = shown(make_front(points=[], verdict={"text": "unpruned is best here"}, budget=None))
    text = "\n".join(lines)
    assert "unpruned is best here" in text
    assert "export" not in text
    assert "budget" not in text


def test_markup_in_names_is_printed_as_it_is(make_front):
    text = "\n".join(shown(make_front(study="[bold red]x[/bold red]", verdict={"text": "a [link=x]b"})))
    assert "[bold red]x[/bold red]" in text
    assert "a [link=x]b" in text


def test_plot_can_be_left_out(make_front):
    assert any("┊" in line for line in shown(make_front()))
    assert not any("┊" in line for line in shown(make_front(), plot=False))


def test_plot_size_and_marks(make_front):
    lines = front_plot(make_front(), 60, 12).splitlines()
    assert len(lines) == 15
    assert max(map(len, lines[:-1])) <= 60
    area = "".join(lines[:12])
    assert (area.count("U"), area.count("*"), area.count("o")) == (1, 1, 3)


def test_plot_order(make_front):
    """The unpruned model (slowest, nearly best) stands right of all and above the poorest point."""
    rows = front_plot(make_front(budget=None)).splitlines()[:12]
    place = {mark: (x, y) for y, row in enumerate(rows) for x, mark in enumerate(row) if mark in "U*"}
    poorest = (rows[-2] + rows[-1]).count("o")
    assert place["U"][0] == max(len(row) for row in rows) - 1
    assert place["*"][0] < place["U"][0]
    assert poorest == 1


def test_plot_of_one_mark(make_front):
    assert "U" in front_plot(make_front(points=[], verdict={"text": "x"}, budget=None))


@pytest.mark.parametrize(("tokens", "bars"), [([8, 4, 1], "█▅▂"), ([65] * 3, "███"), ([0], "▁")])
def test_token_bars(tokens, bars):
    assert token_bars(tokens, 65 if 65 in tokens else 8) == bars


def test_change_and_command(make_front):
    front = make_front(study="my study")
    assert change_text(front.points[0].difference) == "+0.2 (−0.3, +0.7)"
    assert export_command(front, "p2") == "prunesearch export 'my study' --pick p2 --to json"


def test_several_qualities_are_shown_and_the_one_that_counts_is_judged_and_picked_by(make_front):
    """Robustness: the worst of clean and noisy rows. p1 is better than unpruned on clean rows, not on noisy ones."""
    data = make_front().to_dict()
    for item in (data["unpruned"], *data["points"]):
        clean = item["qualities"].pop("accuracy")
        noisy = {**clean, "value": clean["value"] - 0.1, "low": clean["low"] - 0.1, "at_least": clean["at_least"] - 0.1}
        if clean["difference"] is not None:
            noisy["difference"] = {"value": -0.03, "low": -0.04, "high": -0.02, "at_least": -0.038, "promised": -0.038}
        item["qualities"] = {"worst of both": noisy, "clean": clean, "noisy": noisy}
    front = make_front(combined="worst", unpruned=data["unpruned"], points=data["points"])
    text = "\n".join(shown(front, width=100))
    table = [line.split() for line in text.splitlines()]
    assert ["worst", "of", "both,", "%,", "by", "view", "unpruned", "p1", "p2", "*", "p3", "p4"] in table
    assert next(row for row in table if row[:1] == ["clean"])[1:3] == ["80.0", "+0.2"]
    assert next(row for row in table if row[:1] == ["noisy"])[1:3] == ["70.0", "−3.0"]
    assert next(row for row in table if row[:3] == ["worst", "of", "all"])[3:5] == ["70.0", "−3.0"]
    assert "worst of both % against latency" in text
    found = Judge(front.unpruned, "worst of both", 32).verdict(front.points)
    assert (found.point, found.by_estimate) == (None, "p2")  # 69.6 % of 70 % by estimate
    assert pick(front, "fastest@0.9").id == "p4"
    with pytest.raises(PruneSearchError, match=r"keeps 0\.99 of the unpruned"):
        pick(front, "fastest@0.99")
    assert Front.model_validate(front.to_dict()) == front
