"""Points on attacked rows, other data and class by class: against rows one by one, and what an attack must do."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from rich.console import Console

from prunesearch.commands.stress import Stressing, StressSettings, judged, plans_of, stress_notes
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule_text import parse_schedule
from prunesearch.export.by_row.row_rule import SURENESS, EarlyStates
from prunesearch.export.by_row.serving import Server
from prunesearch.pruning.apply import apply_
from prunesearch.report.tables.stressed_table import show_stressed
from prunesearch.report.views.pages import stressed_section
from prunesearch.search.adaptive.by_score import counts_of
from prunesearch.search.adaptive.choosing import learnt_guess
from prunesearch.search.adaptive.dearness import Dearness
from prunesearch.search.run import run
from prunesearch.study.config import RunConfig
from prunesearch.study.front import Front
from prunesearch.study.front_compared import AttackedPlan, ClassQuality, StressedPlan
from prunesearch.study.front_items import Difference, MetricValue
from prunesearch.study.setup import make_setting
from prunesearch.tasks.views.attacks import Colours, attacked
from tests.support.known_device import on_box, settings
from tests.support.small_models import build, inputs_of


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    with on_box(tmp_path):
        yield run(RunConfig(**settings(tmp_path, device="box")), "plain", root=tmp_path / "studies")


def test_what_is_told_is_what_rows_one_by_one_find(front: Front) -> None:
    pytest.importorskip("foolbox", reason="needs foolbox: pip install 'prunesearch[robust]'")
    setting = make_setting(RunConfig(**front.config))
    task, plans = setting.task, plans_of(front)
    wanted = StressSettings(attacks=("fgsm", "pgd"), eps=0.03, rows=64, attacked=16)
    with apply_(task.model, Plan()) as handle:
        found = Stressing(front, setting, handle, plans, wanted).found()
    rows = task.splits["holdout"].take(64)
    for one in found.plans:
        right: dict[str, list[bool]] = {}
        with apply_(task.model, plans[one.name]), torch.inference_mode():
            for number in range(rows.n):
                batch = rows.batches.pick([number], rows.padding)[0]
                label = int(batch.labels[0])
                said = int(task.model(**batch.inputs).logits[0].argmax())
                right.setdefault(task.label_names[label], []).append(said == label)
        assert one.quality.value == pytest.approx(sum(map(sum, right.values())) / rows.n)
        assert {c.name: c.quality for c in one.classes} == pytest.approx({k: sum(v) / len(v) for k, v in right.items()})
        assert [c.change for c in one.classes] == sorted(c.change for c in one.classes)
        assert one.tokens == front.model.tokens if one.name == "unpruned" else one.tokens <= front.model.tokens
    assert {(one.name, one.attack) for one in found.attacked} == {(n, a) for n in plans for a in ("fgsm", "pgd")}
    unpruned = next(one for one in found.attacked if one.name == "unpruned")
    assert unpruned.own == unpruned.from_unpruned == unpruned.to_unpruned
    told = front.model_copy(update={"stressed": found})
    out = Console(file=io.StringIO(), width=300)
    show_stressed(told, out)
    assert "to unpruned" in out.file.getvalue()
    assert any("no attack makes them dearer" in note for note in found.notes)
    assert found.notes[0] in str(stressed_section(told))
    assert stressed_section(front) == []


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_an_attack_stays_within_its_bound_and_misleads(attack: str) -> None:
    pytest.importorskip("foolbox", reason="needs foolbox: pip install 'prunesearch[robust]'")
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 3 * 8 * 8, generator=generator)
    colours, eps = Colours([0.5, 0.4, 0.3], [0.2, 0.25, 0.3]), 0.02
    pixels = torch.rand(32, 3, 8, 8, generator=generator)
    mean, std = (torch.tensor(x).view(-1, 1, 1) for x in (colours.mean, colours.std))
    scaled = (pixels - mean) / std

    def forward(x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ weight.T

    labels = forward(scaled).argmax(1)
    before = scaled.clone()
    changed = attacked(forward, scaled, labels, attack, eps, colours, seed=0)
    assert torch.equal(scaled, before)
    moved = changed * std + mean
    assert float((moved - pixels).abs().max()) <= eps + 1e-5
    assert float(moved.min()) >= -1e-5
    assert float(moved.max()) <= 1 + 1e-5
    losses = [torch.nn.functional.cross_entropy(forward(x), labels) for x in (scaled, changed)]
    assert losses[1] > losses[0]
    assert torch.equal(changed, attacked(forward, scaled, labels, attack, eps, colours, seed=0))


def test_other_data_are_judged_as_a_study_of_them_would(front: Front, tmp_path: Path) -> None:
    setting = make_setting(RunConfig(**front.config))
    wanted = StressSettings(data=str(front.config["data"]), rows=64)
    begun = front.model_copy(update={"config": {**front.config, "given_digest": "of-other-rows"}})
    with apply_(setting.task.model, Plan()) as handle:
        found = Stressing(begun, setting, handle, plans_of(front), wanted).found()
        own = judged(setting.task, handle, Plan(), setting.task.splits["holdout"].take(64).batches)
    assert found.shifted_rows == own.evaluation.n
    for one in found.plans:
        assert one.shifted is not None
        assert one.shifted.value == one.quality.value  # the same data are no shift
    assert found.plans[0].quality.value == own.evaluation.quality


def test_notes_tell_the_class_that_lost_most_and_how_the_order_holds() -> None:
    def plan(name: str, value: float, change: float, worst: float) -> StressedPlan:
        difference = Difference(value=change, low=change - 0.1, high=change + 0.1)
        quality = MetricValue(value=value, low=0.0, high=1.0, difference=difference)
        classes = [ClassQuality(name="cat", rows=9, quality=0.5, change=worst)]
        return StressedPlan(name=name, quality=quality, tokens=10.0, classes=classes)

    plans = [plan("unpruned", 0.9, 0.0, 0.0), plan("p1", 0.88, -0.02, -0.2), plan("p2", 0.8, -0.1, -0.15)]
    plans.append(plan("p3", 0.7, -0.2, -0.1))
    own = {"unpruned": 0.2, "p1": 0.1, "p2": 0.2, "p3": 0.3}
    attacks = [
        AttackedPlan(name=n, attack="pgd", own=v, from_unpruned=v + 0.3, to_unpruned=0.6, tokens=10.0 + (n == "p3"))
        for n, v in own.items()
    ]
    notes = stress_notes(plans, attacks)
    assert "p1 loses most: -20.0 points on 9 rows of cat" in notes[0]
    assert "the best pruned plan, p1, is not: p3 is; rank correlation of 3 plans with clean rows -1.00" in notes[1]
    assert notes[2].startswith("pgd leaves the unpruned model 20.0 %")
    assert "40.0 to 60.0 %" in notes[2]
    assert len(notes) == 3  # one plan computed more
    for name in ("by-score", "learnt-thresholds"):  # which may
        renamed = [one.model_copy(update={"name": name if one.name == "p3" else one.name}) for one in plans]
        moved = [one.model_copy(update={"name": name if one.name == "p3" else one.name}) for one in attacks]
        assert stress_notes(renamed, moved)[3:] == [
            "static plans compute on as many tokens whatever is in a row: no attack makes them dearer",
            f"{name} computes on 10.0 tokens behind the last block, under pgd on 11.0",
        ]


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"attacks": ("cw",)}, "unknown attack 'cw'"),
        ({"eps": 1.5}, "`0 < eps < 1` must hold"),
        ({"rows": 0}, "`rows >= 1` must hold"),
    ],
)
def test_what_cannot_be_asked(given: dict[str, object], rule: str) -> None:
    with pytest.raises(PruneSearchError, match=rule):
        StressSettings(**given)  # type: ignore[arg-type]


def test_an_attack_on_compute_makes_stages_by_row_dearer_and_no_static_plan(front: Front) -> None:
    pytest.importorskip("foolbox", reason="needs foolbox: pip install 'prunesearch[robust]'")
    setting = make_setting(RunConfig(**front.config))
    task, static = setting.task, plans_of(front)
    wanted = StressSettings(attacks=("compute",), eps=0.2, rows=32, attacked=16)
    for typed in (
        "1:t0.06 attention_received+drop",
        "1:p0.5 cls_attention+drop",
        "1:0.5 cls_attention+drop@inverse_cdf",
    ):
        plans = {**static, "by-score": Plan(parse_schedule(typed))}
        with apply_(task.model, Plan()) as handle:
            found = Stressing(front, setting, handle, plans, wanted).found()
        assert found.attacked == []
        *others, mine = found.dearer
        assert [one.name for one in found.dearer] == list(plans)
        assert mine.attacked_tokens > mine.tokens
        assert mine.ms > 0
        assert mine.attacked_ms > 0
        assert all(one.attacked_tokens == one.tokens for one in others)
        with apply_(task.model, plans["by-score"]) as alone, torch.inference_mode():
            left = 0.0
            for number in range(16):
                inputs = task.splits["holdout"].batches.pick([number], {})[0].inputs
                task.model(**inputs)
                left += setting.geometry.tokens if alone.tokens is None else alone.tokens.n
        assert mine.tokens == pytest.approx(left / 16)
        assert any(note.startswith("by-score under an attack on compute") for note in found.notes)
        assert any("static plans on the same rows: as many tokens as before" in note for note in found.notes)
    with apply_(task.model, Plan()) as handle, pytest.raises(PruneSearchError, match="needs a plan of stages by row"):
        Stressing(front, setting, handle, static, wanted).found()


@pytest.mark.parametrize("kind", ["cascade", "router"])
def test_an_attack_on_compute_sends_rows_to_the_slowest_plan(front: Front, kind: str) -> None:
    pytest.importorskip("foolbox", reason="needs foolbox: pip install 'prunesearch[robust]'")
    setting = make_setting(RunConfig(**front.config))
    task, static = setting.task, plans_of(front)
    plans = [Plan(parse_schedule("0:0.4 cls_attention+drop")), Plan()]
    wanted = StressSettings(attacks=("compute",), eps=0.03, rows=32, attacked=16)
    rows = [task.splits["holdout"].batches.pick([number], {})[0] for number in range(16)]
    with apply_(task.model, Plan()) as handle:
        server = Server(task.model, handle)
        rule = server.cascade(plans, "margin", 0.0)
        if kind == "router":
            states = torch.cat([EarlyStates(task.model, handle, 0)(batch.inputs) for batch in rows])
            guess = learnt_guess(states, torch.arange(16) % 3 > 0)
            rule = server.router(plans, [guess], 0.0, 0)
            rule.threshold = float(guess(states).quantile(0.43))
        else:
            sure = torch.cat([SURENESS["margin"](server.static(plans[0])(batch.inputs)) for batch in rows])
            rule.threshold = float(sure.quantile(0.43))
        found = Stressing(front, setting, handle, static, wanted, rules={kind: rule}).found()
        with torch.inference_mode():
            places = [int(rule(batch.inputs)[1]) for batch in rows]
    unpruned, mine = found.dearer
    assert (unpruned.name, unpruned.made_for, mine.name) == ("unpruned", kind, kind)
    assert mine.slow == pytest.approx(sum(places) / 16)
    assert mine.attacked_slow is not None
    assert mine.attacked_slow > mine.slow
    assert unpruned.attacked_tokens == unpruned.tokens
    assert any(f"{kind} under an attack on compute: " in note and "slowest plan" in note for note in found.notes)


def test_dearness_follows_the_counts() -> None:
    """Of rows with the same stage, the one that leaves more is dearer by it, too."""
    model, inputs = build("vit"), inputs_of("vit", (13,) * 24)
    for typed in ("1:t0.07 attention_received+drop", "1:p0.6 cls_attention+drop"):
        plan = Plan(parse_schedule(typed))
        with apply_(model, plan) as handle:
            said = Dearness(model, handle)(inputs["pixel_values"])
            assert said.requires_grad
            counts = torch.tensor(counts_of(model, handle, plan, inputs)).float()
        assert len(set(counts.tolist())) > 1
        assert float(torch.corrcoef(torch.stack([said.detach(), counts]))[0, 1]) > 0.5


def test_groups_of_a_run_are_told_in_front_verdict_pages_and_under_stress(tmp_path: Path) -> None:
    with on_box(tmp_path):
        frame = pd.read_parquet("data.parquet")
        frame.assign(who=["first" if label == 0 else "rest" for label in frame.label]).to_parquet("data.parquet")
        front = run(RunConfig(**settings(tmp_path, device="box", group="who")), "grouped", root=tmp_path / "studies")
        setting = make_setting(RunConfig(**front.config))
        with apply_(setting.task.model, Plan()) as handle:
            found = Stressing(front, setting, handle, plans_of(front), StressSettings(rows=64)).found()
    assert front.task.group == "who"
    for one in found.plans:  # the class that is a group by itself says what the group must
        groups, classes = ({part.name: part for part in parts} for parts in (one.groups, one.classes))
        (alone,) = (part for name, part in classes.items() if name in ("0", "LABEL_0"))
        assert (groups["first"].quality, groups["first"].rows) == (alone.quality, alone.rows)
        assert groups["first"].rows + groups["rest"].rows == found.rows
    told = front.model_copy(update={"stressed": found})
    out = Console(file=io.StringIO(), width=300)
    show_stressed(told, out)
    assert "worst group" in out.file.getvalue()
    assert any(note.startswith("group by group ") for note in found.notes)
