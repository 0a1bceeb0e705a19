"""Methods at equal latency on a finished study of a tiny model, whose device takes what the known machine does."""

from __future__ import annotations

import html
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import prunesearch as ps
from prunesearch.commands.compare import CompareSettings, compare, told_apart
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.core.tables.rival_table import RIVALS
from prunesearch.cost.timing.samples import Samples
from prunesearch.pruning.apply import apply_
from prunesearch.pruning.forward.artefacts import loaded, read_weights
from prunesearch.report.tables.compared_table import TITLE, compared_lines, show_compared
from prunesearch.search.adaptive.adapting import AdaptSettings
from prunesearch.search.adaptive.choosing import RowRule
from prunesearch.search.rivals.any_method import AnyMethod
from prunesearch.search.rivals.row_by_row import RowWork
from prunesearch.search.run import run
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.study.config import RunConfig
from prunesearch.study.folder import StudyFolder
from prunesearch.study.front import Front
from prunesearch.study.setup import make_setting
from prunesearch.training.settings import TrainingSettings
from tests.commands.conftest import Measurements
from tests.commands.test_tune import write_rows
from tests.support.known_device import command, known_table, on_box, one_line, settings

NAMES = ("attention-based", "fixed-length", "progressive", "merging", "searched")
PRICES = AnyMethod(known_table())


def known_machine(plans: Sequence[Plan], seconds: float, unfinished: Path) -> list[Samples]:
    """What the known machine takes, a tenth more for plans with merges."""
    merges = [any(stage.merge != "drop" for stage in plan) for plan in plans]
    return [Samples([PRICES.predict(plan) * (1.1 if m else 1.0)] * 5) for plan, m in zip(plans, merges, strict=True)]


class KnownRows(RowWork):
    """Rows on the known machine: every row takes what the plans that it runs do.

    Of stages by row a batch takes a tenth more than it costs as wide as it is.
    """

    def counting_ms(self) -> float:
        return 0.0

    def share_of(self, plan: Plan) -> float:
        return 1.1 * self.row_prices.mean(plan) / self.row_prices.mean(Plan())

    @property
    def costs(self) -> dict[str, float]:  # type: ignore[override]
        return {"block": 1.0, **{name: PRICES.predict(plan) for name, plan in self.plans.items()}}

    def times(self, chosen: Mapping[str, RowRule]) -> dict[int, dict[str, list[float]]]:
        (size,), found = self.wanted.batch_sizes, {name: [ms] * 5 for name, ms in self.costs.items()}
        for name, one in chosen.items():
            if name in self.stages:
                whole = PRICES.predict(Plan())
                share = self.share_of(self.stages[name])
                found[name] = [share * whole * part for part in (0.9, 1.0, 1.0, 1.0, 1.1)]
                continue
            places = self.places(name, one).tolist()
            ms = [self.costs[plan] for plan in one.plans]
            taken = [sum(ms[: place + 1]) if name == "cascade" else 1.0 + ms[place] for place in places]
            found[name] = [sum(taken) / len(taken)] * 5
        return {size: found}

    @property
    def whole(self) -> float:
        """The unpruned model on calibration rows."""
        return float(self.calibration[0]["unpruned"].evaluation.quality)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with on_box(tmp_path_factory.mktemp("compared")) as root:
        write_rows(root)
        yield root


@pytest.fixture
def study(folder: Path, measured: Measurements) -> StudyFolder:
    found = StudyFolder(folder / "studies", "plain")
    if not found.front.exists():
        run(RunConfig(**settings(folder, device="cpu", free=["tokens"])), found.name, root=found.root)
    return found


def compared(study: StudyFolder, *methods: str, **wanted: Any) -> Front:
    asked = CompareSettings(methods or NAMES, **{"budget": "1.5x", **wanted})
    return compare(study, Front.load(study.front), asked, timing=known_machine, row_work=KnownRows)


def test_every_method_is_at_the_target_and_judged_as_by_hand(study: StudyFolder) -> None:
    table = study.cost_table.read_bytes()
    found = compared(study).compared
    assert found is not None
    assert {one.name for one in found.methods} | set(found.left_out) == set(NAMES)
    assert [one.quality.value for one in found.methods] == sorted(
        (o.quality.value for o in found.methods), reverse=True
    )
    setting = make_setting(RunConfig(**Front.load(study.front).config))
    whole = PRICES.predict(Plan())
    with apply_(setting.task.model, Plan()) as handle:
        evaluator = Evaluator(setting.task, handle, setting.task.holdout)
        unpruned = evaluator.unpruned()
        for one in found.methods:
            plan = Plan.from_dict(one.plan)
            (timed,) = known_machine([plan], 0.0, study.path)
            assert one.latency.value == timed.median_ms
            assert one.latency.value <= 1.02 * whole / 1.5
            assert one.speedup == pytest.approx(whole / timed.median_ms)
            mine = evaluator.evaluate(plan)
            change = (mine.statistics - unpruned.statistics).double().mean()
            assert one.quality.value == pytest.approx(mine.quality)
            assert one.quality.difference is not None
            assert one.quality.difference.value == pytest.approx(float(change))
            assert one.seconds == 0 or RIVALS.entry(one.name).ours
    ours = next(one for one in found.methods if one.name == "searched")
    assert ours.rows > 0
    assert ours.seconds > 0
    assert ours.to_ours is None
    assert study.cost_table.read_bytes() == table


def test_a_second_call_times_and_judges_nothing_again(study: StudyFolder) -> None:
    first = compared(study).compared

    def never(plans: Sequence[Plan], seconds: float, unfinished: Path) -> list[Samples]:
        raise AssertionError("it was timed before")

    again = compare(study, Front.load(study.front), CompareSettings(NAMES, "1.5x"), timing=never).compared
    assert first is not None
    assert again is not None
    assert [o.model_dump(exclude={"seconds", "rows"}) for o in again.methods] == [
        o.model_dump(exclude={"seconds", "rows"}) for o in first.methods
    ]


def test_table_frame_and_file_have_it(study: StudyFolder) -> None:
    front = compared(study)
    assert Front.load(study.front) == front
    out = io.StringIO()
    show_compared(front, Console(file=out, width=80))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in out.getvalue()
    assert any("survey, attention-based" in line for line in lines)
    frame = ps.load_study(study.path).compared
    assert front.compared is not None
    assert list(frame.index) == [one.name for one in front.compared.methods]
    assert frame.loc["searched", "speedup"] == pytest.approx(1.5, rel=0.1)
    assert frame.loc["fixed-length", "varies"] == 0
    report = study.report.read_text(encoding="utf-8")
    assert f"<h2>{TITLE}</h2>" in report
    assert html.escape(front.compared.verdict) in report
    for line in compared_lines(front.compared):
        assert html.escape(line) in report


def test_plans_chosen_row_by_row_are_at_the_target_and_paired_with_the_searchs_on_the_same_rows(
    study: StudyFolder,
) -> None:
    front = compared(study, "cascade", "router", "searched", budget="1.2x")
    found = front.compared
    assert found is not None
    by_row = [one for one in found.methods if RIVALS.entry(one.name).by_row]
    ours = next(one for one in found.methods if one.name == "searched")
    assert by_row, found.left_out
    for one in by_row:
        assert one.by_row is not None
        assert one.by_row.least == one.latency.value <= 1.02 * PRICES.predict(Plan()) / 1.2
        assert one.to_ours is not None
        assert one.to_ours.value == pytest.approx(one.quality.value - ours.quality.value)
        assert one.seconds > ours.seconds
        assert one.plan is None
    assert ours.by_row is None
    out = io.StringIO()
    show_compared(front, Console(file=out, width=80))
    assert "spread" in out.getvalue()
    assert max(map(len, out.getvalue().splitlines())) <= 80
    alone = compared(study, "cascade", budget="1.2x").compared
    assert alone is not None
    assert "held against the search's plan" in alone.left_out["cascade"]


@pytest.mark.parametrize("name", ["score-threshold", "score-share", "inverse-cdf"])
def test_stages_by_row_are_at_the_target_on_average_and_judged_as_by_hand(study: StudyFolder, name: str) -> None:
    found = compared(study, name, "searched", "fixed-length", budget="1.2x").compared
    assert found is not None
    one = next((one for one in found.methods if one.name == name), None)
    assert one is not None, found.left_out
    plan = Plan.from_dict(one.plan)
    assert all(stage.by_row for stage in plan)
    assert one.by_row is not None
    assert one.speedup >= 0.9 * 1.2
    assert one.latency.value <= 1.02 * PRICES.predict(Plan()) / 1.2
    assert one.by_row.p95 > one.by_row.mean
    setting = make_setting(RunConfig(**Front.load(study.front).config))
    with apply_(setting.task.model, plan), torch.inference_mode():
        right = []
        for batch in setting.task.splits["holdout"].batches:
            answers = setting.task.model(**batch.inputs).logits.argmax(-1)
            right.append((answers == torch.as_tensor(batch.labels)).float())
    rows = torch.cat(right)[: found.rows]
    assert one.quality.value == pytest.approx(float(rows.mean()))
    assert one.varies is not None
    assert one.varies > 0
    assert one.kernels is not None
    assert one.macs is not None
    assert found.macs is not None
    assert one.macs < found.macs
    ours = next(one for one in found.methods if one.name == "searched")
    assert one.seconds < ours.seconds + 60
    assert one.survey == []


@pytest.mark.slow
def test_what_a_rule_is_to_keep_is_bisected_to_the_latency(study: StudyFolder) -> None:
    front = Front.load(study.front)
    setting = make_setting(RunConfig(**front.config))
    plans = {f"p{keep}": Plan(ps.Schedule([ps.Stage(0, keep)])) for keep in (0.8, 0.5, 0.2)}
    with apply_(setting.task.model, Plan()) as handle, torch.inference_mode():
        work = KnownRows(front, setting, handle, AdaptSettings(batch_sizes=(8,)), given=plans)
        limit = 0.75 * work.costs["unpruned"]
        found = work.at("cascade", 0.75)
        assert found is not None
        assert found.cost <= limit
        for keep in (step / 8 for step in range(1, 9)):
            work.wanted = replace(work.wanted, keep=keep)
            other = work.choose().get("cascade")
            assert other is None or other.cost > limit or keep <= found.quality / work.whole + 0.02


def test_learned_scorers_are_trained_where_they_are_asked_for(study: StudyFolder, folder: Path) -> None:
    training = TrainingSettings(epochs=0.2, batch_size=32)
    found = compared(study, "gate", "searched", train=str(folder / "train.parquet"), training=training).compared
    assert found is not None
    gate = next(one for one in found.methods if one.name == "gate")
    assert gate.seconds > 0
    assert gate.rows > 0
    place = study.path / "scorers"
    plan = Plan.from_dict(json.loads((place / "plan.json").read_text()))
    setting = make_setting(RunConfig(**Front.load(study.front).config))
    weights = read_weights(place / "weights", str(plan.weights))
    with apply_(setting.task.model, Plan()) as handle, loaded(setting.task.model, weights):
        mine = Evaluator(setting.task, handle, setting.task.holdout).evaluate(Plan.from_dict(gate.plan))
    assert gate.quality.value == pytest.approx(mine.quality)
    everything = compare(study, Front.load(study.front), CompareSettings(budget="1.5x"), timing=known_machine).compared
    assert everything is not None
    known = {one.name for one in everything.methods} | set(everything.left_out)
    assert "gate" in known
    assert not {"saliency", "policy"} & known
    assert {"searched-all", "random", "multi-stage"} <= known


def test_what_cannot_be_compared_is_refused_in_a_line(
    study: StudyFolder, folder: Path, monkeypatch: Any, capsys: Any
) -> None:
    place = str(study.path)
    for arguments, words in (
        ([place, "--budget", "40mJ"], "equal latency"),
        ([place, "--budget", "1x"], "faster than the unpruned"),
        ([place, "--methods", "atention-based"], "did you mean 'attention-based'"),
        ([place, "--rows", "3"], "rows >= 64"),
        ([place, "--seconds", "0"], "seconds > 0"),
        ([place, "--model", "x"], "leave one out"),
        (["nowhere"], "nowhere"),
    ):
        code, _, err = command(monkeypatch, capsys, "compare", *arguments, "--quiet")
        assert code == 2, arguments
        one_line(err, words)
    front = run(RunConfig(**settings(folder, device="box")), "elsewhere", root=study.root)
    with pytest.raises(PruneSearchError, match="device is not at hand"):
        compare(StudyFolder(study.root, "elsewhere"), front, CompareSettings(NAMES, "1.5x"))


def test_the_command_prints_the_table_or_json(study: StudyFolder, monkeypatch: Any, capsys: Any) -> None:
    """With the clock of this machine: what comes of it hangs on that, and only its form is looked at."""
    arguments = ["compare", str(study.path), "--methods", "random,searched", "--budget", "90%", "--seconds", "0.1"]
    code, out, err = command(monkeypatch, capsys, *arguments, "--json", "--quiet")
    assert code == 0, err
    found = json.loads(out)
    assert found["budget"] == "90%"
    assert {one["name"] for one in found["methods"]} | set(found["left_out"]) == {"random", "searched"}
    code, out, _ = command(monkeypatch, capsys, "show", str(study.path))
    assert code == 0
    assert "Methods at equal latency: 1.11x" in out


def test_a_study_that_is_not_there_is_searched_first_and_one_that_is_there_is_not(
    folder: Path, measured: Measurements
) -> None:
    """With the clock of this machine: what comes of it hangs on that, and only that it is there is looked at."""

    def made() -> ps.Study:
        asked = settings(folder, device="cpu", free=["tokens"])
        asked |= {"study": "made", "budget": "90%", "methods": ("random", "searched"), "compared": {"seconds": 0.1}}
        return ps.compare(asked.pop("model"), asked.pop("data"), **asked, **{"root": folder / "studies"})

    first = made()
    found = first.front.compared
    assert found is not None
    assert found.budget == "90%"
    assert first.front.budget is not None
    assert {one.name for one in found.methods} | set(found.left_out) == {"random", "searched"}
    trials, table = len(first.trials), first.folder.cost_table.read_bytes()
    second = made()
    assert (len(second.trials), second.folder.cost_table.read_bytes()) == (trials, table)


def test_weights_are_known_again_in_whatever_order_a_file_gives_them() -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {str(i): torch.randn(50, generator=generator) * 10.0**i for i in range(-6, 6)}
    assert {
        told_apart(dict(sorted(tensors.items(), key=lambda item: hash((seed, item[0]))))) for seed in range(20)
    } == {told_apart(tensors)}
    assert told_apart({**tensors, "0": tensors["0"] + 1e-3}) != told_apart(tensors)
