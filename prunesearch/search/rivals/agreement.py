"""A survey's table against what was measured: of any two methods that it ranks, do the figures stand in its order?"""

from __future__ import annotations

from collections.abc import Mapping

from prunesearch.core.tables.rival_table import RIVALS
from prunesearch.core.tables.row_kinds import LEVELS
from prunesearch.study.front_compared import ComparedMethod, SaidBySurvey

_ALIKE = 0.02  # how unlike tokens fare in two inputs: a smaller difference is none
# column of the survey: our figure, and by how much two must differ
COLUMNS = {"cost": ("seconds", 0.0), "adaptability": ("varies", _ALIKE), "complexity": ("kernels", 0.0)}


def with_survey(methods: Mapping[str, ComparedMethod]) -> dict[str, ComparedMethod]:
    """Every method with what the survey says of it, and of how many others our figures have it in that order.

    Pairs that the survey ranks alike are not counted; a pair that it ranks, and our figures do not, disagrees.
    """
    return {
        name: one.model_copy(update={"survey": [_cell(name, column, methods) for column in COLUMNS]})
        if RIVALS.entry(name).survey is not None
        else one
        for name, one in methods.items()
    }


def _cell(name: str, column: str, methods: Mapping[str, ComparedMethod]) -> SaidBySurvey:
    field, least = COLUMNS[column]
    level, mine = _level(name, column), getattr(methods[name], field)
    pairs = agree = 0
    for other, one in methods.items():
        its, figure = _level(other, column), getattr(one, field)
        if level is None or its is None or its == level or mine is None or figure is None:
            continue
        pairs += 1
        ahead = mine - figure if level > its else figure - mine
        agree += ahead > least
    said = "" if level is None else LEVELS[level]
    return SaidBySurvey(column=column, said=said, ours=mine, pairs=pairs, agree=agree)


def _level(name: str, column: str) -> int | None:
    said = RIVALS.entry(name).survey
    return None if said is None else LEVELS.index(getattr(said, column))
