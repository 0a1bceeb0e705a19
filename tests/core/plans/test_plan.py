"""Plans: values, text, and files of both versions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prunesearch as ps
from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.plans.plan import Change
from prunesearch.core.plans.schedule_text import parse_schedule
from prunesearch.core.plans.stage import PARTS, Place, Stage, known_params
from prunesearch.core.tables.registry import CHANGES
from prunesearch.core.tables.token_tables import MERGES, SCORERS
from tests.support.paths import ROOT

CLOSED = {"deadline": None, "derandomize": True, "database": None}
EXAMPLE = ROOT / "tests" / "study" / "fixtures" / "front-v3.json"
WARM = ps.Schedule([Stage(1, 0.5, "value_norm", "soft", params={"temperature": 0.5})])


@pytest.fixture
def changes() -> Iterator[None]:
    """Two kinds of change that this prunesearch has not, for the tests."""
    with CHANGES.registered("int4", lambda: None, "for the tests"), CHANGES.registered("thin", lambda: None, "also"):
        yield


@st.composite
def schedules(draw: st.DrawFn) -> ps.Schedule:
    """Schedules with everything that a stage can say; keeps of two digits, as the printed form rounds them."""
    stages = []
    places = [Place(part, n) for part in PARTS for n in sorted(draw(st.sets(st.integers(0, 40), max_size=3)))]
    for counted in dict.fromkeys(place.tokens_of for place in places):
        mine = [place for place in places if place.tokens_of == counted]
        keeps = draw(st.lists(st.integers(1, 100), min_size=len(mine), max_size=len(mine), unique=True))
        for place, keep in zip(mine, sorted(keeps, reverse=True), strict=True):
            merge = draw(st.sampled_from(list(MERGES)))
            uses = MERGES.entry(merge).uses_scores
            scorer = draw(st.sampled_from(list(SCORERS))) if uses else Stage.scorer
            known = known_params(scorer, merge)
            chosen = draw(st.sets(st.sampled_from(sorted(known)))) if known else set()
            params = {name: draw(st.floats(known[name].low, known[name].high)) for name in sorted(chosen)}
            stages.append(Stage(place, keep / 100, scorer, merge, params=params))
    return ps.Schedule(sorted(stages, key=lambda stage: stage.place.order))


@settings(max_examples=200, **CLOSED)
@given(schedule=schedules())
def test_what_is_printed_and_what_is_written_is_read_back(schedule: ps.Schedule) -> None:
    plan = ps.Plan(schedule)
    assert parse_schedule(str(schedule)) == parse_schedule(str(plan)) == schedule
    assert ps.Schedule.from_json(schedule.to_json()) == schedule
    assert ps.Plan.from_json(plan.to_json()) == ps.Plan.from_json(schedule.to_json()) == plan
    assert ps.Schedule.from_json(plan.to_json()) == schedule
    assert plan.tokens_only == schedule


def test_a_plan_is_a_value(changes: None) -> None:
    int4 = Change("int4", params={"group": 32, "attention": True})
    plan = ps.Plan(WARM, [int4, Change("thin", 3, {"share": 0.5})], "fine-tuned")
    assert plan == ps.Plan(WARM, (int4, Change("thin", 3, {"share": 0.5})), "fine-tuned")
    assert len({plan, ps.Plan(WARM), ps.Plan(), ps.Plan(ps.Schedule())}) == 3
    assert ps.Plan.from_json(plan.to_json()) == plan
    assert str(ps.Plan()) == "unpruned"
    assert str(plan) == (
        "1:0.50 value_norm+soft(temperature=0.5) | int4(attention=True, group=32) | 3:thin(share=0.5) | "
        "weights fine-tuned"
    )
    with pytest.raises(AttributeError):
        plan.weights = None  # type: ignore[misc]
    assert ps.Plan.of(plan) is plan
    assert ps.Plan.of(WARM) == ps.Plan(WARM)


def test_a_plan_of_stages_alone_is_its_schedule() -> None:
    plan = ps.Plan(WARM)
    assert plan == WARM
    assert {WARM: 1}[plan] == 1  # type: ignore[index]
    assert {plan: 1}[WARM] == 1  # type: ignore[index]
    assert list(plan) == list(WARM)
    assert len(plan) == 1
    for other in (ps.Plan(WARM, [Change.parse("int8")]), ps.Plan(WARM, weights="tuned")):
        assert other != WARM
        with pytest.raises(PruneSearchError, match=r"token stages alone are asked for, .*(int8|weights tuned)"):
            _ = other.tokens_only


def test_a_plan_is_typed_as_it_prints_itself() -> None:
    plan = ps.Plan(WARM, [Change.parse("int8"), Change.parse("3:bfloat16")])
    assert str(plan) == "1:0.50 value_norm+soft(temperature=0.5) | int8 | 3:bfloat16"
    assert ps.Plan.parse(str(plan)) == plan
    assert plan.variant == "int8 | 3:bfloat16"
    assert ps.Plan.parse("unpruned|int8") == ps.Plan(changes=[Change("precision", params={"to": "int8"})])
    assert ps.Plan.parse("unpruned") == ps.Plan()
    assert Change.parse("int8").help.startswith("matrix products in 8 bits")
    with pytest.raises(PruneSearchError, match="unknown change 'int9' of a model: did you mean 'int8'"):
        ps.Plan.parse("unpruned | int9")


def test_weights_that_are_not_in_the_model_are_not_applied() -> None:
    from tests.support.small_models import build

    model = build("vit")
    with pytest.raises(PruneSearchError, match=r"the plan has weights of its own \(tuned\)"):
        ps.apply_(model, ps.Plan(WARM, weights="tuned"))
    assert ps.handle_of(model) is None


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (
            lambda: Change("int4"),
            "unknown kind of change 'int4': this prunesearch has precision, skip, width, rank, keep; use a",
        ),
        (lambda: Change("precision"), r"a change of precision has the parameter `to`, but got \[\]"),
        (lambda: Change("precision", params={"to": "int9"}), "unknown precision 'int9': did you mean 'int8'"),
        (lambda: ps.Plan("1:0.5 bipartite"), "a plan begins with a Schedule, but got '1:0.5 bipartite'"),
        (lambda: ps.Plan(WARM, ["int8"]), "a list of Change, but got 'int8'"),
        (lambda: ps.Plan(WARM, weights=" "), "`weights` must be a name or None, but got ' '"),
    ],
)
def test_a_plan_that_cannot_be(make: Any, rule: str) -> None:
    with pytest.raises(PruneSearchError, match=rule):
        make()


def test_a_block_that_cannot_be(changes: None) -> None:
    with pytest.raises(PruneSearchError, match="`block` must be an integer >= 0 or None, but got -1"):
        Change("int4", -1)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"version": 1}, "plan version must be 2, but got 1"),
        ({"version": 3}, "plan version must be 2, but got 3"),
        ({"changes": None}, '"changes" must be a list'),
        ({"changes": [{"kind": "int4", "block": None, "params": {}}]}, "unknown kind of change 'int4'"),
        ({"changes": [{"kind": "int4"}]}, "exactly the keys kind, block and params"),
        ({"stages": [{"layer": 1}]}, "a stage has the keys"),
        ({"weights": 3}, "`weights` must be a name"),
        ({"format": "prunesearch.front"}, "format"),
    ],
)
def test_a_broken_file(change: dict[str, Any], rule: str) -> None:
    with pytest.raises(PruneSearchError, match=rule):
        ps.Plan.from_dict({**ps.Plan(WARM).to_dict(), **change})


def test_a_file_without_a_key() -> None:
    whole = ps.Plan(WARM).to_dict()
    for key in ("changes", "weights"):
        with pytest.raises(CorruptFileError, match=f"lacks \\['{key}'\\]"):
            ps.Plan.from_dict({name: value for name, value in whole.items() if name != key})
    with pytest.raises(CorruptFileError, match="not a JSON plan"):
        ps.Plan.from_json("{")


def test_a_schedule_is_not_asked_of_a_plan_with_more(changes: None) -> None:
    for plan in (ps.Plan(WARM, [Change("int4")]), ps.Plan(WARM, weights="tuned")):
        with pytest.raises(PruneSearchError, match=r"read it with Plan\.from_dict"):
            ps.Schedule.from_dict(plan.to_dict())


def test_files_of_before_are_read_and_written_as_before() -> None:
    """A front of a study that an older prunesearch wrote: every schedule comes back, and is written the same."""
    points = json.loads(EXAMPLE.read_text())["points"]
    assert len(points) > 3
    for point in points:
        written = point["schedule"]
        assert (written["format"], written["version"]) == ("prunesearch.schedule", 1)
        schedule = ps.Schedule.from_dict(written)
        assert str(schedule) == point["text"]
        assert schedule.to_dict() == written
        assert ps.Plan.from_dict(written) == ps.Plan(schedule)


def test_what_version_1_cannot_say_is_written_as_a_plan() -> None:
    data = WARM.to_dict()
    assert (data["format"], data["version"], data["changes"], data["weights"]) == ("prunesearch.plan", 2, [], None)
    assert ps.Schedule.from_dict(data) == WARM
    assert ps.Schedule().to_dict() == {"format": "prunesearch.schedule", "version": 1, "stages": []}
