"""A cost that a package registers is everywhere, though nothing but its row and its pricing was written."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from rich.console import Console

from prunesearch.commands.verify import verify
from prunesearch.commands.verify_table import show_verification
from prunesearch.core.budget import Budget
from prunesearch.core.constraint import Constraint
from prunesearch.core.costs import COSTS, Cost, find_cost, register_cost
from prunesearch.core.errors import PruneSearchError
from prunesearch.cost.counting.flops import MacCosts
from prunesearch.export import export
from prunesearch.export.pick import pick
from prunesearch.report.dashboard import study_page
from prunesearch.report.dashboard.library import Library
from prunesearch.report.loggers import scalars
from prunesearch.report.tables.show import show_front
from prunesearch.report.views.figures import front_figure
from prunesearch.report.views.freeze import Frozen
from prunesearch.report.views.study_view import StudyView
from prunesearch.search.costs.bench import Bench, Pricing
from prunesearch.search.costs.latency import Scaled
from prunesearch.search.run import run
from prunesearch.study.config import RunConfig
from prunesearch.study.folder import StudyFolder
from prunesearch.study.front import Front
from prunesearch.study.front_items import Measured
from tests.support.known_device import known_table, settings, write_model, write_profile
from tests.support.some import some
from tests.support.tables import in_place

CENTS = 1000.0  # for a billion multiply-adds


class Price(Pricing):
    """What a cloud asks for: so much a multiply-add."""

    def costs(self, bench: Bench) -> Scaled:
        """Of one input."""
        return Scaled(MacCosts.of(bench.handle.encoder, bench.task.tokens), CENTS)


class Complaints(Pricing):
    """Known only once people saw the answers: those that changed."""

    def found(self, evaluation) -> Measured:
        """Share of the holdout rows."""
        return Measured(value=1 - evaluation.agreement)


MONEY = Cost(
    name="money", unit="ct", per="input", noun="price", a_noun="a price", typed={"ct": 1.0, "eur": 100.0},
    target=Price, help="what a cloud asks for", examples="2ct",
    least="Least dear", less="less dear", on_device=False, predicted_by="by the list",
)  # fmt: skip
CHANGED = Cost(
    name="complaints", unit="calls", per="input", noun="complaints", a_noun="complaints", typed={"calls": 1.0},
    examples="0.1calls", target=Complaints, help="what people say", known="after", predicted_by="asked",
)  # fmt: skip
RATE = Cost(
    name="rate", unit="fps", per="batch", noun="rate", a_noun="a rate", typed={"fps": 1.0}, examples="30fps",
    target=Pricing, help="how many", smaller_is_better=False,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    with ExitStack() as stack:
        for row in (MONEY, CHANGED, RATE):
            stack.enter_context(in_place(COSTS, row.name))
            register_cost(row)
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("money")
    write_model(folder)
    return folder


@pytest.fixture(scope="module")
def front(root) -> Front:
    """Money is minimised and budgeted, complaints are bounded; the device is known by its profile."""
    patch = pytest.MonkeyPatch()
    patch.setenv("PRUNESEARCH_PROFILES", str(root / "profiles"))
    write_profile(root / "profiles", "box", known_table())
    changes = {
        "device": "box",
        "trials": 8,
        "objectives": ["money"],
        "budget": "95%",
        "constraints": ["money <= 0.02eur", "complaints <= 1calls"],
    }
    found = run(RunConfig(**settings(root, **changes)), "dear", root=root / "studies")
    patch.undo()
    return found


def test_it_may_be_typed():
    assert (Budget.parse("0.02 EUR").kind, Budget.parse("0.02 EUR").value) == ("money", 2.0)
    with pytest.raises(PruneSearchError, match=r"a price \(2ct\)"):
        Budget.parse("2 bottles")
    assert Constraint.parse("money <= 2ct").limit(9.0) == 2.0
    with pytest.raises(PruneSearchError, match="money is bounded in ct or as a share"):
        Constraint.parse("money <= 10ms")
    assert RunConfig(budget="2ct").objectives == ["money"]
    assert RunConfig(objectives=["latency", "money"]).costs == {"latency", "money"}


def test_it_is_in_the_file_in_the_shape_of_all_others(front, root):
    data = json.loads((root / "studies" / "dear" / "front.json").read_text())
    assert data["objectives"] == ["money"]
    assert data["budget"]["cost"] == "money"
    for item in (data["unpruned"], *data["points"]):
        assert item["costs"]["money"]["predicted"] == pytest.approx(CENTS * item["costs"]["macs"]["predicted"])
        assert item["costs"]["money"]["measured"] is None
    for point in some(front.points):
        assert point.cost("money").value <= front.budget.limit <= front.unpruned.cost("money").value
    assert [c.limit for c in front.constraints] == [2.0, 1.0]


def test_it_is_on_the_terminal_in_the_report_and_in_the_loggers(front, root):
    out = io.StringIO()
    show_front(front, Console(file=out, width=140, color_system=None))
    header = next(line for line in out.getvalue().splitlines() if "speed" in line)
    assert "ct" in header.split()
    assert "ct: " in out.getvalue()
    view = StudyView("dear", "dear", front)
    assert "money" in view.axes
    figure = front_figure([view], "money", colour="money")
    assert figure["layout"]["xaxis"]["title"]["text"].startswith("price of an input, ct")
    assert "ct by the list" in figure["data"][-1]["hovertext"][0]
    assert '"front money"' in (root / "studies" / "dear" / "report.html").read_text()
    assert "front/money_ct" in scalars(front, [])[0][1]


def test_it_is_in_the_dashboard(front, root):
    """Read from the study's folder: an axis, the figure, the table of points, and the chosen point's panel."""
    (view,) = Library([str(root / "studies" / "dear")]).views()
    assert {"label": "price", "value": "money"} in study_page.axis_options(view)
    assert {"label": "price of an input, ct", "value": "money"} in study_page.colour_options(view)
    assert study_page.front(view, "money", "money", [], None)["layout"]["xaxis"]["title"]["text"].startswith("price")
    point = some(front.points)[-1]
    shown = find_cost("money").cell(point.cost("money").value)
    table = Frozen().html(study_page.points(view, view.item(point.id)))
    assert ">ct<" in table
    assert shown in table
    assert "ct" in Frozen().html(study_page.panel(view, view.item(point.id)))


def test_it_can_be_picked_by_and_exported(front):
    chosen = pick(front, f"best@{front.budget.limit}ct")
    assert chosen.cost("money").value <= front.budget.limit
    note = json.loads(export(front, chosen.id).text)["provenance"]
    assert note["costs"]["money"]["predicted"] == chosen.cost("money").predicted


def test_a_front_of_a_package_that_is_not_there_says_so(front, tmp_path):
    front.save(tmp_path / "front.json")
    with in_place(COSTS, "money"), pytest.raises(PruneSearchError, match="unknown cost 'money'"):
        Front.load(tmp_path / "front.json")


# -- known only after an evaluation, and better when it is more -------------------------------------------------


def test_what_is_known_after_an_evaluation_is_bounded_in_the_end(front):
    for item in (front.unpruned, *some(front.points)):
        amount = item.cost("complaints")
        assert amount.predicted is None
        agreement = getattr(item, "fidelity", None)
        assert amount.value == pytest.approx(1 - (1.0 if agreement is None else agreement.agreement))
    assert "complaints <= 1calls" in [c.text for c in front.constraints]


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: RunConfig(objectives=["complaints"]), "known only after an evaluation"),
        (lambda: RunConfig(objectives=["rate"]), "better when it is more"),
        (lambda: Budget.parse("30fps"), "--constraint 'rate >= 30fps'"),
        (lambda: Budget.parse("1calls"), "--constraint 'complaints <= 1calls'"),
        (lambda: Constraint.parse("rate <= 30fps"), "rate >= bound"),
    ],
)
def test_what_no_search_can_keep_is_refused_with_the_way_out(ask, words):
    with pytest.raises(PruneSearchError, match=words):
        ask()


def test_more_of_it_is_better():
    asked = Constraint.parse("rate >= 30fps")
    assert (asked.violation(20.0, 25.0), asked.violation(40.0, 25.0)) == (10.0, -10.0)
    assert Constraint.parse("rate >= 2x").limit(10.0) == 20.0
    assert find_cost("rate").keeps(31.0, 30.0)
    assert not find_cost("money").keeps(31.0, 30.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "already registered"),
        ({"name": "m2"}, "which is that of money"),
        ({"name": "m2", "typed": {"x": 1.0}}, "speed-up"),
    ],
)
def test_a_name_or_unit_that_is_taken_is_refused(change, words):
    with pytest.raises(PruneSearchError, match=words):
        register_cost(Cost(**{**vars(MONEY), **change}))


# -- verify ------------------------------------------------------------------------------------------------


def test_verify_measures_recomputes_or_says_that_it_cannot(front, root):
    """Money is priced again, latency measured, and complaints, which take an evaluation, stay the study's."""
    folder = StudyFolder(root / "studies", "dear")
    found = verify(folder, front, device="cpu", seconds=0.0)
    how = {name: check.how for name, check in found.points[0].costs.items()}
    assert how == {"latency": "measured", "macs": "recomputed", "money": "recomputed", "complaints": "kept"}
    for point, item in zip(found.points, [front.unpruned, *front.points], strict=True):
        assert point.costs["money"].value == pytest.approx(item.cost("money").value)
        assert point.costs["latency"].now.p10 <= point.costs["latency"].value
    assert found.errors["money"].worst == pytest.approx(0)
    assert any("complaints is the study's" in note for note in found.notes)
    out = io.StringIO()
    show_verification(found, front, Console(file=out, width=80, color_system=None))
    assert "price of an input, recomputed now" in out.getvalue()
