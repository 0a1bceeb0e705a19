"""Plans chosen row by row on a finished study: what is told is what running its rows one after another finds."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from prunesearch.commands.adapt import adapt, adapt_wanted, adapted, duel_at, school_of
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule_text import parse_schedule
from prunesearch.export.pick import pick
from prunesearch.export.point import export_point
from prunesearch.pruning.apply import apply_
from prunesearch.report.tables.adapted_table import adapted_lines, show_adapted
from prunesearch.report.views.pages import adapted_section
from prunesearch.search.adaptive.adapting import Adapting, AdaptSettings
from prunesearch.search.adaptive.bounding import RowBudget
from prunesearch.search.rivals.any_method import AnyMethod
from prunesearch.search.run import run
from prunesearch.study.config import RunConfig
from prunesearch.study.folder import StudyFolder
from prunesearch.study.front import Front
from prunesearch.study.front_records import RowLatency, RowPlans
from prunesearch.study.setup import make_setting
from prunesearch.training.settings import TrainingSettings
from tests.commands.test_tune import write_rows
from tests.support.known_device import known_table, on_box, settings

WANTED = AdaptSettings(keep=0.9, batch_sizes=(1, 4), rows=64, batches=10)


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    with on_box(tmp_path):
        yield run(RunConfig(**settings(tmp_path, device="box")), "plain", root=tmp_path / "studies")


def test_where_all_rows_go_to_one_plan_it_is_the_rival(front: Front) -> None:
    setting = make_setting(RunConfig(**front.config))
    with apply_(setting.task.model, Plan()) as handle, torch.inference_mode():
        found = adapted(Adapting(front, setting, handle, replace(WANTED, keep=0.001)))  # the fastest is good enough
    cascade = next(one for one in found.contestants if one.kind == "cascade")
    assert cascade.shares[0] == 1.0
    for duel in (duel for duel in found.duels if duel.adaptive == "cascade"):
        assert (duel.static, duel.winner, duel.difference.value) == (cascade.plans[0], "neither", 0.0)
    assert any("there is nothing to decide" in note for note in found.notes)


def test_what_is_told_is_what_rows_one_by_one_find(front: Front, tmp_path: Path) -> None:
    setting = make_setting(RunConfig(**front.config))
    task = setting.task
    with apply_(task.model, Plan()) as handle, torch.inference_mode():
        work = Adapting(front, setting, handle, WANTED)
        found = adapted(work)
        cascade = next(one for one in found.contestants if one.kind == "cascade")
        fast, slow = (work.plans[name] for name in cascade.plans)
        right, slower = 0, 0
        rows = task.splits["holdout"].take(64)
        for number in range(rows.n):
            batch = rows.batches.pick([number], rows.padding)[0]
            with handle.under(fast):
                logits = task.model(**batch.inputs).logits[0]
            shares, order = logits.softmax(dim=-1), logits.sort(descending=True).indices
            sure = {
                "probability": shares.max(),
                "margin": shares[order[0]] - shares[order[1]],
                "entropy": (shares * shares.log()).sum(),
            }[str(cascade.by)]
            if float(sure) < float(cascade.threshold or 0.0):
                slower += 1
                with handle.under(slow):
                    logits = task.model(**batch.inputs).logits[0]
            right += int(logits.argmax()) == int(batch.labels[0])
    assert cascade.quality.value == pytest.approx(right / rows.n)
    assert cascade.shares == pytest.approx([1 - slower / rows.n, slower / rows.n])
    unpruned = found.contestants[0]
    assert unpruned.name == "unpruned"
    assert cascade.calibration >= 0.9 * unpruned.calibration
    assert [duel.batch_size for duel in found.duels if duel.adaptive == "cascade"] == [1, 4]
    for one in found.contestants:
        for latency in one.latencies:
            assert latency.p50 <= latency.p95 <= latency.worst

    told = front.model_copy(update={"adapted": found})
    told.save(tmp_path / "front.json")
    assert Front.load(tmp_path / "front.json") == told
    out = Console(file=io.StringIO(), width=400)
    show_adapted(told, out)
    assert "cascade" in out.file.getvalue()
    assert found.duels[0].text in out.file.getvalue()
    assert found.duels[0].text in str(adapted_section(told))
    show_adapted(front, quiet := Console(file=io.StringIO()))
    assert quiet.file.getvalue() == ""
    assert adapted_section(front) == []


def test_stages_by_row_are_judged_and_counted_as_rows_one_by_one(front: Front, tmp_path: Path) -> None:
    setting = make_setting(RunConfig(**front.config))
    task = setting.task
    with apply_(task.model, Plan()) as handle, torch.inference_mode():
        found = adapted(Adapting(front, setting, handle, replace(WANTED, keep=0.5)))
        mine = next(one for one in found.contestants if one.kind == "stages")
        plan, rows = parse_schedule(mine.plans[0]), task.splits["holdout"].take(64)
        assert plan.by_row is not None
        right, counts = 0, []
        for number in range(rows.n):
            batch = rows.batches.pick([number], rows.padding)[0]
            with handle.under(plan):
                right += int(task.model(**batch.inputs).logits[0].argmax()) == int(batch.labels[0])
            assert handle.tokens is not None
            counts.append(handle.tokens.n)
    assert mine.quality.value == pytest.approx(right / rows.n)
    counts = counts[: WANTED.batches]
    assert mine.left is not None
    assert (mine.left.mean, mine.left.worst) == (pytest.approx(sum(counts) / len(counts)), max(counts))
    assert mine.calibration >= 0.5 * found.contestants[0].calibration
    assert {duel.batch_size for duel in found.duels if duel.adaptive == mine.name} == {1, 4}
    told = front.model_copy(update={"adapted": found})
    assert mine.plans[0] in "".join(adapted_lines(found))
    point = pick(told, "by-score")
    assert point.to_plan() == Plan(plan)
    assert point.quality == mine.quality
    assert point.latency.value == mine.latencies[0].mean  # the study had batches of 8, which were not timed
    assert point.speedup == pytest.approx(found.contestants[0].latencies[0].mean / point.latency.value)
    assert Plan.from_json(str(export_point(told, "by-score", "json"))) == Plan(plan)
    for to, name in (("onnx", "m.onnx"), ("torch-export", "m.pt2"), ("openvino", "m.xml")):
        with pytest.raises(PruneSearchError, match=r"a graph of .* needs counts that are the same for every row"):
            export_point(told, "by-score", to, tmp_path / name)
    with pytest.raises(
        PruneSearchError, match="no plan of stages by row called by-score: `prunesearch adapt plain` looks"
    ):
        pick(front, "by-score")


def test_a_budget_bounds_a_percentile_and_holdout_batches_say_whether_it_is_kept(front: Front) -> None:
    setting = make_setting(RunConfig(**front.config))
    with apply_(setting.task.model, Plan()) as handle, torch.inference_mode():
        asked = replace(WANTED, keep=0.5, batch_sizes=(4,), budget=RowBudget("100%", 95.0))
        work = Adapting(front, setting, handle, asked, table=AnyMethod(known_table()))
        found = adapted(work)
        for name in ("cascade", "router", "by-score"):
            one = next((one for one in found.contestants if one.name == name), None)
            said = [note for note in found.notes if note.startswith(f"{name}: p95 within 100%")]
            assert len(said) == (one is not None)
            if one is not None:
                assert one.latencies[0].p95 == pytest.approx(
                    float(said[0].split(": ")[-1].removesuffix(" ms")), abs=0.01
                )
                kept = one.latencies[0].p95 <= (work.limit or 0.0)
                assert ("is kept" in said[0]) == kept
        never = replace(asked, budget=RowBudget("0.0001ms", 95.0))
        none = adapted(Adapting(front, setting, handle, never))
    assert {one.kind for one in none.contestants} == {"static"}
    assert any("p95 within 0.0001ms, on the calibration rows" in note for note in none.notes)


def test_stages_by_row_are_priced_before_they_are_timed(front: Front) -> None:
    setting = make_setting(RunConfig(**front.config))
    with apply_(setting.task.model, Plan()) as handle, torch.inference_mode():
        work = Adapting(front, setting, handle, replace(WANTED, keep=0.5), table=AnyMethod(known_table()))
        found = adapted(work)
        one = next(one for one in found.contestants if one.kind == "stages")
        assert one.priced is not None
        ms = work.row_prices.of(parse_plan(one))
    assert one.priced.mean == pytest.approx(sum(ms) / len(ms))
    assert min(ms) <= one.priced.mean <= one.priced.p95 <= max(ms)
    assert any("by the cost table at the counts of calibration rows" in line for line in adapted_lines(found))


def parse_plan(one: RowPlans) -> Plan:
    return Plan.from_dict(one.plan or {})


def test_what_a_cascade_runs_for_every_row_is_a_rival_whatever_the_clock_says(front: Front) -> None:
    setting = make_setting(RunConfig(**front.config))
    with apply_(setting.task.model, Plan()) as handle, torch.inference_mode():
        work = Adapting(front, setting, handle, WANTED)
        found = adapted(work)
        evaluations = {name: answers.evaluation for name, answers in work.holdout[0].items()}
    slow = RowLatency(batch_size=1, mean=5.0, p50=5.0, p95=5.0, worst=5.0)
    statics = [one.model_copy(update={"latencies": [slow]}) for one in found.contestants if one.kind == "static"]
    best = max(statics, key=lambda one: one.calibration)
    mine = best.model_copy(
        update={
            "name": "cascade",
            "kind": "cascade",
            "plans": [best.name, "other"],
            "shares": [0.5, 0.5],
            "latencies": [slow.model_copy(update={"mean": 4.0, "by_plan": 4.0})],
        }
    )
    evaluations["cascade"] = evaluations[best.name]
    duel = duel_at(mine, [*statics, mine], evaluations, 1, "accuracy")
    assert (duel.static, duel.winner) == (best.name, "neither")
    duel = duel_at(mine.model_copy(update={"kind": "router", "block": 0}), [*statics, mine], evaluations, 1, "accuracy")
    assert duel.static == min(statics, key=lambda one: one.latencies[0].mean).name  # nobody is as fast


def test_a_device_that_is_elsewhere_and_a_front_without_points_are_refused(front: Front, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "studies", "plain")
    with pytest.raises(PruneSearchError, match="not at hand"):
        adapt(folder, front, WANTED)
    none = front.model_copy(update={"points": []})
    with pytest.raises(PruneSearchError, match="has none"):
        adapt(folder, none, WANTED)


class OnlyLearnt(Adapting):
    """Looks for nothing else."""

    kinds = ("learnt-thresholds",)  # type: ignore[assignment]

    @property
    def costs(self) -> dict[str, float]:  # type: ignore[override]
        return {"block": 1.0, **{name: known_table().predict(plan) for name, plan in self.plans.items()}}

    def counting_ms(self) -> float:
        return 0.01


@pytest.mark.slow
def test_learnt_thresholds_meet_their_time_and_are_judged_as_all_are(front: Front, tmp_path: Path) -> None:
    write_rows(tmp_path, 64)
    training = TrainingSettings(batch_size=8, epochs=1, rate=0.05)
    asked = {"keep": 0.6, "rows": 64, "batches": 10, "batch_sizes": (8,)}
    settings, learning = adapt_wanted(**asked, learn_thresholds=True, train="train.parquet", training=training)
    assert learning is not None
    setting = make_setting(RunConfig(**front.config))
    school = school_of(StudyFolder(tmp_path / "studies", "plain"), setting, learning)
    with apply_(setting.task.model, Plan()) as handle, torch.inference_mode():
        work = OnlyLearnt(front, setting, handle, settings, table=AnyMethod(known_table()), school=school)
        found = adapted(work)
        mine = next(one for one in found.contestants if one.name == "learnt-thresholds")
        plan = Plan.from_dict(mine.plan)
        good = [name for name in work.plans if work.calibration[0][name].evaluation.quality >= work.floor]
        aim = min(0.8, min(work.costs[name] for name in good) / work.costs["unpruned"])
        learnt = work.learning.of(plan)  # type: ignore[union-attr]
        whole = work.row_prices.mean(Plan())
        for one in (plan, learnt.begun):  # the time that is aimed at is met; what rows keep comes in steps
            assert 0.75 * aim < work.row_prices.mean(one) / whole <= aim
        right = work.evaluated({"it": plan}, work.split("holdout"))["it"].quality
    assert mine.kind == "stages"
    assert mine.quality.value == pytest.approx(right)
    assert mine.learnt is not None
    assert mine.learnt.begun == str(learnt.begun)
    assert {stage.layer for stage in plan} == {stage.layer for stage in learnt.begun}
    assert {duel.adaptive for duel in found.duels} >= {"learnt-thresholds"}
    (line,) = (line for line in adapted_lines(found) if "rows without labels" in line)
    assert mine.learnt.begun in line
    told = front.model_copy(update={"adapted": found})
    assert pick(told, "learnt-thresholds").to_plan() == plan


def test_learning_thresholds_is_refused_in_a_line_where_it_cannot_be(front: Front, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "studies", "plain")
    wanted, learning = adapt_wanted(batch_sizes=(4,), learn_thresholds=True)
    with pytest.raises(PruneSearchError, match="is of batches of 8, but got 4 first: give --batch-size 8"):
        adapt(folder, front, wanted, learning=learning)
    with pytest.raises(PruneSearchError, match="are learnt: add --learn-thresholds"):
        adapt_wanted(train="rows.parquet")
    with pytest.raises(PruneSearchError, match="learnt for so many epochs, but got a time: give epochs"):
        adapt_wanted(learn_thresholds=True, training=TrainingSettings(time="1m"))
    with pytest.raises(PruneSearchError, match=r"called learnt-thresholds: .* --learn-thresholds` looks"):
        pick(front, "learnt-thresholds")
