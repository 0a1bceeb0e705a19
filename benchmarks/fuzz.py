"""What do our own parsers do with files and words that are nearly right? Each is given mutated ones, thousands of them.

    python benchmarks/fuzz.py [--inputs 10000] [--seconds 120] [--seed 0] [--only NAME ...] [--results FILE]

Valid documents are changed by hypothesis (fuzz_mutations.py) and read, and what was read is used once: a table prices a
schedule, a space is fitted to a model. Of each parser: how many inputs were given (`--seconds` ends it early), how many
it took, how many it refused in a `PruneSearchError`, how many ended in anything else (a fault, printed with the input),
the slowest (CPU time), and by how much the process grew. An input is given up after 2 s, and the process may not grow
by more than 1 GiB; both count as faults. With `--results` the counts are added to those that the file has from earlier
calls, of other inputs, until there are `--inputs`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fuzz_mutations import MUTATIONS, mutated
from fuzz_parsers import PARSERS, Parser
from hypothesis import HealthCheck, Phase, given, seed, settings

from prunesearch.core.errors import PruneSearchError, printable

HANG_S = 2  # of CPU time: what else runs on the machine counts for nothing
MEMORY = 2**30
SHOWN = 400  # characters of an input


class HangError(BaseException):
    """An input took longer than `HANG_S`."""


class OutOfTimeError(Exception):
    """As many inputs were given as there was time for."""


@dataclass
class Found:
    """What came of one parser's inputs."""

    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    faults: dict[str, str] = field(default_factory=dict)  # where it was raised: an input
    faulty: int = 0
    slowest_s: float = 0.0
    slowest: str = ""
    grown_mib: float = 0.0
    pieces: int = 1

    def with_earlier(self, earlier: Found) -> Found:
        """What came of these inputs and of earlier ones."""
        slowest = max(self, earlier, key=lambda found: found.slowest_s)
        return Found(
            *(getattr(self, name) + getattr(earlier, name) for name in ("inputs", "accepted", "refused")),
            faults={**earlier.faults, **self.faults},
            faulty=self.faulty + earlier.faulty,
            slowest_s=slowest.slowest_s,
            slowest=slowest.slowest,
            grown_mib=max(self.grown_mib, earlier.grown_mib),
            pieces=self.pieces + earlier.pieces,
        )


def fuzz(parser: Parser, inputs: int, number: int = 0, seconds: float = float("inf")) -> Found:
    """Give a parser mutated documents; `number` seeds them."""
    found, end = Found(), time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        read, before = parser.reader(Path(folder)), _peak_mib()

        @seed(number)
        @settings(
            max_examples=inputs,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(MUTATIONS)
        def once(mutation: Any) -> None:
            if time.monotonic() > end:
                raise OutOfTimeError
            _try(read, mutated(parser.documents, mutation, parser.form), found)

        with contextlib.suppress(OutOfTimeError):
            once()
    found.grown_mib = _peak_mib() - before
    return found


def _try(read: Callable[[str], object], text: str, found: Found) -> None:
    found.inputs += 1
    began = time.process_time()
    try:
        read(text)
        found.accepted += 1
    except PruneSearchError as error:
        found.refused += 1
        if printable(str(error)) != str(error):
            _fault(found, "a refusal that is not one printable line", text)
    except (Exception, HangError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f for f in frames if "/prunesearch/" in f.filename] or frames
        _fault(
            found, f"{type(error).__name__} in {Path(ours[-1].filename).name}:{ours[-1].lineno} ({error})"[:160], text
        )
    took = time.process_time() - began
    if took > found.slowest_s:  # again, since Python may have been collecting garbage
        began = time.process_time()
        with contextlib.suppress(Exception, HangError):
            read(text)
        took = min(took, time.process_time() - began)
    if took > found.slowest_s:
        found.slowest_s, found.slowest = took, text[:SHOWN]


def _fault(found: Found, what: str, text: str) -> None:
    found.faulty += 1
    found.faults.setdefault(what, text[:SHOWN])


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextlib.contextmanager
def bounded() -> Iterator[Callable[[Parser], Parser]]:
    """Within the block, readers of the parsers it wraps end at `HANG_S`, and the process cannot grow by `MEMORY`."""

    def hang(*_: object) -> None:
        raise HangError(f"more than {HANG_S} s")

    def timed(read: Callable[[str], object]) -> Callable[[str], object]:
        def within(text: str) -> object:
            signal.setitimer(signal.ITIMER_PROF, HANG_S)
            try:
                return read(text)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)

        return within

    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    old = signal.signal(signal.SIGPROF, hang)
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, limits[1]))
    try:
        yield lambda p: Parser(p.documents, p.form, lambda folder: timed(p.reader(folder)))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGPROF, old)


def main() -> int:
    """Fuzz all parsers, print a table; 1 where there was a fault."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--inputs", type=int, default=10_000)
    options.add_argument("--seconds", type=float, default=120.0, help="of each parser, at most")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--only", nargs="+", choices=[*PARSERS], default=[*PARSERS])
    options.add_argument("--results", type=Path)
    args = options.parse_args()
    kept = json.loads(args.results.read_text()) if args.results is not None and args.results.exists() else {}
    print(f"{'parser':24} {'inputs':>7} {'taken':>7} {'refused':>8} {'faults':>7} {'slowest':>9} {'grown':>9}")
    faulty = 0
    with bounded() as within:
        for name in args.only:
            earlier = Found(**kept[name]) if name in kept else Found(pieces=0)
            found = earlier
            if earlier.inputs < args.inputs:
                number = args.seed + 1000 * earlier.pieces
                found = fuzz(within(PARSERS[name]()), args.inputs - earlier.inputs, number, args.seconds)
                found = found.with_earlier(earlier)
            if args.results is not None:
                kept[name] = asdict(found)
                args.results.write_text(json.dumps(kept, indent=1) + "\n")
            print(
                f"{name:24} {found.inputs:7} {found.accepted:7} {found.refused:8} {found.faulty:7} "
                f"{found.slowest_s:7.2f} s {found.grown_mib:5.0f} MiB",
                flush=True,
            )
            for what, text in found.faults.items():
                print(f"    {what}\n        {text!r}")
            if found.slowest_s > 2:
                print(f"    slowest: {found.slowest!r}")
            faulty += found.faulty
    return int(faulty > 0)


if __name__ == "__main__":
    sys.exit(main())
