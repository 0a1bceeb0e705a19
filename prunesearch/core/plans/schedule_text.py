"""Schedules as one types them: `3:0.70 cls_attention+fuse > 6:0.50 bipartite`, or the path of a JSON file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.plans.amount import TYPED, Amount
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import ENCODER, Place, Stage, read_method
from prunesearch.core.tables.token_tables import MERGES, SCORERS

_EXAMPLE = "3:0.7 cls_attention+fuse > 6:0.5 bipartite"
_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)(?:e-?\d+)?"
_AMOUNT = re.compile(rf"([tp]?)\s*({_NUMBER})")
_SITE = rf"(?:[a-z]+\s*/\s*)?\d+\s*:\s*[tp]?\s*{_NUMBER}"
# blocks of one method may share it: `3:0.9, 6:0.7 value_norm+fuse`
_RUN = re.compile(rf"({_SITE}(?:\s*,\s*{_SITE})*)\s+(\w(?:\([^()>]*\)|[^,:()>%])*)")


def parse_schedule(text: str) -> Schedule:
    """Read the inline form that `str(schedule)` and the tables of `prunesearch show` print; `unpruned` is empty.

    Spaces do not matter. The printed form rounds `keep` to two digits: for the exact schedule, use its JSON.
    `4:t0.02` keeps the tokens whose score is at least 0.02, `4:p0.9` those that hold 0.9 of a row's scores.
    Parameters stand behind the scorer or merge that has them, as in `3:0.7 key_redundancy(margin=0.5)+fuse`.

    >>> str(parse_schedule("3:.7 cls_attention + fuse>6:0.5 bipartite"))
    '3:0.70 cls_attention+fuse > 6:0.50 bipartite'

    Raises:
        PruneSearchError: naming the part that cannot be read, or the rule that a stage breaks.
    """
    line = " ".join(text.split())
    if line == "unpruned":
        return Schedule()
    return Schedule(stage for run in line.split(">") for stage in _stages(run.strip()))


def read_schedule(argument: str) -> Schedule:
    """Read a schedule given on a command line: the path of a JSON file, or the inline form.

    Raises:
        PruneSearchError: if it is neither, or the file cannot be read.
        CorruptFileError: if the file is no schedule.
    """
    path = Path(argument)
    if not argument.rstrip().endswith(".json"):
        return parse_schedule(argument)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise PruneSearchError(
            f"schedule file '{argument}' cannot be read ({why}): check the path, or write the schedule as {_EXAMPLE}"
        ) from None
    try:
        return Schedule.from_json(text)
    except CorruptFileError as error:
        raise CorruptFileError(f"schedule file '{argument}': {error}") from None


def _stages(run: str) -> list[Stage]:
    """The stages of one run, which share a method."""
    match = _RUN.fullmatch(run)
    if match is None:
        raise PruneSearchError(
            f"a schedule is stages LAYER:KEEP METHOD with > between them ({_EXAMPLE}), or unpruned, but got '{run}'"
        )
    sites, method = match[1], "".join(match[2].split())
    if method in SCORERS and method not in MERGES:
        raise PruneSearchError(
            f"scorer '{method}' needs a merge: write it as {method}+MERGE, for example {method}+drop"
        )
    found = read_method(method)
    pairs = ["".join(site.split()).split(":") for site in sites.split(",")]
    return [Stage(_place(where), _amount(amount), *found) for where, amount in pairs]


def _amount(text: str) -> Amount:
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise PruneSearchError(f"an amount is a fraction, t and a score, or p and a share, but got '{text}'")
    kind: Any = TYPED[match[1]]
    amount: Amount = kind(float(match[2]))
    return amount


def _place(text: str) -> Place:
    part, _, block = text.rpartition("/")
    return Place(part or ENCODER, int(block))
