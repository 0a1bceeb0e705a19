"""Picking a point (expected results worked out by hand from tests/support/synthetic_front.py) and the native format."""

from __future__ import annotations

import json

import pytest

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.export import export
from prunesearch.export.pick import pick
from prunesearch.study.front import Front
from tests.support.some import some


def changed(front: Front, point: str, calibration: float) -> Front:
    """The front with another calibration quality at one point."""
    data = front.to_dict()
    next(p for p in data["points"] if p["id"] == point)["qualities"]["accuracy"]["calibration"] = calibration
    return Front.model_validate(data)


def promising(front: Front, *promised: float | None, base: float = 0.8) -> Front:
    """The front with other promises of its points, slowest first, and another unpruned quality."""
    data = front.to_dict()
    data["unpruned"]["qualities"]["accuracy"] |= {"value": base, "low": base - 0.01, "high": base + 0.01}
    for point, least in zip(data["points"], promised, strict=True):
        point["qualities"]["accuracy"]["difference"]["promised"] = least
    return Front.model_validate(data)


# Medians: 16, 12, 10, 8 ms, unpruned 20; calibration accuracy: 0.805, 0.801, 0.781, 0.702, unpruned 0.81.
@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("best@16ms", "p1"),
        ("best@15.9ms", "p2"),
        ("best@60%", "p2"),
        ("best@2x", "p3"),
        ("best@0.009s", "p4"),
        ("best@100ms", "p1"),
        # promised on the holdout rows: -0.0018, -0.0078, -0.0198, -0.1038 of 0.80
        ("fastest@0.995", "p1"),  # -0.004
        ("fastest@0.99", "p2"),  # -0.008
        ("fastest@0.98", "p2"),  # -0.016
        ("fastest@95%", "p3"),  # -0.04
        ("fastest@0.5", "p4"),
        ("p3", "p3"),
        (" p3 ", "p3"),
        ("230", "p3"),
        ("4", "p2"),
    ],
)
def test_pick(make_front, spec, expected):
    assert pick(make_front(), spec).id == expected


def test_fastest_is_a_promise_not_an_estimate(make_front):
    """p3 could be promised alone; but p2, which is slower, is not, and ends the sequence."""
    assert pick(promising(make_front(), -0.002, -0.02, -0.02, -0.1), "fastest@0.99").id == "p1"
    assert pick(promising(make_front(), -0.002, None, -0.005, -0.1), "fastest@0.99").id == "p3"


def test_a_file_that_does_not_say_promises_what_its_intervals_do(make_front):
    data = make_front().to_dict()
    for point in data["points"]:
        difference = point["qualities"]["accuracy"]["difference"]
        del difference["promised"], difference["at_least"]
    data["points"][1]["qualities"]["accuracy"]["difference"] |= {"value": 0.0, "low": -0.03}
    old = Front.model_validate(data)  # lower ends: -0.003, -0.03, -0.021, -0.105
    assert pick(old, "fastest@0.99").id == "p1"
    assert pick(old, "fastest@0.97").id == "p1"  # -0.024, which p2 before p3 does not keep
    assert pick(old, "fastest@0.96").id == "p3"


def test_best_chooses_on_calibration_not_holdout(make_front):
    # p2's holdout quality (0.796) stays above p3's (0.784); only calibration is turned round.
    assert pick(changed(make_front(), "p3", 0.803), "best@60%").id == "p3"


def test_ties_go_to_the_faster(make_front):
    assert pick(changed(make_front(), "p3", 0.801), "best@60%").id == "p3"


def test_knee(make_front):
    # Chord from (20 ms, 0.81) to (8 ms, 0.702); along it, scaled to 1: p1 at 1/3, p2 at 2/3, p3 at 5/6.
    # Losses scaled by 0.108: 0.005, 0.009, 0.029 -> 0.0463, 0.0833, 0.2685. Heights: 0.287, 0.583, 0.565.
    assert pick(make_front(), "knee").id == "p2"
    assert pick(changed(make_front(), "p3", 0.79), "knee").id == "p3"  # 0.833 - 0.185 = 0.648


def test_knee_of_one_point_and_of_a_flat_front(make_front):
    data = make_front().to_dict()
    assert pick(make_front(points=data["points"][:1], verdict={"text": "x"}), "knee").id == "p1"
    for point in data["points"]:
        point["qualities"]["accuracy"]["calibration"] = 0.81
    assert pick(make_front(points=data["points"]), "knee").id == "p4"  # nothing is lost: the fastest


def test_nothing_within_the_budget(make_front):
    with pytest.raises(PruneSearchError, match=r"within 3x \(6\.67 ms\).*p4 at 8\.00 ms; pick p4 or best@8ms"):
        pick(make_front(), "best@3x")


def test_no_point_keeps_the_quality_and_the_offered_value_works(make_front):
    """p1 is sure to -0.0018 of 0.80, and 0.002 better by its estimate."""
    said = r"keeps 1 of the unpruned accuracy at 95 % confidence \(by point estimate p1 does, which flatters\)"
    with pytest.raises(PruneSearchError, match=rf"{said}: pick fastest@0\.997 or p1$"):
        pick(make_front(), "fastest@1")
    assert pick(make_front(), "fastest@0.997").id == "p1"


def test_a_share_of_a_negative_quality_is_below_it(make_front):
    """A correlation: the unpruned model has -0.2, and 0.9 of that is -0.22."""
    front = promising(make_front(), 0.0, -0.015, -0.03, -0.3, base=-0.2)
    assert pick(front, "fastest@1").id == "p1"
    assert pick(front, "fastest@0.9").id == "p2"
    front = promising(make_front(), -0.01, -0.02, -0.04, -0.31, base=-0.2)
    with pytest.raises(PruneSearchError, match=r"pick fastest@0\.95 or p1$"):
        pick(front, "fastest@1")
    assert pick(front, "fastest@0.95").id == "p1"
    with pytest.raises(PruneSearchError, match=r"confidence \(by point estimate p1 does, which flatters\): pick p1$"):
        pick(promising(make_front(), -0.01, -0.02, -0.04, -0.31, base=0.0), "fastest@0.9")


@pytest.mark.parametrize("value", ["", "0", "1.5", "-1", "x", "nan", "150%"])
def test_bad_share(make_front, value):
    with pytest.raises(PruneSearchError, match="0 < share <= 1"):
        pick(make_front(), f"fastest@{value}")


def test_bad_budget_unit(make_front):
    with pytest.raises(PruneSearchError, match="unit 'furlong'"):
        pick(make_front(), "best@10furlong")


def test_unknown_specs_list_what_there_is(make_front):
    with pytest.raises(PruneSearchError, match=r"did you mean 'p\d'\?.*p1, p2, p3, p4"):
        pick(make_front(), "p7")
    with pytest.raises(PruneSearchError, match="did you mean 'knee'"):
        pick(make_front(), "kne")
    with pytest.raises(PruneSearchError, match=r"trial 99 .*17 \(p1\), 4 \(p2\), 230 \(p3\), 31 \(p4\)"):
        pick(make_front(), "99")


def test_empty_front_repeats_the_verdict(make_front):
    front = make_front(points=[], verdict={"text": "unpruned is best here"})
    with pytest.raises(PruneSearchError, match="no point to pick: unpruned is best here"):
        pick(front, "knee")


def test_json_is_a_lossless_schedule_with_provenance(make_front):
    front = make_front()
    for point in some(front.points):
        exported = export(front, point.id, "json")
        assert (exported.changes, exported.losses) == ((), ())
        assert Schedule.from_json(exported.text) == point.to_schedule()
        note = json.loads(exported.text)["provenance"]
        assert (note["study"], note["point"], note["trial"]) == ("demo", point.id, point.trial)
        assert note["model"]["class"] == "ViTForImageClassification"
        assert note["cost_table"] == "measured"


def test_export_by_format_name(make_front):
    exported = export(make_front(), "best@60%", "json")
    assert Schedule.from_json(exported.text) == make_front().points[1].to_schedule()
    with pytest.raises(PruneSearchError, match=r"unknown export format 'jsn': did you mean 'json'\?"):
        export(make_front(), "p1", "jsn")


def test_the_front_gives_the_model_that_counts_are_of(make_front):
    # p4 of the synthetic front: fuse, block 0, keep 0.25 of 64, so 17 tokens of 65 in 9 blocks
    text = export(make_front(), "p4", "power-bert", lossy=True).text
    assert f'--RETENTION_CONFIG "{",".join(["17"] * 9)}"' in text
    rate = json.loads(export(make_front(), "p4", "diffrate", lossy=True).text)
    assert list(rate) == ["prunesearch/demo-vit-cifar10"]
    assert list(rate["prunesearch/demo-vit-cifar10"]) == ["0.1"]  # 0.26 x 17 / 65 GMACs
