from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prunesearch.core.errors import CorruptFileError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.search.engines.local import LocalEngine
from prunesearch.search.trials.ask_tell import Proposal, Search
from prunesearch.search.trials.evaluate import Evaluation, Rival
from prunesearch.search.trials.incumbents import Incumbents, pack_rows, unpack_rows
from prunesearch.study.trials import evaluation_units, failed_trials, finished_trials, front_records
from prunesearch.tasks.metrics.metric import find_metric
from tests.support.searches import make_search, run_local

ROWS = 256
GOOD, BAD = Schedule([Stage(1, 0.5, "value_norm")]), Schedule([Stage(2, 0.5, "value_norm")])


def rows(loss: float, n: int = ROWS, right: float = 0.75) -> Evaluation:
    """An evaluation whose rows differ as rows do."""
    noise = torch.rand(n, generator=torch.Generator().manual_seed(n))
    return Evaluation((noise < right)[:, None].float(), loss * (0.5 + noise), noise < right)


def ask(search: Search) -> Proposal:
    proposal = search.ask()
    assert proposal is not None
    return proposal


@given(st.lists(st.tuples(st.floats(0, 100, width=16), st.booleans()), min_size=1, max_size=70))
def test_packed_rows_come_back(pairs: list[tuple[float, bool]]) -> None:
    kl, right = (torch.tensor(column) for column in zip(*pairs, strict=True))
    text = pack_rows(Evaluation(right[:, None].float(), kl.float(), right))
    assert text is not None
    rival = unpack_rows(text)
    assert torch.equal(rival.kl, kl.float())
    assert torch.equal(rival.statistics, right[:, None].float())


@given(st.lists(st.tuples(st.floats(0, 100, width=16), *[st.floats(-9, 999, width=32)] * 3), min_size=1, max_size=70))
def test_packed_statistics_of_any_metric_come_back(found: list[tuple[float, ...]]) -> None:
    kl, *rows = (torch.tensor(column) for column in zip(*found, strict=True))
    statistics = torch.stack(rows, dim=1).float()
    text = pack_rows(Evaluation(statistics, kl.float(), kl > 1))
    assert text is not None
    rival = unpack_rows(text)
    assert torch.equal(rival.kl, kl.float())
    assert torch.equal(rival.statistics, statistics)
    for wrong in (text[:-4], "x" + text, ":" + text.partition(":")[2]):
        with pytest.raises(CorruptFileError):
            unpack_rows(wrong)


def test_a_stopped_candidate_is_judged_by_what_it_has_more_than_its_rival() -> None:
    """Of a metric that is no mean: the rival's on all rows, and the difference on those they share."""
    metric = find_metric("f1")
    said, true = (torch.rand(200, generator=torch.Generator().manual_seed(k)) < 0.5 for k in (0, 1))
    counts = torch.stack([said & true, said, true], dim=1).float()
    kl = torch.zeros(200)
    whole = Evaluation(counts, kl, kl > 0, metric)
    rival = Rival(counts, kl)
    assert rival.extend(whole.first(64)) == (pytest.approx(whole.quality), 0.0)
    said[:12] = true[:12]
    better = torch.stack([said & true, said, true], dim=1).float()[:64]
    quality, _ = rival.extend(Evaluation(better, kl[:64], kl[:64] > 0, metric))
    assert quality == pytest.approx(metric.value(better) - whole.first(64).quality + whole.quality)
    assert quality > whole.quality


def test_rows_that_an_older_version_packed_are_read() -> None:
    """Float16 divergences, then a bit a row: what is in the studies that people have."""
    text = base64.b64encode(np.array([0.5, 0.25], dtype="<f2").tobytes() + b"\x40").decode()
    rival = unpack_rows(text)
    assert (rival.kl.tolist(), rival.statistics.tolist()) == ([0.5, 0.25], [[0.0], [1.0]])
    assert pack_rows(Evaluation(rival.statistics, rival.kl, rival.kl > 0)) == text


def test_statistics_too_long_for_a_database_are_left_out_and_races_go_on() -> None:
    kl, statistics = torch.rand(1000).half().float(), torch.rand(1000, 36)
    text = pack_rows(Evaluation(statistics, kl, kl > 1))
    assert text is not None
    assert len(text) < 60_000
    rival = unpack_rows(text)
    assert rival.statistics.shape == (1000, 0)
    assert torch.equal(rival.kl, kl)
    first = torch.ones(200, 1)
    assert rival.beats(kl[:200] + 1)
    quality, loss = rival.extend(Evaluation(first, kl[:200] + 1, first[:, 0] > 0))
    assert quality == 1  # of its own rows
    assert loss == pytest.approx(float(kl.mean()) + 1, abs=1e-3)
    assert pack_rows(Evaluation(torch.rand(60_000, 2), torch.rand(60_000), torch.ones(60_000))) is None


def test_rows_that_were_cut_are_refused_and_too_many_are_not_kept() -> None:
    text = pack_rows(rows(1.0))
    assert text is not None
    for wrong in (text[:-4], text[:-1], "%" + text[1:]):
        with pytest.raises(CorruptFileError):
            unpack_rows(wrong)
    assert pack_rows(rows(1.0, 100_000)) is None


def test_the_rival_costs_no_more_and_loses_least() -> None:
    found = Incumbents()
    for values, loss, text in [((5.0,), 0.1, "a"), ((3.0,), 0.2, "b"), ((4.0,), 0.3, "dominated"), ((1.0,), 0.9, "c")]:
        found.add(values, loss, text)
    assert len(found) == 3
    assert [found.rival((ms,)) for ms in (0.5, 1.0, 3.5, 9.0)] == [None, "c", "b", "a"]
    found.add((3.0,), 0.05, "best")
    assert [found.rival((ms,)) for ms in (3.5, 9.0)] == ["best", "best"]
    assert len(found) == 2


def race(search: Search) -> None:
    """Tell a good schedule in full, and a cheaper-looking one that loses its race after 64 rows."""
    search.enqueue([GOOD, BAD])
    first = ask(search)
    assert (first.schedule, first.rival) == (GOOD, None)
    search.tell(first, rows(0.1), 1.0)
    second = ask(search)
    assert second.rival is not None
    assert len(second.rival.kl) == ROWS
    part = rows(0.8)
    search.tell(second, part.first(64), 0.2)


def test_a_raced_trial_has_a_result_but_no_place_on_the_front(tmp_path: Path) -> None:
    search = make_search(tmp_path / "s.journal")
    race(search)
    full, raced = search.known[GOOD], search.known[BAD]
    # the control variate: the rival's mean and the mean difference on the rows they share
    part, rival = rows(0.8).kl[:64], rows(0.1).kl.half().float()
    assert raced.loss == pytest.approx(float((part - rival[:64]).mean() + rival.mean()), rel=1e-5)
    assert (raced.rows, raced.rows_total, raced.share) == (64, ROWS, 0.25)
    assert (full.rows, full.share) == (None, 1.0)
    assert front_records([full, raced]) == [full]
    assert len(search.fronts[-1]) == 1
    spent, saved = evaluation_units([full, raced], 10.0)
    assert spent == pytest.approx((full.predicted_ms + raced.predicted_ms / 4) / 10)
    assert saved == pytest.approx(raced.predicted_ms * 0.75 / 10)
    assert finished_trials(search.study) == [full, raced]


def test_rivals_survive_a_resume_and_are_the_same(tmp_path: Path) -> None:
    search = make_search(tmp_path / "s.journal")
    race(search)
    again = make_search(tmp_path / "s.journal")
    assert again.known == search.known
    assert again.fronts[-1] == search.fronts[-1]
    dear = [Schedule([Stage(3, 0.75, "value_norm")])]
    for one in (search, again):
        one.enqueue(dear)
    proposal = ask(search)
    assert (proposal.schedule, proposal.rows_to_beat) == (dear[0], again.fronts[-1][0].text)
    assert ask(again).schedule != dear[0]  # which is being tried


def test_without_races_there_are_no_rivals(tmp_path: Path) -> None:
    search = make_search(tmp_path / "s.journal", race=False)
    search.enqueue([GOOD, BAD])
    search.tell(ask(search), rows(0.1), 1.0)
    assert ask(search).rival is None
    assert len(search.fronts[-1]) == 1


def test_what_breaks_a_constraint_is_nobodys_rival(tmp_path: Path) -> None:
    search = make_search(tmp_path / "s.journal", constraints=lambda s, e: {"quality": 0.9 - e.quality})
    search.enqueue([GOOD, BAD])
    search.tell(ask(search), rows(0.1, right=0.5), 1.0)
    assert ask(search).rival is None
    assert search.study.trials[0].constraints["quality"] > 0


def test_a_lost_worker_costs_one_trial_and_a_schedule_that_kills_two_is_left(tmp_path: Path) -> None:
    search = make_search(tmp_path / "s.journal")
    search.enqueue([GOOD])
    for _ in range(2):
        proposal = ask(search)
        assert (proposal.schedule, proposal.source) == (GOOD, "seed")
        search.fail(proposal, "its worker was lost", lost=True)
    again = make_search(tmp_path / "s.journal")
    for one in (search, again):
        assert one.is_taken(GOOD)
        one.enqueue([GOOD])
        assert ask(one).schedule != GOOD
    assert failed_trials(search.study) == 2


def test_what_failed_is_not_tried_again_after_a_resume(tmp_path: Path) -> None:
    search = make_search(tmp_path / "s.journal")
    search.enqueue([GOOD])
    search.fail(ask(search), "out of memory")
    again = make_search(tmp_path / "s.journal")
    again.enqueue([GOOD])
    assert ask(again).schedule != GOOD


def test_one_trial_too_many_is_withdrawn(tmp_path: Path) -> None:
    search = make_search(tmp_path / "s.journal")
    search.enqueue([GOOD, BAD])
    first = search.ask(1)
    assert first is not None
    assert search.ask(1) is None
    assert not search.exhausted
    search.tell(first, rows(0.1), 0.0)
    assert failed_trials(search.study) == 0
    assert ask(search).schedule == BAD


def test_ctrl_c_gives_the_trial_back(tmp_path: Path) -> None:
    def interrupted(schedule: Schedule, rival: Rival | None) -> Evaluation:
        raise KeyboardInterrupt

    search = make_search(tmp_path / "s.journal")
    with pytest.raises(KeyboardInterrupt):
        next(LocalEngine(interrupted).run(search))
    assert search.running == 0
    assert [t.user_attrs["error"] for t in search.study.trials] == ["interrupted"]
    assert len(list(run_local(search, 2))) == 2


def test_the_reason_for_the_end_is_kept(tmp_path: Path) -> None:
    search = make_search(tmp_path / "s.journal")
    for limits, reason in [
        ({"trials": 3}, "trials"),
        ({"trials": None, "stop": lambda search: len(search.known) >= 5}, "converged"),
        ({"trials": None, "deadline": 0.0}, "timeout"),
    ]:
        list(run_local(search, **limits))
        assert search.stopped == reason
    assert len(search.known) == 5
