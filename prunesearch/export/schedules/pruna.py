"""Pruna: ToMe on Hugging Face ViTs, with one number of merged tokens for all blocks."""

from __future__ import annotations

import json
from collections.abc import Sequence

from prunesearch.core.errors import CorruptFileError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.export.schedules.format import Format, ModelShape, Read, from_counts, leaving, needed
from prunesearch.export.schedules.parsing import integer, json_object, show
from prunesearch.export.schedules.tome import leaving_after

_MOST = 128  # the largest r of Pruna's hyperparameter
_ALGORITHM = "token_merging"


def _leaving(r: int, shape: ModelShape) -> list[int]:
    return leaving_after([r] * shape.depth, shape.tokens, 1)


def _write(schedule: Schedule, shape: ModelShape, remarks: Sequence[str]) -> str:
    """Return the dictionary for `SmashConfig.from_dict`; it takes no other keys, so remarks have no room in it."""
    goal = leaving(schedule, shape)

    def error(r: int) -> int:
        return sum(abs(a - b) for a, b in zip(_leaving(r, shape), goal, strict=True))

    possible = [r for r in range(_MOST + 1) if _leaving(r, shape)[-1] > shape.protected]
    config = {
        _ALGORITHM: True,
        f"{_ALGORITHM}_r": min(possible, key=error),
        f"{_ALGORITHM}_prop_attn": True,
        f"{_ALGORITHM}_trace_source": False,
    }
    return json.dumps(config, indent=4) + "\n"


def _read(text: str, shape: ModelShape | None, entry: str | None) -> Read:
    """Read a SmashConfig as a dictionary or as Pruna saves it; other algorithms in it are passed over."""
    data = json_object(text)
    active = data.get(_ALGORITHM)
    if not active:
        raise CorruptFileError(f'must have "{_ALGORITHM}": true, but got {show(active)}')
    nested = active if isinstance(active, dict) else {}
    values = {key: nested.get(key, data.get(f"{_ALGORITHM}_{key}")) for key in ("r", "prop_attn")}
    r = integer(16 if values["r"] is None else values["r"], f"{_ALGORITHM}_r")
    if r > _MOST:
        raise CorruptFileError(f"`{_ALGORITHM}_r <= {_MOST}` must hold, but got {show(r)}")
    shape = needed(shape)
    notes = [f"{_ALGORITHM}_r is not in the file: Pruna's default 16"] if values["r"] is None else []
    if values["prop_attn"] is False:
        notes.append(f"{_ALGORITHM}_prop_attn is off there; here attention always gets + log(size)")
    return Read(from_counts(_leaving(r, shape), shape, merge="bipartite"), tuple(notes))


PRUNA = Format(
    name="pruna",
    tool="Pruna",
    write=_write,
    read=_read,
    limits=f"it merges by bipartite matching, with one r (at most {_MOST}) for all blocks",
    source="PrunaAI/pruna: src/pruna/algorithms/token_merging.py, src/pruna/config/smash_config.py",
)
