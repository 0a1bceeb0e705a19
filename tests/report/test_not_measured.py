"""Fronts of devices that are not at hand, and fronts with energies, on a terminal, in the verdict and in numbers."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from prunesearch.core.costs import digits
from prunesearch.report.tables.show import show_front
from prunesearch.search.finish.verdict import Judge
from prunesearch.study.front import Front, trust
from prunesearch.study.front_records import BudgetInfo
from tests.support.some import some


def shown(front, width=80):
    out = io.StringIO()
    show_front(front, Console(file=out, width=width, color_system=None))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    return text


def predicted(front: Front, *, energies: tuple[float, ...] = (), measured_energy=False, ms=1.0, **table) -> Front:
    """The front with nothing measured: predictions alone; energies in mJ, the unpruned model's first."""
    data = front.to_dict()
    for i, item in enumerate([data["unpruned"], *data["points"]]):
        item["costs"]["latency"] = {"predicted": ms * item["costs"]["latency"]["measured"]["value"], "measured": None}
        if energies:
            value = energies[i]
            measured = {"value": value, "low": 0.9 * value, "high": 1.1 * value, "net": value}
            item["costs"]["energy"] = {"predicted": value, "measured": measured if measured_energy else None}
    data["cost_table"] |= table
    data["budget"] = None
    return Front.model_validate(data)


ESTIMATED = {"status": "estimated", "source": "estimated for 'a100'", "mape": 0.2, "against": "public measurements"}


def test_an_estimate_says_so_in_every_place(make_front):
    front = predicted(make_front(), **ESTIMATED)
    text = shown(front)
    assert text.count("estimated ±20 %") == 2  # the line above the table, and the column
    assert "nothing below was measured on AMD EPYC 7B13" in text
    assert "p10" not in text
    assert "once measured" not in text
    assert "dominated on held-out data" in text
    row = next(line for line in text.splitlines() if line.startswith("p3"))
    assert "2.00×" in row
    assert "10.0 " in row
    assert "10.0 (" not in row


@pytest.mark.parametrize("name", ["box", "amd-epyc-9b14-96-core-processor-2c"])
def test_predictions_from_a_profile_fit_whatever_its_name(make_front, name):
    front = predicted(make_front(), source=f"from profile '{name}'", mape=0.012)
    text = shown(front)
    assert "ms, predicted" in text
    assert f"from profile '{name}' ±1.2 %" in " ".join(text.split())


@pytest.mark.parametrize("measured", [True, False])
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_energies_fit_80_columns_however_large(make_front, measured, scale):
    energies = tuple(scale * e for e in (48.5, 40.0, 30.0, 20.0, 10.0))
    text = shown(predicted(make_front(), energies=energies, measured_energy=measured, ms=scale))
    assert ("mJ an input" if measured else "mJ, predicted") in text
    assert not re.search(r"\de[+]\d", text)
    for value in some(energies):
        assert digits(value) in text


def test_on_a_wide_terminal_nothing_is_left_out(make_front):
    front = predicted(make_front(), energies=(50.0, 40.0, 30.0, 20.0, 10.0), measured_energy=True)
    text = shown(front, 140)
    for words in ("GMACs", "40 (36–44)", "80.2 (7"):
        assert words in text
    text = shown(make_front(), 140)
    assert "ms, p10–p90" in text
    assert "GMACs" in text


def test_points_that_are_not_all_measured_are_refused(make_front):
    data = make_front().to_dict()
    data["points"][0]["costs"]["latency"]["measured"] = None
    with pytest.raises(ValueError, match="latency must have been measured for all points and the unpruned model"):
        Front.model_validate(data)
    data = make_front().to_dict()
    data["unpruned"]["costs"]["latency"]["measured"]["p10"] = None
    with pytest.raises(ValueError, match="must both be given or both be null"):
        Front.model_validate(data)
    data["unpruned"]["costs"]["latency"] = {"predicted": None, "measured": None}
    with pytest.raises(ValueError, match="one of `predicted` and `measured` must be given"):
        Front.model_validate(data)
    data = make_front().to_dict()
    data["points"][0]["costs"]["energy"] = {"predicted": 1.0}
    with pytest.raises(ValueError, match="every point must have the costs of the unpruned model: latency, macs"):
        Front.model_validate(data)
    data = make_front().to_dict() | {"objectives": ["energy"]}
    with pytest.raises(ValueError, match="every point must have one"):
        Front.model_validate(data)


def test_costs_by_name(make_front):
    front = predicted(make_front(), energies=(50.0, 40.0, 30.0, 20.0, 10.0), measured_energy=True)
    assert [front.unpruned.cost(name).value for name in ("latency", "energy")] == [20.0, 50.0]
    with pytest.raises(ValueError, match="knows no energy: run it with --objective energy on a device that has it"):
        make_front().unpruned.cost("energy")
    with pytest.raises(ValueError, match=r"knows no memory: run it with --objective memory$"):
        make_front().unpruned.cost("memory")


def test_a_budget_in_mj_is_met_by_energy(make_front):
    front = predicted(make_front(), energies=(50.0, 40.0, 30.0, 20.0, 10.0))
    front = front.model_copy(update={"budget": BudgetInfo(text="25mJ", limit=25.0, cost="energy")})
    assert [p.id for p in front.within_budget()] == ["p3", "p4"]
    assert "25mJ = 25.00 mJ: 2 of 4 points meet it" in shown(front)


def test_the_verdict_of_an_energy_search_is_in_mj(make_front):
    """p1 keeps 99 % of the quality but p2 is as good (-0.004 >= -0.008; sure to -0.00775) and takes 30 mJ of 50."""
    front = predicted(make_front(), energies=(50.0, 49.0, 30.0, 20.0, 10.0))
    found = Judge(front.unpruned, "accuracy", 32, "energy", trust="estimated ±20 %").verdict(front.points)
    assert found.point == "p2"
    assert found.text.startswith("Most frugal schedule within 1 %")
    assert "1.67x (30 mJ against 50 mJ, estimated ±20 %)" in found.text
    dear = predicted(make_front(), energies=(50.0, 49.0, 49.5, 20.0, 10.0))
    text = Judge(dear.unpruned, "accuracy", 32, "energy", trust="estimated ±20 %").verdict(dear.points).text
    assert "Unpruned is best here (batch 32, estimated ±20 %)" in text
    assert "1.05x more frugal" in text


def test_large_numbers_are_not_powers_of_ten(make_front):
    front = predicted(make_front(), ms=200.0)
    found = Judge(front.unpruned, "accuracy", 32).verdict(front.points)
    assert "2,400 ms against 4,000 ms" in found.text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.01234, "0.0123"),
        (12.34, "12.3"),
        (999.4, "999"),
        (999.6, "1,000"),
        (12345.6, "12,346"),
        (0.0, "0"),
        (100, "100"),
    ],
)
def test_three_digits(value, text):
    assert digits(value) == text


def test_trust(make_front):
    table = make_front().cost_table
    assert trust(table.model_copy(update={"status": "estimated", "mape": 0.1032})) == "estimated ±10 %"
    assert trust(table.model_copy(update={"source": "from profile 'x'", "mape": 0.012})) == "from profile 'x' ±1.2 %"
