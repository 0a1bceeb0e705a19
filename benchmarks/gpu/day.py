"""The mechanism of the day: steps in order of worth, one JSON file a part, resumed where it ended.

A step has a part, a name, a worth, an estimate of its seconds and a function that returns plain data. What is in the
out folder is not run again. A step that would not end before the deadline is not begun; less worthy ones that would,
are. A step that fails leaves its traceback, and one that takes the process along (a crash, a hang, a device that does
not answer any more) is found out by the next process, which goes on with the others.
"""

from __future__ import annotations

import faulthandler
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunesearch.core.files import write_text_atomic

FORMAT = "prunesearch.gpu_day"
DIED = "the process died or hung in this step"
_HANGS = 4.0  # times its estimate
_HANGS_S = 60.0  # and in any case so long


@dataclass(frozen=True)
class Step:
    """One thing to do: `run()` gives plain data. The greater `worth`, the earlier; `seconds` is an estimate."""

    part: str
    name: str
    worth: float
    seconds: float
    run: Callable[[], Any]


@dataclass
class Records:
    """The files of the out folder, one a part; each step in them knows the session (machine, commit) it ran in."""

    folder: Path
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> Records:
        """Read what is there; steps that were begun and never ended have died."""
        folder.mkdir(parents=True, exist_ok=True)
        found = cls(folder)
        for path in sorted(folder.glob("*.json")):
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.get("format") == FORMAT:
                found.parts[content["part"]] = content
                for record in content["steps"].values():
                    if record.pop("begun", False):
                        record["error"] = DIED
        return found

    def of(self, step: Step) -> dict[str, Any] | None:
        """What is recorded of a step; None if nothing is."""
        return self.parts.get(step.part, {}).get("steps", {}).get(step.name)

    def put(self, step: Step, record: Mapping[str, Any], session: Mapping[str, Any]) -> None:
        """Write a step's record into its part's file."""
        part = self.parts.setdefault(step.part, {"format": FORMAT, "part": step.part, "sessions": [], "steps": {}})
        if session not in part["sessions"]:
            part["sessions"].append(dict(session))
        part["steps"][step.name] = {"session": part["sessions"].index(session), **record}
        # plain JSON: what cannot be told otherwise is told in words
        text = json.dumps(part, indent=1, default=str)
        write_text_atomic(self.folder / f"{step.part}.json", text + "\n")

    def pace(self, part: str) -> float:
        """How much longer than estimated this part's steps took, at least 1."""
        steps = self.parts.get(part, {}).get("steps", {}).values()
        ratios = [s["seconds"] / s["expected"] for s in steps if "result" in s and s.get("expected")]
        return max(1.0, statistics.median(ratios)) if ratios else 1.0


@dataclass(frozen=True)
class Told:
    """What a day came to: names of steps by what became of them."""

    done: list[str]
    failed: list[str]
    left: list[str]
    lost: bool = False  # the device answers no more: another process goes on


def work(
    steps: Sequence[Step],
    folder: Path,
    session: Mapping[str, Any],
    *,
    ends_at: float,
    now: Callable[[], Mapping[str, Any]] = dict,
    alive: Callable[[], bool] = lambda: True,
    retry: bool = False,
    clock: Callable[[], float] = time.monotonic,
    say: Callable[[str], object] = lambda text: print(text, file=sys.stderr, flush=True),
    watch: bool = False,
) -> Told:
    """Run the steps that the folder lacks, the worthiest first, until `ends_at` on `clock`.

    Args:
        steps: of all parts; a name stands once in a part.
        folder: where the parts' files lie.
        session: provenance: what the machine, the software and the commit are.
        ends_at: no step begins that would end later.
        now: the state of the machine (clocks, load), noted before and after each step.
        alive: whether this process can still use the device, asked after each step.
        retry: run what failed once more.
        clock: seconds.
        say: told a line about each step.
        watch: end the process when a step hangs.
    """
    records = Records.open(folder)
    done, failed, left = [], [], []
    for step in sorted(steps, key=lambda step: -step.worth):
        label, before = f"{step.part}: {step.name}", records.of(step)
        if before is not None and not (retry and wrong_in(before)):
            (failed if wrong_in(before) else done).append(label)
            continue
        begun, expected = clock(), step.seconds * records.pace(step.part)
        if begun + expected > ends_at:
            left.append(label)
            continue
        records.put(step, {"begun": True, "error": DIED}, session)
        if watch:
            faulthandler.dump_traceback_later(max(_HANGS * expected, _HANGS_S), exit=True)
        record = _run(step, now)
        if watch:
            faulthandler.cancel_dump_traceback_later()
        took = clock() - begun
        records.put(step, {"seconds": round(took, 2), "expected": step.seconds, **record}, session)
        (failed if wrong_in(record) else done).append(label)
        say(f"{label}: {wrong_in(record) or 'done'} ({took:.1f} s of {expected:.0f}, {ends_at - clock():.0f} s left)")
        if not alive():
            return Told(done, failed, left, lost=True)
    return Told(done, failed, left)


def wrong_in(record: Mapping[str, Any]) -> str:
    """What went wrong in a step, in a line: its error, or the first of what its result calls wrong; or nothing."""
    if "error" in record:
        return str(record["error"].strip().splitlines()[-1])
    found = record["result"].get("wrong") if isinstance(record["result"], dict) else None
    return f"{len(found)} wrong, the first: {found[0]}" if found else ""


def _run(step: Step, now: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    before = now()
    try:
        # what cannot be written as JSON fails here, where the step is known
        found: dict[str, Any] = {"result": json.loads(json.dumps(step.run(), default=str))}
    except Exception:
        found = {"error": traceback.format_exc()}
    return {"machine": {"before": dict(before), "after": dict(now())}, **found}
