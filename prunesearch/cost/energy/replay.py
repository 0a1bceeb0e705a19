"""Recorded energy readings, and a counter that replays them: what a machine without a counter is tested with."""

from __future__ import annotations

import bisect
import itertools
import os
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.files import load_json, write_text_atomic
from prunesearch.cost.energy.counters import EnergyCounter, Reading

Sample = tuple[float, float, float | None]  # seconds, cumulative mJ, degrees Celsius

_POLL_S = 0.01


class EnergyRecording(BaseModel):
    """Readings of a counter: `samples` of (seconds, cumulative mJ, degrees Celsius or None), one for each update."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["prunesearch.energy_recording"] = "prunesearch.energy_recording"
    name: str
    covers: str
    date: str
    samples: list[Sample] = Field(min_length=2)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write JSON, atomically."""
        write_text_atomic(path, self.model_dump_json() + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> EnergyRecording:
        """Read what `save` wrote.

        Raises:
            PruneSearchError: if there is no such file.
            CorruptFileError: if it is no recording.
        """
        try:
            return cls.model_validate(load_json(path, "energy recording", "record it again"))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise CorruptFileError(f"energy recording {path}, '{where}': {first['msg']}: record it again") from None


def record(
    counter: EnergyCounter,
    seconds: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> EnergyRecording:
    """Note every update of `counter` for `seconds`, to within 10 ms.

    Raises:
        PruneSearchError: if the counter did not move.
    """
    end, samples = clock() + seconds, list[Sample]()
    while clock() < end:
        reading = counter.read()
        if not samples or reading.energy_mj != samples[-1][1]:
            samples.append((reading.seconds, reading.energy_mj, counter.temperature_c()))
        sleep(_POLL_S)
    if len(samples) < 2:
        raise PruneSearchError(f"counter '{counter.name}' must move to be recorded, but stood still for {seconds} s")
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return EnergyRecording(name=counter.name, covers=counter.covers, date=date, samples=samples)


class ReplayClock:
    """A clock that only moves when told, for replays: call it for the time in seconds, `sleep` to move it."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Seconds now."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self.now += seconds


class ReplayCounter:
    """Tells what was recorded, from the start of the recording on. It shows, as counters do, the last update.

    Args:
        samples: (seconds, cumulative mJ, degrees Celsius or None), seconds increasing; at least 2.
        clock: seconds now; the moment of construction is the first sample's.
        covers: what was recorded.

    Raises:
        PruneSearchError: for samples that cannot be; on `read`, past the last sample.
    """

    name = "replay"
    update_period_s = None

    def __init__(
        self, samples: Sequence[Sample], *, clock: Callable[[], float] = time.monotonic, covers: str = "a recording"
    ) -> None:
        times = [sample[0] for sample in samples]
        if len(times) < 2 or any(a >= b for a, b in itertools.pairwise(times)):
            raise PruneSearchError("a replay must have at least 2 samples with increasing seconds: record it again")
        self.covers = covers
        self._samples, self._times = list(samples), times
        self._clock, self._shift = clock, times[0] - clock()

    def read(self) -> Reading:
        """See `EnergyCounter`."""
        return Reading(self._clock(), self._sample()[1])

    def temperature_c(self) -> float | None:
        """See `EnergyCounter`."""
        return self._sample()[2]

    def close(self) -> None:
        """See `EnergyCounter`."""

    def _sample(self) -> Sample:
        now = self._clock() + self._shift
        if now > self._times[-1]:
            length = self._times[-1] - self._times[0]
            raise PruneSearchError(f"the recording is over after {length:.1f} s: record for longer, or measure less")
        return self._samples[bisect.bisect_right(self._times, now) - 1]
