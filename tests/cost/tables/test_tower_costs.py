"""A known machine that runs a tower and a decoder: measured in pieces, priced as it is under schedules not seen."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.cost.costs import breakdown
from prunesearch.cost.shape import Shape, TowerShape
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.timing.build import all_cells, forms_of, spans, typical_ms
from prunesearch.cost.timing.prompt_walks import in_parts, plan_prompt_walks, with_some_in_tower
from prunesearch.cost.timing.unseen import draw_unseen
from prunesearch.cost.timing.walk import (
    OF_TOWER,
    Piece,
    Walks,
    _fold_both,
    piece_names,
    plain_piece,
    variant_of_piece,
)
from tests.support.known_device import known_table

SIZES = {"kind": "llama", "width": 16, "heads": 2, "mlp_width": 64, "activation": "silu"}
TOWER = TowerShape(family="clip_vision_model", depth=4, tokens=17, protected=1, pictures=2, reach=3, **SIZES)
SHAPE = Shape(family="llava", depth=5, tokens=44, protected=12, part="decoder", tower=TOWER, **SIZES)
COUNTS = [12 + share for share in (4, 10, 16, 24)]
METHODS, IN_TOWER = ["text_attention+drop", "key_norm+drop"], ["cls_attention+fuse", "bipartite", "key_norm+drop"]


def true_ms(piece: Piece) -> float:
    tower, plain = variant_of_piece(piece) == OF_TOWER, plain_piece(piece)
    match plain:
        case ("stem",):
            return 0.3 if tower else 0.7
        case ("head", n):
            # a tower's is its projector, and taking from the prompt what left, which the whole picture spares
            return 0.05 * n + (0.2 if n < TOWER.tokens else 0.0) if tower else 0.1
        case ("attention", n, sized, _):
            return (2 if tower else 1) * (0.2 + 0.02 * n) + (0.05 if sized else 0.0)
        case ("mlp", n, _):
            return (3 if tower else 1) * (0.1 + 0.04 * n)
        case ("reduce", scorer, merge, n_in, _):
            return (0.03 if merge == "bipartite" else 0.01) * n_in + (0.2 if scorer == "text_attention" else 0.1)
    return 0.0


def pieces_of(plan: Schedule | Plan) -> list[Piece]:
    flow = plan.flow(SHAPE.geometry)
    assert flow.in_tower is not None
    return [*piece_names(flow.in_tower, TOWER, OF_TOWER), *piece_names(flow, SHAPE)]


@pytest.fixture(scope="module")
def walks() -> Walks:
    found = Walks()
    for schedule in itertools.islice(plan_prompt_walks(SHAPE, COUNTS, METHODS, IN_TOWER, 0), 300):
        found.add([(piece, true_ms(piece)) for piece in pieces_of(schedule)])
    return found


@pytest.fixture(scope="module")
def table(walks: Walks) -> CostTable:
    cells = in_parts(all_cells(walks, typical_ms(walks), forms_of(SHAPE, {})))
    return CostTable(**{**dict(known_table()), "shape": SHAPE, **cells})


def test_walks_have_stages_in_either_part_and_in_both(walks: Walks) -> None:
    seen = list(itertools.islice(plan_prompt_walks(SHAPE, COUNTS, METHODS, IN_TOWER, 0), 300))
    parts = {frozenset(stage.place.part for stage in schedule) for schedule in seen}
    assert parts == {frozenset(), frozenset({"tower"}), frozenset({"decoder"}), frozenset({"tower", "decoder"})}
    assert all(stage.layer < TOWER.reach for schedule in seen for stage in schedule if stage.place.part == "tower")
    assert spans(walks, SHAPE, COUNTS, METHODS, in_tower=IN_TOWER)
    few = Walks()
    for steps in walks.steps[:40]:
        few.add([one for one in steps if plain_piece(one[0])[:3] != ("reduce", "cls_attention", "bipartite")])
    assert not spans(few, SHAPE, COUNTS, METHODS, in_tower=IN_TOWER)


def test_schedules_that_were_not_walked_are_priced_as_they_are(table: CostTable) -> None:
    drawn = draw_unseen(SHAPE, COUNTS, METHODS, count=24, seed=7)
    unseen = with_some_in_tower(SHAPE, drawn, COUNTS, IN_TOWER, 8)
    assert sum(any(stage.place.part == "tower" for stage in schedule) for schedule in unseen) >= 10
    for schedule in unseen:
        true = sum(map(true_ms, pieces_of(schedule)))
        # between the grid's widths what follows the tower steps by 0.2, which a line cannot
        assert table.predict(schedule) == pytest.approx(true, abs=0.21)
        assert sum(breakdown(table, schedule.flow(SHAPE.geometry)).values()) == table.predict(schedule)
    at_grid = Plan.parse("tower/1:0.5 bipartite > tower/2:0.3125 key_norm+drop > decoder/0:0.125 text_attention+drop")
    assert table.predict(at_grid) == pytest.approx(sum(map(true_ms, pieces_of(at_grid))), rel=1e-6)
    tower = breakdown(table, at_grid.flow(SHAPE.geometry))["tower"]
    mine = [piece for piece in pieces_of(at_grid) if variant_of_piece(piece) == OF_TOWER]
    assert tower == pytest.approx(sum(map(true_ms, mine)), rel=1e-6)
    assert table.predict(Plan()) == pytest.approx(sum(map(true_ms, pieces_of(Plan()))), rel=1e-6)


def test_it_is_written_and_read_back(table: CostTable, tmp_path: Path) -> None:
    table.save(tmp_path / "table.json")
    back = CostTable.load(tmp_path / "table.json")
    plan = Plan.parse("tower/0:0.5 bipartite > input/0:0.25 key_norm+drop")
    assert back == table
    assert back.predict(plan) == table.predict(plan)
    with pytest.raises(PruneSearchError, match="does not extrapolate"):
        back.predict(Plan.parse("tower/0:0.01 key_norm+drop"))
    with pytest.raises(PruneSearchError, match="`layer < 3` must hold for the part 'tower'"):
        back.predict(Plan.parse("tower/3:0.5 key_norm+drop"))


def test_a_forward_is_taken_apart_at_the_borders_of_both() -> None:
    # marks: the tower's stem; of its two blocks attention, gap, MLP, and what is between; projector; prompt; what left
    # is taken out; the decoder's one block; head
    steps = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
    tower, decoder = [1, 2, 3, 4, 5 + 6, 7, 8, 9 + 11], [10, 12, 13, 14, 15]
    assert _fold_both(steps, 2, 1) == [*tower, *decoder]
    assert sum(_fold_both(steps, 2, 1)) == sum(steps)
