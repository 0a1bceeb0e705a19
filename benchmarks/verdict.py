"""How often a verdict promises too much: many cheap synthetic studies whose true differences are known.

    python -m benchmarks.verdict

Each study has an unpruned model and twelve candidates, from slow to fast, evaluated on the same rows; a row is right or
wrong. A promise is false if the true quality of the recommended candidate is below 99 % of the unpruned one. The old
rule took the fastest candidate whose estimate is good enough; the new one is `search.finish.verdict`, on all rows, on
as many as `search.finish.need` settles by calibration rows, and on those of them that are read when candidates are read
in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunesearch.core.accuracy import ACCURACIES, STANDARD
from prunesearch.search.finish.need import LOOK, Prospect, is_lost, rows_at_least, rows_needed
from prunesearch.search.finish.verdict import TOLERANCE, promised
from prunesearch.tasks.metrics.pairs import paired_lower_bound

Floats = NDArray[np.float64]
STUDIES, POINTS, QUALITY = 2000, 12, 0.83
_CHURN = 0.02  # share of rows that a candidate gains, on top of which it loses more than it gains
_CHUNK = 100  # studies at a time
_SEARCHED = 512  # calibration rows that a search has evaluated candidates on
_EVERY = 50  # rows, at multiples of which candidates that are read in turn may be looked at


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
    truth: Floats,
    rows: int,
    random: np.random.Generator,
    alike: float = 0.5,
    needed: Floats | None = None,
    every: int = 0,
) -> tuple[Floats, Floats]:
    """Rows gained and lost by each candidate, `[studies, points]`; with `every`, `[studies, points, looks]`.

    Args:
        truth: true differences `[studies, points]`.
        rows: of the holdout split.
        random: draws the rows.
        alike: share of rows on which all candidates of a study go by one draw, as neighbours on a front do.
        needed: rows that each candidate is read on, the first ones, `[studies, points]`; None: all.
        every: so many rows there is a look at those before it; 0: at the end alone.
    """
    looks = np.arange(every, rows + 1, every) - 1 if every else np.array([rows - 1])
    gained, lost = np.empty((*truth.shape, len(looks))), np.empty((*truth.shape, len(looks)))
    gain = np.full(truth.shape, _CHURN)
    for start in range(0, len(truth), _CHUNK):
        part = slice(start, start + _CHUNK)
        shape = (*truth[part].shape, rows)
        own = random.random(shape, dtype=np.float32)
        shared = random.random((shape[0], 1, rows), dtype=np.float32)
        common = random.random((shape[0], 1, rows), dtype=np.float32) < alike
        draw = np.where(common, shared, own)
        read = True if needed is None else np.arange(rows) < needed[part, :, None]
        gained[part] = (read & (draw < gain[part, :, None])).cumsum(-1, dtype=np.int16)[..., looks]
        lost[part] = (read & (draw > 1 - (gain - truth)[part, :, None])).cumsum(-1, dtype=np.int16)[..., looks]
    return (gained, lost) if every else (gained[..., 0], lost[..., 0])


def by_estimate(gained: Floats, lost: Floats, rows: int) -> Floats:
    """The old rule: the fastest whose estimate is good enough, `[studies]`; -1 for none."""
    return _last((gained - lost) / rows >= -TOLERANCE * QUALITY)


def needed_of(truth: Floats, rows: int, random: np.random.Generator) -> tuple[Floats, Floats]:
    """Holdout rows of each candidate `[studies, points]`, by what calibration rows say of it: most and least."""
    gained, lost = counts(truth, _SEARCHED, random)
    change = (gained - lost) / _SEARCHED
    spread = np.sqrt((gained + lost + 1) / _SEARCHED - change**2)
    interval = ACCURACIES[STANDARD].interval * QUALITY
    most, least = [], []
    for study in zip(change.tolist(), spread.tolist(), strict=True):
        prospects = [Prospect(c, s, _SEARCHED) for c, s in zip(*study, strict=True)]
        most.append(rows_needed(prospects, -TOLERANCE * QUALITY, interval, rows))
        least.append(rows_at_least(prospects, interval, rows))
    return np.array(most, dtype=np.float64), np.array(least, dtype=np.float64)


def looked(at: Floats, least: Floats) -> NDArray[np.bool_]:
    """Whether there is a look behind so many rows `[looks]`, which every `least` `[studies, 1]` is the first of."""
    looks = np.floor(np.log(np.maximum(at / least, 1e-3)) / np.log(LOOK))
    before = np.concatenate([np.full((len(looks), 1), -np.inf), looks[:, :-1]], 1)
    return np.asarray((at >= least) & (looks > np.maximum(before, -1)))


def read_in_turn(gained: Floats, lost: Floats, most: Floats, least: Floats) -> Floats:
    """Rows `[studies, points]` that are read of each candidate, all being known as `counts` gives them every `_EVERY`.

    As `search.finish.need.InTurn` does it.
    """
    at = (np.arange(gained.shape[2]) + 1) * _EVERY
    limit, read, failed = -TOLERANCE * QUALITY, np.empty(most.shape), np.zeros(len(most), dtype=bool)
    for k in range(most.shape[1]):
        last = np.where(failed, np.minimum(most[:, k], least[:, k]), most[:, k])
        change = (gained[:, k] - lost[:, k]) / at
        error = np.sqrt((gained[:, k] + lost[:, k] + 1) / at - change**2) / np.sqrt(at)
        share = np.minimum(at / last[:, None], 1)
        ended = is_lost(change, error, limit, share) & looked(at, least[:, k, None])
        first = np.where(ended.any(1), at[ended.argmax(1)], np.inf)
        read[:, k] = np.minimum(last, first)
        look = np.maximum(read[:, k] // _EVERY - 1, 0).astype(int)
        won, gone = (x[np.arange(len(x)), k, look] for x in (gained, lost))
        failed |= paired_lower_bound(won, gone, at[look]) < limit
    return read


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


def simulate(setting: str, rows: int, seed: int = 0) -> tuple[Outcome, Outcome, Outcome, Outcome]:
    """The old rule, the new one on the same rows, on rows by need, and on those read in turn; of the same studies."""
    random = np.random.default_rng(seed)
    truth = SETTINGS[setting](random)
    gained, lost = counts(truth, rows, random)
    most, least = needed_of(truth, rows, random)
    fewer = by_promise(*counts(truth, rows, random, needed=most), most)
    known = counts(truth, rows, random, every=_EVERY)
    read = read_in_turn(*known, most, least)
    look = np.maximum(read // _EVERY - 1, 0).astype(int)
    won, gone = (np.take_along_axis(x, look[..., None], 2)[..., 0] for x in known)
    turn = by_promise(won, gone, (look + 1.0) * _EVERY)
    return (
        judge(by_estimate(gained, lost, rows), truth),
        judge(by_promise(gained, lost, rows), truth),
        judge(fewer, truth, float(most.mean()) / rows),
        judge(turn, truth, float(read.mean()) / rows),
    )


def main() -> None:
    """Print the table."""
    print(f"{STUDIES} studies of {POINTS} candidates; false promises, studies with one, mean place of what is chosen")
    rules = ("by estimate", "at 95 % confidence", "the same, rows by need", "the same, in turn")
    print(f"{'':20}{'rows':>6}   " + "   ".join(f"{rule:>22}" for rule in rules) + "   read")
    for setting in SETTINGS:
        for rows in (500, 1000, 4000):
            outcomes = simulate(setting, rows)
            said = [f"{o.false:6.1%} {o.any:7.1%} {o.place:7.2f}" for o in outcomes]
            print(
                f"{setting:20}{rows:>6}   "
                + "   ".join(f"{one:>22}" for one in said)
                + f"   {outcomes[2].read:.0%}, {outcomes[3].read:.0%}"
            )


if __name__ == "__main__":
    main()
