"""What every kind of space, and every space that is shipped, must keep."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from optuna.distributions import CategoricalDistribution, IntDistribution

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.files import data_folder
from prunesearch.core.pareto import non_dominated
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.tables.registry import SPACES
from prunesearch.core.tables.token_tables import MERGES, SCORERS
from prunesearch.cost.tables.plateaus import Plateau
from prunesearch.search.solve.listing import ListedSolver
from prunesearch.search.solve.losses import Sensitivities
from prunesearch.search.space.listed import ListedSpace
from prunesearch.search.space.space import Space, SpaceFile
from tests.support.fakes import LinearCosts
from tests.support.some import some

MODELS = {"vit": (12, 197, 1), "text": (6, 64, 2), "short": (4, 17, 1)}  # blocks, tokens, protected
SHIPPED = sorted(data_folder("search_spaces").glob("*.yaml"))


@pytest.fixture(params=SHIPPED, ids=lambda path: path.stem)
def file(request: pytest.FixtureRequest) -> SpaceFile:
    return SpaceFile.load(request.param)


@pytest.fixture(params=[path for path in SHIPPED if SpaceFile.load(path).kind != "free"], ids=lambda path: path.stem)
def listed(request: pytest.FixtureRequest) -> ListedSpace:
    space = SpaceFile.load(request.param).fit(9, 65, 1)
    assert isinstance(space, ListedSpace)
    return space


@pytest.fixture(params=list(MODELS))
def space(file: SpaceFile, request: pytest.FixtureRequest) -> Space:
    return file.fit(*MODELS[request.param])


def draw(space: Space, rng: random.Random) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for name, distribution in space.distributions().items():
        if isinstance(distribution, IntDistribution):
            params[name] = rng.randint(distribution.low, distribution.high)
        else:
            assert isinstance(distribution, CategoricalDistribution)
            params[name] = rng.choice(distribution.choices)
    return params


def make(kind: str, **keys: Any) -> SpaceFile:
    data = {"format": "prunesearch.space", "version": 1, "kind": kind, "scorers": ["cls_attention"], "merges": ["fuse"]}
    found = SPACES.load(kind).model_validate({**data, **keys})  # type: ignore[attr-defined]
    assert isinstance(found, SpaceFile)
    return found


def test_every_kind_is_shipped() -> None:
    assert {SpaceFile.load(path).kind for path in SHIPPED} == set(SPACES)


def test_every_draw_is_a_schedule_of_the_space(space: Space) -> None:
    rng = random.Random(0)
    for _ in range(60):
        schedule = space.decode(draw(space, rng))
        counts = schedule.flow(space.geometry).counts  # raises where it does not fit the model
        assert set(counts) <= set(space.counts)
        assert len(schedule) <= space.max_stages
        assert all(s.scorer in SCORERS and s.merge in MERGES and s.method in space.methods for s in schedule)
        params = space.encode(schedule)
        assert params is not None
        assert space.decode(params) == schedule


def test_plain_schedules_and_ranges_lie_in_the_space(space: Space) -> None:
    rng = random.Random(0)
    for _ in range(30):
        params = space.plain(rng)
        assert len(space.decode(params)) > 0
        for name, distribution in some(space.distributions().items()):
            if isinstance(distribution, IntDistribution):
                low, high = space.between(params, name)
                assert distribution.low <= low <= params[name] <= high <= distribution.high


def test_neighbours_lie_in_the_space(space: Space) -> None:
    rng = random.Random(0)
    schedule = space.decode(space.plain(rng))
    for _ in range(40):
        schedule = space.neighbour(schedule, rng)
        params = space.encode(schedule)
        assert params is not None
        assert space.decode(params) == schedule


def test_shrinking_keeps_fewer_tokens_at_every_step_and_ends(space: Space) -> None:
    rng = random.Random(1)
    for _ in range(10):
        schedule = space.decode(space.plain(rng))
        for _ in range(1000):
            before = schedule.flow(space.geometry).counts
            smaller = space.shrink(schedule)
            if smaller is None:
                break
            assert space.encode(smaller) is not None
            after = smaller.flow(space.geometry).counts
            assert sum(after) < sum(before) or smaller.flow(space.geometry).n_in < schedule.flow(space.geometry).n_in
            schedule = smaller
        else:
            pytest.fail("shrinking does not end")


def test_other_methods_and_plateaus_leave_the_kind_as_it_is(space: Space) -> None:
    fewer = space.with_methods(space.methods[:1])
    assert type(fewer) is type(space)
    assert fewer.methods == space.methods[:1]
    steps = [*range(0, space.tokens, 8), space.tokens]
    plateaus = [Plateau(low + 1, high, 1.0) for low, high in itertools.pairwise(steps)]
    moved = space.at_edges(plateaus)
    assert type(moved) is type(space)
    if moved is not space:
        assert set(moved.counts) <= set(steps)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_key_that_is_misspelt_is_found(tmp_path: Path, path: Path) -> None:
    data = yaml.safe_load(path.read_text())
    data["scorer"] = data.pop("scorers")
    broken = tmp_path / "broken.yaml"
    broken.write_text(yaml.safe_dump(data))
    with pytest.raises(PruneSearchError, match=r"broken\.yaml.*unknown key 'scorer': did you mean 'scorers'") as error:
        SpaceFile.load(broken)
    assert "\n" not in str(error.value)


# -- listed spaces against brute force, and against what the papers say ------------------------------------


def test_the_listed_front_is_that_of_all_members(listed: ListedSpace) -> None:
    space = listed.with_methods(listed.methods[:2])
    assert isinstance(space, ListedSpace)
    costs = LinearCosts(space.depth, space.tokens, space.protected)
    free = Sensitivities.free(space)
    loss = np.maximum.accumulate(np.random.default_rng(0).random(free.loss.shape), axis=1)
    loss[:, 0] = 0.0
    sensitivities = free.with_loss(loss)
    members = [space.schedule(shape, method) for shape in space.shapes for method in space.methods]
    limit = float(np.median([costs.predict(s) for s in members]))
    points = [(costs.predict(s), sensitivities.estimate(s)) for s in members if costs.predict(s) <= limit]
    expected = {(round(c, 9), round(q, 9)) for (c, q), on in zip(points, non_dominated(points), strict=True) if on}
    found = ListedSolver(space, costs, limit).solve(sensitivities, len(members))
    assert {(round(s.cost, 9), round(s.loss, 9)) for s in found} == expected
    assert [s.cost for s in found] == sorted((s.cost for s in found), reverse=True)
    assert ListedSolver(space, costs, 0.0).solve(sensitivities, 5) == []


def test_neighbours_of_a_listed_space_are_one_parameter_away(listed: ListedSpace) -> None:
    rng = random.Random(0)
    for _ in range(10):
        schedule = listed.decode(listed.plain(rng))
        params = listed.encode(schedule)
        assert params is not None
        found = listed.neighbours(schedule, [0])
        for other in some(found):
            assert other != schedule
            assert listed.encode(other) is not None
        for name, axis in some(listed.axes().items()):
            if isinstance(axis, IntDistribution) and params[name] < axis.high:
                assert listed.decode({**params, name: params[name] + 1}) in [schedule, *found]


def test_constant_r_is_tome() -> None:
    space = make("constant-r", r=[13, 16], merges=["bipartite"]).fit(12, 197, 1)
    by_r = [space.decode({"r": k, "method": "bipartite"}).to_removed(12, 197) for k in range(2)]
    assert by_r[0] == [13] * 12
    # ToMe's rule, block by block: at most half of what is not protected
    left, expected = 196, []
    for _ in range(12):
        expected.append(min(16, left // 2))
        left -= expected[-1]
    assert by_r[1] == expected
    assert make("constant-r").fit(4, 9, 1).counts == [9, 8, 7, 6, 5, 4, 3, 2]


def test_one_rate_is_evit_and_dynamicvit() -> None:
    space = make("multi-stage", sites=[0.25, 0.5, 0.75], keep=[0.9, 0.7]).fit(12, 197, 1)
    schedule = space.decode({"rate": 1, "method": "cls_attention+fuse"})
    assert [s.layer for s in schedule] == [3, 6, 9]
    assert [s.keep for s in schedule] == pytest.approx([0.7, 0.49, 0.343])
    assert schedule.counts(12, 197, 1)[9] == 1 + 68  # ceil(0.343 * 196)


def test_curves_fall_as_they_are_called() -> None:
    keep = [k / 1000 for k in range(999, 0, -1)]
    space = make("progressive", keep=keep).fit(8, 10_001, 1)
    level = space.keeps.index(0.2)
    ends = {"first": 5, "last": 2, "level": level, "method": "cls_attention+fuse"}
    falls = {curve: space.decode({**ends, "curve": curve}) for curve in ("linear", "cosine", "geometric")}
    assert all([s.layer for s in schedule] == [2, 3, 4, 5] for schedule in falls.values())
    keeps = {curve: [s.keep for s in schedule] for curve, schedule in falls.items()}
    assert keeps["linear"] == pytest.approx([0.8, 0.6, 0.4, 0.2], abs=1e-3)
    assert keeps["cosine"] == pytest.approx([0.883, 0.6, 0.317, 0.2], abs=1e-3)
    assert keeps["geometric"] == pytest.approx([0.669, 0.447, 0.299, 0.2], abs=1e-3)


def test_a_curve_is_followed_in_as_many_steps_as_stages_are_allowed() -> None:
    space = make("progressive", keep=[0.75, 0.5, 0.25], max_stages=2).fit(8, 101, 1)
    params = {"curve": "linear", "first": 0, "last": 7, "level": 2, "method": "cls_attention+fuse"}
    assert space.decode(params) == Schedule(
        [space.stage(3, 1, "cls_attention+fuse"), space.stage(7, 2, "cls_attention+fuse")]
    )


@pytest.mark.parametrize(
    ("kind", "keys", "words"),
    [
        ("free", {"keep": [0.5], "sites": [1]}, "unknown key 'sites'"),
        ("progressive", {"keep": [0.5], "curves": ["lineer"]}, "did you mean 'linear'"),
        ("multi-stage", {"keep": [0.5], "sites": [0.5], "layers": "all"}, "given by `sites`"),
        ("multi-stage", {"keep": [0.5], "sites": [1.5]}, "but got 1.5"),
        ("multi-stage", {"keep": [0.5], "sites": [-1]}, "but got -1"),
        ("multi-stage", {"keep": [0.5], "sites": [float("nan"), 0.5]}, "but got nan"),
        ("constant-r", {"keep": [0.5]}, "follows from `r`"),
        ("constant-r", {"r": [0]}, "greater than or equal to 1"),
        ("constant-r", {"r": []}, "at least 1 item"),
        ("constant-r", {"r": "al"}, "key 'r': Input should be 'all'"),
        ("free", {"keep": [0.5], "layers": [0, -1]}, "key 'layers.1': Input should be greater than or equal to 0"),
        ("constant", {"r": "all"}, "did you mean 'constant-r'"),
    ],
)
def test_what_a_kind_has_no_use_for_is_refused(tmp_path: Path, kind: str, keys: dict[str, Any], words: str) -> None:
    path = tmp_path / "space.yaml"
    data = {"format": "prunesearch.space", "version": 1, "kind": kind, "scorers": ["random"], "merges": ["drop"]}
    path.write_text(yaml.safe_dump({**data, **keys}))
    with pytest.raises(PruneSearchError, match=r"space\.yaml") as error:
        SpaceFile.load(path)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_spaces_that_do_not_fit_a_model_are_refused() -> None:
    with pytest.raises(PruneSearchError, match="different blocks below 4"):
        make("multi-stage", sites=[2, 3, 9], keep=[0.5]).fit(4, 17, 1)
    with pytest.raises(PruneSearchError, match="different blocks"):
        make("multi-stage", sites=[0.5, 2], keep=[0.5]).fit(4, 17, 1)
    with pytest.raises(PruneSearchError, match="must have 2 tokens"):
        make("constant-r").fit(4, 2, 1)


def test_shipped_spaces_go_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert SpaceFile.load(Path("constant-r")).kind == "constant-r"
    with pytest.raises(PruneSearchError, match="did you mean 'progressive'"):
        SpaceFile.load(Path("progresive"))
    with pytest.raises(PruneSearchError, match="cannot be read"):
        SpaceFile.load(Path("mine.yaml"))
