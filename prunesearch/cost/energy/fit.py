"""Energy of schedules that nobody measured: the power of each kind of piece, times the time that the table says.

A schedule's latency is a sum over kinds of pieces (attention, mlp, reduce, rest), and so is its energy, if each kind
draws one power: mJ per row = sum over kinds of P [W] x t [ms per batch] / rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls  # type: ignore[attr-defined]

from prunesearch.core.errors import PruneSearchError
from prunesearch.cost.energy.window import EnergyRun
from prunesearch.cost.tables.energy_fit import EnergyFit, EnergyValidation

SCHEDULES_LIMIT = 5  # valid ones, for the leave-one-out error to say something
MAPE_LIMIT = 0.05
WORST_LIMIT = 0.15
_SCHEDULES_LEAST = 3
# (noise of a measurement / how far a kind's power may lie from the mean power)²: 1 % and 50 %
_RIDGE = (0.01 / 0.5) ** 2

_Array = NDArray[np.float64]
K = TypeVar("K")


def fit_energy(run: EnergyRun[K], times_ms: Mapping[K, Mapping[str, float]]) -> EnergyFit:
    """Fit the powers to measured schedules, all at the same batch size.

    Least squares of relative errors, powers not negative, each drawn lightly to the one power that explains all
    schedules best, so that few schedules will do. Schedules whose measurement is not valid are left out as long as
    enough are left.

    Args:
        run: energies, by schedule.
        times_ms: what the cost table says of each of them: ms per batch, by kind of piece.

    Raises:
        PruneSearchError: for fewer than 3 schedules, or for schedules without times or without energy.
    """
    keys = [key for key, result in run.results.items() if result.valid]
    enough = len(keys) >= SCHEDULES_LIMIT
    if not enough:
        keys = list(run.results)
    results = [run.results[key] for key in keys]
    kinds, times = _times_of(keys, times_ms)
    measured = np.array([result.energy_mj for result in results])
    if not (measured > 0).all():
        raise PruneSearchError("every schedule must have used energy, but the counter stood still: measure again")
    powers = _fit(times / run.rows, measured)
    predicted = _leave_one_out(times / run.rows, measured)
    error = np.abs(predicted / measured - 1)
    windows = [window for result in results for window in result.windows]
    degrees = [window.temperature_c for window in windows if window.temperature_c is not None]
    doubts = _doubts(run, enough, mape=float(error.mean()), worst=float(error.max()))
    return EnergyFit(
        powers_w=dict(zip(kinds, powers.tolist(), strict=True)),
        idle_w=run.idle_w,
        rows=run.rows,
        source=run.source,
        windows=len(windows),
        seconds=run.seconds,
        temperature_c=(min(degrees), max(degrees)) if degrees else None,
        valid=not doubts,
        why="; ".join(doubts),
        validation=EnergyValidation(
            mape=float(error.mean()),
            worst=float(error.max()),
            schedules=[str(key) for key in keys],
            predicted_mj=predicted.tolist(),
            measured_mj=measured.tolist(),
            low_mj=[result.low_mj for result in results],
            high_mj=[result.high_mj for result in results],
        ),
        date=run.date,
    )


def _times_of(keys: Sequence[K], times_ms: Mapping[K, Mapping[str, float]]) -> tuple[list[str], _Array]:
    """Kinds that take any time, and `[schedules, kinds]` in ms."""
    if len(keys) < _SCHEDULES_LEAST:
        raise PruneSearchError(f"`schedules >= {_SCHEDULES_LEAST}` must hold to fit energy, but got {len(keys)}")
    for key in keys:
        times = dict(times_ms.get(key, {}))
        if not all(math.isfinite(ms) and ms >= 0 for ms in times.values()) or not sum(times.values()) > 0:
            raise PruneSearchError(f"schedule '{key}' must have times in ms to fit energy, but got {times}")
    kinds = list(dict.fromkeys(kind for key in keys for kind, ms in times_ms[key].items() if ms > 0))
    return kinds, np.array([[times_ms[key].get(kind, 0.0) for kind in kinds] for key in keys])


def _fit(times: _Array, energies: _Array) -> _Array:
    """Powers `[kinds]` from `times` `[schedules, kinds]` in ms per row and `energies` `[schedules]` in mJ per row."""
    # one power for all kinds, least squares of relative errors: 1 = mean_power * ratio
    ratio = times.sum(axis=1) / energies
    mean_power = float(ratio.sum() / (ratio**2).sum())
    # in units of the mean power, both the data and the pull towards it ask for 1
    data = times * mean_power / energies[:, None]
    kinds = times.shape[1]
    system = np.vstack([data, math.sqrt(_RIDGE) * np.eye(kinds)])
    target = np.concatenate([np.ones(len(energies)), np.full(kinds, math.sqrt(_RIDGE))])
    relative: _Array = nnls(system, target)[0]
    return relative * mean_power


def _leave_one_out(times: _Array, energies: _Array) -> _Array:
    """Each schedule's energy as predicted by a fit to all others."""
    places = np.arange(len(energies))
    return np.array([times[i] @ _fit(times[places != i], energies[places != i]) for i in places])


def _doubts(run: EnergyRun[K], enough: bool, *, mape: float, worst: float) -> list[str]:
    found = []
    if not enough:
        valid = sum(result.valid for result in run.results.values())
        reason = next((f" ({result.why})" for result in run.results.values() if not result.valid), "")
        found.append(
            f"only {valid} of {len(run.results)} schedules were measured validly{reason}, not {SCHEDULES_LIMIT}"
        )
    if mape > MAPE_LIMIT:
        found.append(f"the fit is off by {mape:.1%} on schedules it has not seen, more than {MAPE_LIMIT:.0%}")
    if worst > WORST_LIMIT:
        found.append(f"it is off by {worst:.1%} at worst, more than {WORST_LIMIT:.0%}")
    return found
