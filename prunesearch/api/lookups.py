"""Commands that look something up or read a file, as functions: `ps.names`, `ps.models`, `ps.flops`, ..."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from torch import nn

from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.schedule_text import read_schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.core.tables.registry import TABLES, find_table
from prunesearch.cost.counting.flops_report import FlopsReport, flops_report
from prunesearch.export.point import import_schedule_file
from prunesearch.report.tables.family_list import list_families
from prunesearch.tasks.loading import check_attention, check_device, check_dtype
from prunesearch.tasks.shapes import load_shape, random_inputs


def names(kind: str | None = None) -> pd.DataFrame:
    """What can be asked for by name, of one kind (`scorers`, `merges`, ...) or of all: `kind`, `name` and `help`.

    Raises:
        PruneSearchError: naming the nearest kind.
    """
    rows = [
        {"kind": table, "name": name, "help": row.help}
        for table in (TABLES if kind is None else [kind])
        for name, row in find_table(table).entries().items()
    ]
    return pd.DataFrame(rows, columns=["kind", "name", "help"])


def models() -> pd.DataFrame:
    """The model families that can be reduced: their tasks, what is never reduced in them, what does not work."""
    return pd.DataFrame([row.to_dict() for row in list_families()]).set_index("family")


def flops(
    model: nn.Module | str | Path,
    schedule: Schedule | Sequence[Stage] | str = "unpruned",
    *,
    batch_size: int = 1,
    length: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    attention: str = "sdpa",
) -> FlopsReport:
    """Count a model's multiply-adds and peak memory, without and with a schedule.

    Args:
        model: a supported model; or a shape (`deit-small`), folder or Hub id, whose weights are not needed.
        schedule: as an object, a JSON file, or as in `3:0.7 cls_attention+fuse > 6:0.5 bipartite`.
        batch_size: rows of the batch whose memory counts.
        length: tokens of a text; None: 128.
        device, dtype, attention: of a model that is built here.

    Raises:
        PruneSearchError: for a schedule that does not fit the model, or a model that is not known.
    """
    if isinstance(schedule, str):
        stages = read_schedule(schedule)
    else:
        stages = schedule if isinstance(schedule, Schedule) else Schedule(schedule)
    if isinstance(model, nn.Module):
        return flops_report(model, random_inputs(model, batch_size, length), stages, name=type(model).__name__)
    built = load_shape(
        str(model), attention=check_attention(attention), dtype=check_dtype(dtype), device=check_device(device)
    )
    return flops_report(built, random_inputs(built, batch_size, length), stages, name=str(model))


def import_schedule(
    file: str | Path,
    source: str,
    model: str | None = None,
    *,
    depth: int | None = None,
    tokens: int | None = None,
    protected: int | None = None,
    entry: str | None = None,
) -> Schedule:
    """Read a schedule that another tool wrote; what differs there is told.

    Args:
        file: as the tool wrote it.
        source: its format (`ps.names("formats")`).
        model: shape, folder or Hub id that it is for.
        depth, tokens, protected: in place of a model.
        entry: one of several in the file.

    Raises:
        PruneSearchError: for a file that cannot be read as that, or a model that is not known.
    """
    text = import_schedule_file(
        Path(file), source, model=model, depth=depth, tokens=tokens, protected=protected, entry=entry
    )
    return Schedule.from_json(text)


def dashboard(studies: str | Path | Sequence[str | Path] = (), *, host: str = "127.0.0.1", port: int = 8765) -> None:
    """Show studies in a browser until interrupted: folders, names, Optuna URLs; none: all under studies/.

    Raises:
        PruneSearchError: if host and port cannot be listened on.
    """
    from prunesearch.report.dashboard.app import serve  # dash takes a second, which the others need not wait for
    from prunesearch.report.dashboard.library import Library

    given = [studies] if isinstance(studies, str | Path) else studies
    serve(Library([str(study) for study in given]), host, port)
