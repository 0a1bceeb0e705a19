from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.search.space.space import Space, SpaceFile, data_folder
from tests.support.fakes import DEPTH, make_space, small_space_file
from tests.support.some import some


def test_shipped_spaces_are_valid() -> None:
    for path in some(data_folder("search_spaces").glob("*.yaml")):
        assert SpaceFile.load(path).methods()
    assert "random+drop" not in SpaceFile.load(None).methods()


def test_methods_hold_a_scorer_free_merge_once(space: Space) -> None:
    assert space.methods.count("bipartite") == 1
    assert set(space.methods) == {
        "cls_attention+drop",
        "cls_attention+fuse",
        "value_norm+drop",
        "value_norm+fuse",
        "bipartite",
    }


def test_parameters_are_searched_as_methods() -> None:
    """One row a value: a sampler may set a temperature as it sets a scorer."""
    space = make_space(
        scorers=["key_redundancy(margin=0.5)", "value_norm"], merges=["soft(temperature=0.5)", "soft", "bipartite"]
    )
    assert space.methods == [
        "key_redundancy(margin=0.5)+soft(temperature=0.5)",
        "key_redundancy(margin=0.5)+soft",
        "bipartite",
        "value_norm+soft(temperature=0.5)",
        "value_norm+soft",
    ]
    schedule = Schedule([space.stage(1, 2, space.methods[0])])
    assert schedule.stages[0].scorer_params == {"margin": 0.5}
    assert schedule.stages[0].merge_params == {"temperature": 0.5}
    params = space.encode(schedule)
    assert params is not None
    assert space.decode(params) == schedule
    with pytest.raises(ValueError, match="unknown parameter 'margn': did you mean 'margin'"):
        make_space(scorers=["key_redundancy(margn=0.5)"])


def test_levels_that_keep_the_same_tokens_are_offered_once() -> None:
    space = Space(small_space_file(keep=[0.99, 0.97, 0.5]), DEPTH, 5, 1)
    assert space.counts == [5, 3]
    assert space.keeps[0] == 1.0


@given(st.data())
def test_any_parameters_decode_to_a_legal_schedule(data: st.DataObject) -> None:
    space = make_space()
    params: dict[str, object] = {}
    for slot in range(space.max_stages):
        params[f"layer_{slot}"] = data.draw(st.integers(0, len(space.layers) - 1))
        params[f"level_{slot}"] = data.draw(st.integers(0, len(space.keeps) - 1))
        params[f"method_{slot}"] = data.draw(st.sampled_from(space.methods))
    schedule = space.decode(params)
    encoded = space.encode(schedule)
    assert encoded is not None
    assert space.decode(encoded) == schedule
    levels = [params[f"level_{s}"] for s in range(space.max_stages)]
    deepest = space.keeps[max(levels)]  # type: ignore[type-var]
    assert (schedule.stages[-1].keep if len(schedule) else 1.0) == deepest


def test_a_slot_that_is_filled_goes_on_as_the_schedule_was(space: Space) -> None:
    schedule = Schedule([Stage(1, 0.75, "value_norm", "fuse")])
    params = space.encode(schedule)
    assert params is not None
    filled = space.decode({**params, "layer_1": 3, "level_1": 2})
    assert filled == Schedule([*schedule, Stage(3, 0.5, "value_norm", "fuse")])


def test_a_number_may_change_up_to_that_of_the_next_stage() -> None:
    space = make_space(max_stages=4)
    params = space.encode(Schedule([Stage(0, 0.75), Stage(1, 0.5), Stage(3, 0.25)]))
    assert params is not None
    assert space.between(params, "layer_1") == (0, 3)
    assert space.between(params, "level_1") == (1, 3)
    assert space.between(params, "layer_2") == (1, 3)
    assert space.between(params, "level_0") == (0, 2)
    assert space.between(params, "level_3") == (0, 3)  # an empty slot may become any stage


def test_encode_refuses_what_lies_outside(space: Space) -> None:
    assert space.encode(Schedule([Stage(0, 0.6)])) is None
    assert space.encode(Schedule([Stage(0, 0.5, "random", "drop")])) is None
    too_many = Schedule([Stage(i, k, "value_norm") for i, k in enumerate([0.9, 0.75, 0.5, 0.25])])
    assert space.encode(too_many) is None


def test_shrink_steps_down_to_the_bottom(space: Space) -> None:
    schedule: Schedule | None = Schedule([Stage(1, 0.75), Stage(3, 0.5)])
    seen = []
    while schedule is not None:
        seen.append([s.keep for s in schedule])
        schedule = space.shrink(schedule)
    assert seen == [[0.75, 0.5], [0.5, 0.25], [0.25]]


def test_a_neighbour_is_one_move_away_and_all_are_reached(space: Space) -> None:
    rng = random.Random(0)
    start = Schedule([Stage(1, 0.5, "value_norm")])
    seen = {space.neighbour(start, rng) for _ in range(500)}
    assert Schedule([Stage(1, 0.25, "value_norm")]) in seen
    assert Schedule([Stage(2, 0.5, "value_norm")]) in seen
    assert Schedule([Stage(1, 0.5, "value_norm", "fuse")]) in seen
    assert all(len(s) <= 2 for s in some(seen))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("format: prunesearch.space\nversion: 1\nkeep: [1.5]\nscorers: [random]\nmerges: [drop]", ["keep", "1.5"]),
        (
            "format: prunesearch.space\nversion: 1\nkeep: [0.5]\nscorers: [cls_atention]\nmerges: [drop]",
            ["did you mean 'cls_attention'"],
        ),
        ("format: prunesearch.space\nversion: 2\nkeep: [0.5]\nscorers: [random]\nmerges: [drop]", ["version"]),
        ("format: prunesearch.space\nversion: 1\nkeeps: [0.5]", ["keep"]),
        ("a: [", ["not YAML"]),
        ("[1, 2]", ["mapping"]),
    ],
)
def test_a_broken_space_file_is_one_clear_line(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(PruneSearchError) as error:
        SpaceFile.load(path)
    message = str(error.value)
    assert "\n" not in message
    assert "broken.yaml" in message
    for word in words:
        assert word in message


def test_a_missing_space_file_and_a_foreign_layer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PruneSearchError, match="cannot be read"):
        SpaceFile.load(tmp_path / "none.yaml")
    with pytest.raises(PruneSearchError, match="layer < 4"):
        make_space(layers=[2, 4])


def test_selections_are_part_of_methods_and_one_that_ranks_nothing_stands_once() -> None:
    space = make_space(
        scorers=["key_norm", "value_norm"], merges=["drop", "fuse", "bipartite"], selections=["top_k", "diversity"]
    )
    assert set(space.methods) == {
        *(f"{scorer}+{merge}" for scorer in ("key_norm", "value_norm") for merge in ("drop", "fuse")),
        "bipartite",
        "random+drop@diversity",
        "key_norm+fuse@diversity",
        "value_norm+fuse@diversity",
    }
    stage = space.stage(1, 1, "key_norm+fuse@diversity")
    assert (stage.selection, stage.scoring) == ("diversity", "key_norm@diversity")
    with pytest.raises(ValueError, match="leaves every row a count of its own"):
        small_space_file(selections=["inverse_cdf"])


def test_stages_before_the_first_block_are_refused_in_an_encoder() -> None:
    file = small_space_file(input=True)
    assert file.of_part("decoder") is file
    with pytest.raises(PruneSearchError, match=r"but this model's blocks are in its encoder: leave `input` out"):
        file.of_part("encoder")
    assert small_space_file().of_part("encoder").fit(DEPTH, 17, 1).layers == list(range(DEPTH))
