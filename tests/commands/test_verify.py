"""`verify`: the judgement by hand, on the synthetic front; `cli/test_devices.py` has a real measurement."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from prunesearch.commands.verify import Check, Verification, VerifiedPoint, judge, verify
from prunesearch.commands.verify_table import show_verification
from prunesearch.core.errors import PruneSearchError
from prunesearch.study.folder import StudyFolder
from prunesearch.study.front_items import Measured
from tests.support.known_device import one_line

DEVICE = {"name": "AMD EPYC 7B13", "kind": "cpu"}
CONDITIONS = {"batch_size": 32, "dtype": "float32", "attention": "sdpa", "mode": "eager", "threads": 2, "tokens": 65}


def points(front, measured):
    """Points of the front with these medians now (ms), the unpruned model first; what else they cost is the study's."""
    items = [("unpruned", front.unpruned), *((p.id, p) for p in front.points)]
    found = []
    for (name, item), ms in zip(items, measured, strict=True):
        costs = {n: Check(predicted=a.predicted, study=None, now=None, how="kept") for n, a in item.costs.items()}
        now = Measured(value=ms, p10=0.9 * ms, p90=1.1 * ms)
        study = item.latency.value
        costs["latency"] = Check(predicted=item.latency.predicted, study=study, now=now, how="measured")
        found.append(VerifiedPoint(id=name, text=name, costs=costs, speedup=measured[0] / ms))
    return found


def judged(front, measured, device=DEVICE, conditions=CONDITIONS):
    return judge(front, device, conditions, points(front, measured))


AS_PREDICTED = [20.4, 16.32, 12.24, 10.2, 8.16]  # the front predicts 2 % more than it measured


def test_errors_and_ranks_by_hand(make_front):
    """Predictions 20.4, 16.32, 12.24, 10.2, 8.16; measured now 20.4, 16, 12.24, 10.2, 10.2 / 1.25 = 8.16 x 1.25."""
    found = judged(make_front(), [20.4, 16.32, 12.24, 8.5, 10.2])
    errors = [0, 0, 0, 10.2 / 8.5 - 1, 1 - 8.16 / 10.2]
    assert found.errors.keys() == {"latency"}
    assert found.errors["latency"].mape == pytest.approx(sum(errors) / 5)
    assert found.errors["latency"].worst == pytest.approx(0.2)
    assert [p.costs["latency"].error for p in found.points][3:] == [pytest.approx(0.2), pytest.approx(-0.2)]
    assert found.errors["latency"].rank_correlation == pytest.approx(1 - 6 * 2 / (5 * 24))  # two neighbours swapped
    assert found.same_device
    assert found.differences == []


def test_a_perfect_prediction_has_no_error(make_front):
    found = judged(make_front(), AS_PREDICTED)
    assert found.errors["latency"].model_dump() == pytest.approx({"mape": 0, "worst": 0, "rank_correlation": 1})
    assert found.lost == []


def test_points_that_another_beats_now_are_lost(make_front):
    """Quality falls 0.802, 0.796, 0.784, 0.700 from p1 to p4; unpruned 0.80."""
    assert judged(make_front(), [20.4, 12.0, 12.24, 10.2, 8.16]).lost == ["p2"]  # p1 is faster and better
    assert judged(make_front(), [20.4, 16.0, 12.24, 8.0, 8.16]).lost == ["p4"]
    assert judged(make_front(), [20.4, 16.0, 21.0, 10.2, 8.16]).lost == ["p2"]  # unpruned is faster, and 0.80 > 0.796
    assert judged(make_front(), [7.0, 16.0, 12.24, 10.2, 8.16]).lost == ["p2", "p3", "p4"]  # p1 is better than unpruned
    assert judged(make_front(), [20.4, 5.0, 12.24, 10.2, 8.16]).lost == ["p2", "p3", "p4"]  # unpruned is never named


def with_energy(make_front, objectives, costs):
    data = make_front().to_dict()
    for item, mj in zip([data["unpruned"], *data["points"]], costs, strict=True):
        item["costs"]["energy"] = {"predicted": mj}
    return make_front(objectives=objectives, unpruned=data["unpruned"], points=data["points"])


def test_what_costs_less_energy_is_not_lost_for_being_slower(make_front):
    """p2 is slower than p1 now, but costs half the energy; p3 costs more of both than p2."""
    front = with_energy(make_front, ["latency", "energy"], [100.0, 80.0, 40.0, 45.0, 20.0])
    assert judged(front, [20.4, 12.0, 12.24, 10.2, 8.16]).lost == []
    assert judged(front, [20.4, 12.0, 12.24, 12.3, 8.16]).lost == ["p3"]
    assert judged(front, [20.4, 12.0, 12.24, 10.2, 12.5]).lost == []


def test_where_energy_alone_counts_latency_loses_nobody(make_front):
    front = with_energy(make_front, ["energy"], [100.0, 80.0, 40.0, 30.0, 20.0])
    assert judged(front, [20.4, 12.0, 12.24, 10.2, 8.16]).lost == []


def test_another_device_and_other_conditions_are_said(make_front):
    found = judged(make_front(), AS_PREDICTED, {"name": "Another CPU"}, {**CONDITIONS, "threads": 4})
    assert not found.same_device
    assert found.differences == [
        "device AMD EPYC 7B13 in the study, Another CPU now",
        "threads 2 in the study, 4 now",
    ]


def test_predictions_that_are_all_the_same_have_no_rank(make_front):
    front = make_front()
    same = points(front, AS_PREDICTED)
    alike = [p.costs["latency"].model_copy(update={"predicted": 9.0}) for p in same]
    same = [p.model_copy(update={"costs": {**p.costs, "latency": c}}) for p, c in zip(same, alike, strict=True)]
    found = judge(front, DEVICE, CONDITIONS, same)
    assert found.errors["latency"].rank_correlation == 0.0
    assert Verification.model_validate_json(found.model_dump_json()) == found


def test_under_three_points_there_is_nothing_to_rank(make_front):
    front = make_front()
    few = front.model_copy(update={"points": front.points[:1]})
    found = judge(few, DEVICE, CONDITIONS, points(few, [20.0, 16.0]))
    assert found.errors["latency"].rank_correlation == 1.0


def shown(found, front):
    out = io.StringIO()
    show_verification(found, front, Console(file=out, width=80, no_color=True))
    return out.getvalue()


def test_it_is_shown_on_80_columns(make_front):
    found = judged(make_front(), [20.4, 12.0, 12.24, 8.5, 12345.6], {"name": "Another CPU"})
    text = shown(found, make_front())
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "…" not in text
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert "12.2 ms" in lines["p2"]
    assert "p2 !" in text
    assert "+20.0%" in lines["p3"]
    assert "10 ms" in lines["p3"]  # in the study
    assert "not the study's conditions: device AMD EPYC 7B13 in the study, Another CPU now" in " ".join(text.split())
    assert "dominated as measured now: p2, p4" in text


def test_an_estimate_that_is_verified_is_called_one(make_front):
    front = make_front()
    table = front.cost_table.model_copy(update={"status": "estimated", "mape": 0.1})
    text = shown(judged(front, AS_PREDICTED), front.model_copy(update={"cost_table": table}))
    assert "predictions (estimated ±10 %) against AMD EPYC 7B13" in text


# -- refusals, before anything is loaded ---------------------------------------------------------------------


def test_an_empty_front_is_refused(make_front, tmp_path):
    front = make_front(points=[], verdict={"text": "Unpruned is best here.", "point": None})
    with pytest.raises(PruneSearchError) as error:
        verify(StudyFolder(tmp_path, "demo"), front, device="cpu")
    one_line(error.value, "no point to verify", "Unpruned is best here.")


@pytest.mark.parametrize("device", ["a100", "tpu9", "cuda:7", "meta", ""])
def test_a_device_that_cannot_be_measured_here_is_refused_at_once(make_front, tmp_path, device):
    with pytest.raises(PruneSearchError) as error:
        verify(StudyFolder(tmp_path, "demo"), make_front(), device=device)
    one_line(error.value, f"'{device}'")
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_plain_json(make_front):
    found = judged(make_front(), AS_PREDICTED)
    data = json.loads(found.model_dump_json())
    assert (data["format"], data["version"]) == ("prunesearch.verification", 2)
    assert data["points"][0]["id"] == "unpruned"


def test_what_was_not_measured_again_is_said(make_front):
    front = with_energy(make_front, ["latency", "energy"], [100.0, 80.0, 40.0, 45.0, 20.0])
    found = judge(front, DEVICE, CONDITIONS, points(front, AS_PREDICTED), ["energy is not measured here (no counter)"])
    assert found.notes[0] == "energy is not measured here (no counter)"
    assert "energy is the study's: nothing here measures or recomputes it" in found.notes
    assert "energy is not measured here (no counter)" in " ".join(shown(found, front).split())
