"""Settings as they may be typed: `10m`, `2x`, `text=review,label=stars`, `latency,macs`, or one of several."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BeforeValidator, InstanceOf, PlainSerializer

from prunesearch.core.budget import Budget
from prunesearch.core.constraint import Constraint
from prunesearch.core.costs import COSTS, find_cost
from prunesearch.core.duration import seconds_of
from prunesearch.core.errors import PruneSearchError, did_you_mean
from prunesearch.core.tables.registry import PRECISIONS, check_free
from prunesearch.tasks.views.view_table import check_views

_MOST_OBJECTIVES = 3  # fronts of more (beside quality) hold nearly everything
_SEVERAL = (list, tuple, set, frozenset)


def _parsed(parse: Callable[[str], Any]) -> BeforeValidator:
    """Reads a setting that is typed as text; what is read already stays."""
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


def _text(value: Budget | Constraint | None) -> str | None:
    return None if value is None else value.text


def _listed(value: Any) -> Any:
    """Several of something, of which one may stand alone; pydantic refuses what is neither."""
    return [value] if isinstance(value, str | os.PathLike) else list(value) if isinstance(value, _SEVERAL) else value


def _named(value: Any) -> Any:
    """Names, as a list or as in `latency,macs`."""
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else _listed(value)


def _read_paths(value: Any) -> Any:
    given = _listed(value)
    return [os.fspath(v) if isinstance(v, os.PathLike) else v for v in given] if isinstance(given, list) else given


def _read_columns(text: str) -> dict[str, str]:
    """Read `role=name,role=name`."""
    pairs = [part.partition("=") for part in re.split(r",(?=[^,=]*=)", text)]  # names may have commas
    if not all(role.strip() and equals and name.strip() for role, equals, name in pairs):
        raise PruneSearchError(f"columns are written role=name,role=name (text=review,label=stars), but got '{text}'")
    return {role.strip(): name.strip() for role, _, name in pairs}


def _read_objectives(value: Any) -> list[str]:
    """Read `latency`, or several costs as in `latency,macs`."""
    names = _named(value)
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise PruneSearchError(f"objectives are names of costs, as in latency,macs, but got {value!r}")
    text = ",".join(names)
    for name in names:
        if name not in COSTS:
            raise PruneSearchError(f"unknown objective '{name}': {did_you_mean(name, COSTS)}; quality is always one")
        row = find_cost(name)
        if not row.searched:
            why = "is known only after an evaluation" if row.known == "after" else "is better when it is more"
            raise PruneSearchError(f"objective '{name}' cannot be minimised, since it {why}: use --constraint")
    if len(set(names)) < len(names) or not names:
        raise PruneSearchError(f"an objective is named once, but got '{text}'")
    if len(names) > _MOST_OBJECTIVES:
        raise PruneSearchError(
            f"`objectives <= {_MOST_OBJECTIVES}` must hold beside quality, but got '{text}': bound the others"
        )
    return names


def _read_precisions(value: Any) -> Any:
    """Read `float32,int8`; each counts once."""
    names = _named(value)
    if not isinstance(names, list):
        return names
    for name in names:
        PRECISIONS.entry(name)
    return list(dict.fromkeys(names))


def _read_free(value: Any) -> Any:
    """Read `tokens,precision`; each counts once."""
    names = _named(value)
    return check_free(names) if isinstance(names, list) else names


def _read_views(value: Any) -> Any:
    """Read `corruptions`, or `fog,snow`; each counts once."""
    names = _named(value)
    if isinstance(names, list):
        check_views(names)
        return list(dict.fromkeys(names))
    return names


Seconds = Annotated[float, BeforeValidator(seconds_of)]
BudgetSetting = Annotated[InstanceOf[Budget], _parsed(Budget.parse), PlainSerializer(_text)]
ConstraintSetting = Annotated[InstanceOf[Constraint], _parsed(Constraint.parse), PlainSerializer(_text)]
Constraints = Annotated[list[ConstraintSetting], BeforeValidator(_listed)]
Paths = Annotated[list[str], BeforeValidator(_read_paths)]
Columns = Annotated[dict[str, str], _parsed(_read_columns)]
Objectives = Annotated[list[str], BeforeValidator(_read_objectives)]
Precisions = Annotated[list[str], BeforeValidator(_read_precisions)]
Free = Annotated[list[str], BeforeValidator(_read_free)]
Views = Annotated[list[str], BeforeValidator(_read_views)]
