"""What the benchmark of reliability counts, on made-up runs that lose and double trials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.support.paths import DEV

pytest.importorskip("psycopg", reason=DEV)
reliability = pytest.importorskip("reliability", reason="benchmarks/ of a checkout has it")

Trials = Sequence[tuple[int, str, tuple[float, ...]]]
ONE, TWO, OTHER = (0, "a", (1.0,)), (1, "b", (2.0,)), (1, "b", (3.0,))


class Child:
    """A process that ends with `code`, or does not end before it is killed."""

    def __init__(self, code: int | None, told: Sequence[int]) -> None:
        self._end, self._told, self.code = code, list(told), None

    def wait(self, seconds: float | None) -> int | None:
        self.code = self._end
        return self.code

    def kill(self) -> None:
        self.code = -9

    def told(self) -> list[int]:
        return self._told

    def lines(self) -> list[str]:
        return ["why"]


class Study:
    """What is there after each of its processes, which were told of some trials."""

    def __init__(self, sittings: Sequence[tuple[int | None, Sequence[int], Trials]]) -> None:
        self._sittings, self._now = iter(sittings), ()

    def begin(self) -> Child:
        code, told, self._now = next(self._sittings)
        return Child(code, told)

    def finished(self) -> Trials:
        return list(self._now)

    def place(self) -> str:
        return "in the search"


class Bench:
    over = False

    def __init__(self, *sittings: tuple[int | None, Sequence[int], Trials]) -> None:
        self._study, self.rng = Study(sittings), self

    def uniform(self, low: float, high: float) -> float:
        return low

    def undisturbed(self, engine: str) -> tuple[Any, float]:
        return None, 1.0

    def fresh(self, storage: str, engine: str) -> Study:
        return self._study

    def ended(self, study: Study, engine: str) -> dict[str, int]:
        return {"runs": 1}


def counted(found: Iterator[dict[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for one in found:
        total.update(one)
    return total


@pytest.mark.parametrize(
    ("sittings", "lost"),
    [
        ([(None, [0], [ONE]), (0, [1], [ONE, TWO])], 0),
        ([(None, [0, 1], [ONE]), (0, [], [ONE])], 1),  # it was told of one that is not there
        ([(None, [0, 1], [ONE, TWO]), (0, [], [ONE])], 1),  # one that was there is not
        ([(None, [0, 1], [ONE, TWO]), (0, [], [ONE, OTHER])], 1),  # one says something else
    ],
)
def test_trials_that_are_gone_or_changed_are_lost(sittings: Any, lost: int) -> None:
    found = counted(reliability.kill("kill-local-journal", Bench(*sittings), 1))
    assert (found["times"], found["runs"], found["lost"], found["unclear"]) == (1, 1, lost, 0)


def test_an_end_with_another_code_is_unclear() -> None:
    assert counted(reliability.kill("kill-local-journal", Bench((None, [], []), (2, [], [])), 1))["unclear"] == 1


def test_a_plan_that_was_evaluated_again_is_counted() -> None:
    bench = object.__new__(reliability.Bench)
    whole = Ended([ONE, TWO])
    bench._undisturbed = {"local": (whole, 1.0)}
    assert bench.ended(whole)["twice"] == 0
    assert bench.ended(Ended([ONE, TWO, (2, "b", (2.0,))]))["twice"] == 1
    assert bench.ended(Ended([ONE], front="another"))["fronts"] == 0


class Ended:
    """A study whose run has ended."""

    def __init__(self, trials: Trials, front: str = "front") -> None:
        self._trials, self._front = trials, front

    def finished(self) -> Trials:
        return self._trials

    def front(self) -> str:
        return self._front
