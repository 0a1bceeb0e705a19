"""Stages: places, amounts and parameters."""

from __future__ import annotations

import copy
import pickle

import pytest

import prunesearch as ps
from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.plans.amount import Keep
from prunesearch.core.plans.stage import Place, Stage, read_method
from prunesearch.core.tables.params import Param
from prunesearch.core.tables.token_tables import MERGES, SCORERS, SELECTIONS


def test_a_stage_by_layer_and_keep_is_one_by_place_and_amount() -> None:
    plain = Stage(3, 0.7, "value_norm", "fuse")
    assert plain == Stage(layer=3, keep=0.7, scorer="value_norm", merge="fuse")
    assert plain == Stage(Place("encoder", 3), Keep(0.7), "value_norm", "fuse")
    assert (plain.layer, plain.keep, plain.place, plain.amount) == (3, 0.7, ("encoder", 3), Keep(0.7))
    assert (plain.selection, plain.params) == ("top_k", ())
    assert hash(plain) == hash(Stage(3, 0.7, "value_norm", "fuse"))
    assert repr(plain) == "Stage(layer=3, keep=0.7, scorer='value_norm', merge='fuse')"
    assert plain.replace(merge="drop") == Stage(3, 0.7, "value_norm", "drop")
    for same in (copy.deepcopy(plain), pickle.loads(pickle.dumps(plain)), plain.replace()):
        assert same == plain
    with pytest.raises(AttributeError):
        plain.scorer = "random"  # type: ignore[misc]


def test_parameters_have_defaults_that_a_stage_need_not_name() -> None:
    stage = Stage(3, 0.7, "key_redundancy", "soft", params={"temperature": 0.5, "margin": 0.9})
    assert stage.params == (("temperature", 0.5),)  # 0.9 is the margin's default
    assert stage.scorer_params == {"margin": 0.9}
    assert stage.merge_params == {"temperature": 0.5}
    assert stage.method == "key_redundancy+soft(temperature=0.5)"
    assert stage != Stage(3, 0.7, "key_redundancy", "soft")
    assert Stage(3, 0.7, "key_redundancy", "soft", params={"temperature": 0.1}).params == ()


@pytest.mark.parametrize(
    ("scorer", "merge", "params", "rule"),
    [
        ("value_norm", "soft", {"temprature": 0.5}, "unknown parameter 'temprature': did you mean 'temperature'"),
        ("value_norm", "drop", {"temperature": 0.5}, "unknown parameter 'temperature': this method has none"),
        ("value_norm", "soft", {"temperature": 50}, "`0.001 <= temperature <= 10` must hold, but got 50"),
        ("value_norm", "soft", {"temperature": float("nan")}, "must hold, but got nan"),
        ("value_norm", "soft", {"temperature": True}, "must hold, but got True"),
        ("value_norm", "soft", {"temperature": "hot"}, "must hold, but got 'hot'"),
        ("key_redundancy", "bipartite", {"margin": 0.5}, "unknown parameter 'margin'"),  # its scorer is ignored
    ],
)
def test_parameters_that_cannot_be(scorer: str, merge: str, params: dict[str, object], rule: str) -> None:
    with pytest.raises(PruneSearchError, match=rule) as caught:
        Stage(3, 0.7, scorer, merge, params=params)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_parameter_of_two_rows_is_refused() -> None:
    def scorer(inputs: object) -> None:
        """Nothing."""

    with SCORERS.registered("warm", scorer, params={"temperature": Param(1.0, 0.1, 2.0, "of it")}):
        with pytest.raises(PruneSearchError, match="parameter 'temperature' belongs to two"):
            Stage(3, 0.7, "warm", "soft", params={"temperature": 2})
        assert Stage(3, 0.7, "warm", "drop", params={"temperature": 2}).scorer_params == {"temperature": 2.0}


def test_every_row_names_a_default_within_its_range() -> None:
    rows = [table.entry(name) for table in (SCORERS, MERGES, SELECTIONS) for name in table]
    params = [param for row in rows for param in row.params.values()]
    assert len(params) >= 2
    assert all(param.low <= param.default <= param.high and param.help for param in params)


def test_a_place_in_another_part() -> None:
    stage = Stage(Place("tower", 3), 0.7)
    assert stage.to_dict() == {"layer": 3, "keep": 0.7, "scorer": "cls_attention", "merge": "drop", "part": "tower"}
    assert Stage.from_dict(stage.to_dict()) == stage
    with pytest.raises(PruneSearchError, match="unknown part 'towr' of a model: did you mean 'tower'"):
        Stage(Place("towr", 3), 0.7)
    schedule = ps.Schedule([stage, Stage(1, 0.9)])  # keeps fall within a part: each counts its own tokens
    assert str(schedule) == "tower/3:0.70 cls_attention+drop > 1:0.90 cls_attention+drop"
    with pytest.raises(PruneSearchError, match="in the order in which tokens pass them, but tower/3 follows 1"):
        ps.Schedule([Stage(1, 0.9), stage])


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        ({"layer": 1, "scorer": "random", "merge": "drop"}, "one of \\['cumulative', 'keep', 'threshold'\\]"),
        ({"layer": 1, "keep": 0.5, "scorer": "random", "merge": "drop", "colour": 1}, "colour"),
        ({"layer": 1, "keep": 0.5, "scorer": "random", "merge": "drop", "params": [1]}, '"params" of a stage'),
    ],
)
def test_a_plain_form_that_is_no_stage(data: dict[str, object], rule: str) -> None:
    with pytest.raises(CorruptFileError, match=rule):
        Stage.from_dict(data)


def test_methods_name_their_parameters() -> None:
    text = "key_redundancy( margin = 0.5 ) + soft(temperature=2)"
    found = read_method(text)
    assert found == ("key_redundancy", "soft", "top_k", (("margin", 0.5), ("temperature", 2.0)))
    assert Stage(1, 0.5, *found).method == "key_redundancy(margin=0.5)+soft(temperature=2.0)"
    for wrong in ("soft(temperature)", "value_norm+soft(temperature=)", "value_norm+soft(temperature=a)", "a+b+c"):
        with pytest.raises(PruneSearchError, match="but got"):
            read_method(f"value_norm+{wrong}" if wrong.startswith("soft") else wrong)
    with pytest.raises(PruneSearchError, match="unknown selection 'top': did you mean 'top_k'"):
        read_method("value_norm+drop@top")


def test_a_selection_other_than_top_k_is_part_of_the_method() -> None:
    with SELECTIONS.registered("spread", lambda inputs: None, "nothing", params={"reach": Param(1.0, 0.0, 9.0, "far")}):
        stage = Stage(1, 0.5, "value_norm", "drop", "spread", {"reach": 3})
        assert stage.method == "value_norm+drop@spread(reach=3.0)"
        assert Stage(1, 0.5, *read_method(stage.method)) == stage
        assert stage.selection_params == {"reach": 3.0}
        assert Stage.from_dict(stage.to_dict()) == stage
        assert str(ps.Schedule([stage])) == "1:0.50 value_norm+drop@spread(reach=3.0)"
