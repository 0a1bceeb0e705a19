"""How often a verdict promises too much: many cheap synthetic studies whose true differences are known.

    python -m benchmarks.verdict

Each study has an unpruned model and twelve candidates, from slow to fast, evaluated on the same rows; a row is right or
wrong. A promise is false if the true quality of the recommended candidate is below 99 % of the unpruned one. The old
rule took the fastest candidate whose estimate is good enough; the new one is `search.finish.verdict`, on all rows and
on as many as `search.finish.need` settles by calibration rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunesearch.core.accuracy import ACCURACIES, STANDARD
from prunesearch.search.finish.need import Prospect, rows_needed
from prunesearch.search.finish.verdict import TOLERANCE, promised
from prunesearch.tasks.metrics.pairs import paired_lower_bound

Floats = NDArray[np.float64]
STUDIES, POINTS, QUALITY = 2000, 12, 0.83
_CHURN = 0.02  # share of rows that a candidate gains, on top of which it loses more than it gains
_CHUNK = 100  # studies at a time
_SEARCHED = 512  # calibration rows that a search has evaluated candidates on


@dataclass(frozen=True)
class Outcome:
    """Of many studies: share with a false promise, share with any, and the mean place of the recommended candidate.

    A candidate's place is 1 for the slowest; a study without a recommendation counts as 0. `read` is the share of the
    holdout rows that candidates were evaluated on.
    """

    false: float
    any: float
    place: float
    read: float = 1.0


def steep(random: np.random.Generator) -> Floats:
    """True differences that fall ever faster, as those of a front do; the border lies somewhere in the middle."""
    ends = random.uniform(0.02, 0.12, size=STUDIES)
    power = random.uniform(1.5, 4.0, size=STUDIES)
    return np.asarray(-ends[:, None] * np.linspace(1 / POINTS, 1, POINTS)[None, :] ** power[:, None])


def at_the_border(random: np.random.Generator) -> Floats:
    """All candidates a hair worse than what may be promised: the worst case of picking the luckiest."""
    return np.full((STUDIES, POINTS), -TOLERANCE * QUALITY - 1e-6)


def scattered(random: np.random.Generator) -> Floats:
    """Differences in no order: what the search took for a front is none."""
    return random.uniform(-0.03, 0.0, size=(STUDIES, POINTS))


SETTINGS: dict[str, Callable[[np.random.Generator], Floats]] = {
    "a front": steep,
    "no order": scattered,
    "all at the border": at_the_border,
}


def counts(
    truth: Floats, rows: int, random: np.random.Generator, alike: float = 0.5, needed: Floats | None = None
) -> tuple[Floats, Floats]:
    """Rows gained and lost by each candidate, `[studies, points]`.

    Args:
        truth: true differences `[studies, points]`.
        rows: of the holdout split.
        random: draws the rows.
        alike: share of rows on which all candidates of a study go by one draw, as neighbours on a front do.
        needed: rows that each candidate is read on, the first ones, `[studies, points]`; None: all.
    """
    gained, lost = np.empty(truth.shape), np.empty(truth.shape)
    gain = np.full(truth.shape, _CHURN)
    for start in range(0, len(truth), _CHUNK):
        part = slice(start, start + _CHUNK)
        shape = (*truth[part].shape, rows)
        own = random.random(shape, dtype=np.float32)
        shared = random.random((shape[0], 1, rows), dtype=np.float32)
        common = random.random((shape[0], 1, rows), dtype=np.float32) < alike
        draw = np.where(common, shared, own)
        read = True if needed is None else np.arange(rows) < needed[part, :, None]
        gained[part] = (read & (draw < gain[part, :, None])).sum(-1)
        lost[part] = (read & (draw > 1 - (gain - truth)[part, :, None])).sum(-1)
    return gained, lost


def by_estimate(gained: Floats, lost: Floats, rows: int) -> Floats:
    """The old rule: the fastest whose estimate is good enough, `[studies]`; -1 for none."""
    return _last((gained - lost) / rows >= -TOLERANCE * QUALITY)


def needed_of(truth: Floats, rows: int, random: np.random.Generator) -> Floats:
    """Holdout rows of each candidate `[studies, points]`, by what calibration rows say of it."""
    gained, lost = counts(truth, _SEARCHED, random)
    change = (gained - lost) / _SEARCHED
    spread = np.sqrt((gained + lost + 1) / _SEARCHED - change**2)
    interval = ACCURACIES[STANDARD].interval * QUALITY
    found = [
        rows_needed(
            [Prospect(c, s, _SEARCHED) for c, s in zip(*study, strict=True)], -TOLERANCE * QUALITY, interval, rows
        )
        for study in zip(change.tolist(), spread.tolist(), strict=True)
    ]
    return np.array(found, dtype=np.float64)


def by_promise(gained: Floats, lost: Floats, rows: int | Floats) -> Floats:
    """The new rule: the last of the sequence before the first that cannot be shown to be good enough."""
    return _last(promised(paired_lower_bound(gained, lost, rows)) >= -TOLERANCE * QUALITY)


def _last(good: NDArray[np.bool_]) -> Floats:
    found = good.shape[1] - 1 - np.argmax(good[:, ::-1], axis=1)
    return np.where(good.any(axis=1), found, -1)


def judge(chosen: Floats, truth: Floats, read: float = 1.0) -> Outcome:
    """What a rule did, given the truth."""
    any_ = chosen >= 0
    true = truth[np.arange(len(truth)), np.maximum(chosen, 0).astype(int)]
    false = any_ & (true < -TOLERANCE * QUALITY)
    return Outcome(float(false.mean()), float(any_.mean()), float((chosen + 1).mean()), read)


def simulate(setting: str, rows: int, seed: int = 0) -> tuple[Outcome, Outcome, Outcome]:
    """The old rule, the new one on the same rows, and the new one on rows by need; all on the same studies."""
    random = np.random.default_rng(seed)
    truth = SETTINGS[setting](random)
    gained, lost = counts(truth, rows, random)
    needed = needed_of(truth, rows, random)
    fewer = by_promise(*counts(truth, rows, random, needed=needed), needed)
    return (
        judge(by_estimate(gained, lost, rows), truth),
        judge(by_promise(gained, lost, rows), truth),
        judge(fewer, truth, float(needed.mean()) / rows),
    )


def main() -> None:
    """Print the table."""
    print(f"{STUDIES} studies of {POINTS} candidates; false promises, studies with one, mean place of what is chosen")
    print(
        f"{'':20}{'rows':>6}   {'by estimate':>22}   {'at 95 % confidence':>22}   {'the same, rows by need':>22}   read"
    )
    for setting in SETTINGS:
        for rows in (500, 1000, 4000):
            outcomes = simulate(setting, rows)
            said = [f"{o.false:6.1%} {o.any:7.1%} {o.place:7.2f}" for o in outcomes]
            print(f"{setting:20}{rows:>6}   " + "   ".join(f"{one:>22}" for one in said) + f"   {outcomes[2].read:.0%}")


if __name__ == "__main__":
    main()
