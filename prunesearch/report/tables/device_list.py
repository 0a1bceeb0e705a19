"""`prunesearch devices`: every profile, with what it holds and how far it can be trusted."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prunesearch.core.errors import PruneSearchError
from prunesearch.cost.estimate.estimate import shipped_estimator
from prunesearch.cost.tables.device_profile import Profile, profile_folders, user_root


@dataclass(frozen=True)
class DeviceRow:
    """One profile. `error`: mean relative error of its tables on schedules not seen, or of its estimates."""

    name: str
    aliases: list[str]
    device: str
    kind: str
    status: str
    own: bool
    tables: int
    models: list[str]
    conditions: dict[str, list[str]]
    error: float | None
    worst: float | None
    energy: str
    date: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON form."""
        return asdict(self)


def list_devices() -> tuple[list[DeviceRow], list[str]]:
    """All profiles by name, and one line for each that cannot be read."""
    rows, broken = [], []
    for folder in profile_folders().values():
        try:
            rows.append(_row(Profile.load(folder)))
        except PruneSearchError as error:
            broken.append(str(error))
    return rows, broken


def _row(profile: Profile) -> DeviceRow:
    checks = [t.validation for t in profile.tables if t.validation is not None]
    error = sum(v.mape for v in checks) / len(checks) if checks else None
    worst = max((v.worst for v in checks), default=None)
    if profile.spec is not None and not checks:
        estimator = shipped_estimator()
        elsewhere = estimator.pooled if profile.spec.gemm_tflops else estimator.datasheet_only
        estimated = estimator.devices.get(profile.spec.name, elsewhere)
        error, worst = estimated.mape, estimated.worst
    conditions: dict[str, list[str]] = {}
    for name in ("batch_size", "dtype", "attention", "mode", "threads"):
        values = {t.conditions.get(name) for t in profile.tables} - {None}
        conditions[name] = [str(v) for v in sorted(values, key=lambda v: (isinstance(v, str), v))]
    dates = [str(t.device.get("date", "")) for t in profile.tables]
    return DeviceRow(
        name=profile.name,
        aliases=profile.aliases,
        device=str(profile.device.get("name", "")),
        kind=str(profile.device.get("kind", "")),
        status=profile.status,
        own=profile.folder.is_relative_to(user_root()),
        tables=len(profile.tables),
        models=list(dict.fromkeys(t.model for t in profile.tables)),
        conditions=conditions,
        error=error,
        worst=worst,
        energy=profile.energy.status,
        date=max(dates, default="")[:10],
    )


def show_devices(rows: list[DeviceRow], console: Console | None = None) -> None:
    """Print the table; fits 80 columns."""
    out = console or Console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for title in ("profile", "device", "tables", "error"):
        table.add_column(title, overflow="fold")
    for row in rows:
        name = Text(row.name + (" (yours)" if row.own else ""))
        if row.aliases:
            name.append(f"\n= {', '.join(row.aliases)}", "dim")
        error = "" if row.error is None else f"±{row.error:.1%}"
        status = Text(f"{row.status} {error}", "yellow" if row.status == "estimated" else "")
        table.add_row(name, row.device, _holds(row), status)
    out.print(table)
    out.print("use one with prunesearch run --device NAME; measure this device with prunesearch profile", style="dim")


def _holds(row: DeviceRow) -> str:
    if not row.tables:
        return "any model"
    shown = {"batch_size": "batch {}", "dtype": "{}", "attention": "{}", "mode": "{}", "threads": "{} threads"}
    parts = [form.format(", ".join(row.conditions[k])) for k, form in shown.items() if row.conditions[k]]
    return f"{row.tables}: {', '.join(row.models)}; {'; '.join(parts)}"
