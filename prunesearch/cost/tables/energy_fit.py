"""The fit that prices energies, as it stands in a cost table."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pydantic import Field

from prunesearch.core.errors import PruneSearchError
from prunesearch.cost.shape import Record


class EnergySource(Record):
    """The counter: its name, what its energy is of, and how often it is renewed (None if it stood still)."""

    name: str
    covers: str
    update_period_s: float | None = Field(default=None, gt=0)


class EnergyValidation(Record):
    """Each measured schedule against a fit to all others; errors are relative to what was measured.

    Energies are gross mJ per row, in the order of `schedules`; `low_mj` and `high_mj` are the measurements' intervals.
    """

    mape: float = Field(ge=0)
    worst: float = Field(ge=0)
    schedules: list[str]
    predicted_mj: list[float]
    measured_mj: list[float]
    low_mj: list[float | None]
    high_mj: list[float | None]


class EnergyFit(Record):
    """Power in watts by kind of piece, for one batch size, with what it was fitted on and its own error.

    `windows` and `seconds` are those of the measurement, `temperature_c` its coldest and hottest window.
    """

    powers_w: dict[str, float] = Field(min_length=1)
    idle_w: float = Field(ge=0)
    rows: int = Field(ge=1)
    source: EnergySource
    windows: int = Field(ge=1)
    seconds: float = Field(gt=0)
    temperature_c: tuple[float, float] | None
    valid: bool
    why: str
    validation: EnergyValidation
    date: str

    def predict_mj(self, times_ms: Mapping[str, float]) -> float:
        """Gross energy of one row in mJ.

        Args:
            times_ms: ms per batch by kind of piece; a kind left out takes no time.

        Raises:
            PruneSearchError: for a kind whose power was not measured, or a time that is negative or no number.
        """
        total = 0.0
        for kind, ms in times_ms.items():
            if not (math.isfinite(ms) and ms >= 0):
                raise PruneSearchError(f"`0 <= time` must hold for piece '{kind}', but got {ms} ms")
            if kind in self.powers_w:
                total += self.powers_w[kind] * ms
            elif ms > 0:
                raise PruneSearchError(
                    f"the power of piece '{kind}' was not measured: known are {', '.join(self.powers_w)}; "
                    "measure energy on schedules that have it"
                )
        return total / self.rows

    def check_valid(self) -> None:
        """Refuse to be an objective or a budget.

        Raises:
            PruneSearchError: with `why`, if the fit is not valid.
        """
        if not self.valid:
            raise PruneSearchError(
                f"energy must be measured validly to be searched for, but {self.why}: measure again on a quiet device, "
                "or use latency"
            )
