from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from prunesearch.core.plans.schedule import Schedule
from prunesearch.search.costs.objectives import Objective
from prunesearch.search.trials import convergence
from prunesearch.search.trials.convergence import Convergence
from prunesearch.search.trials.evaluate import Evaluation
from prunesearch.search.trials.incumbents import Incumbent, pack_rows
from tests.support.fakes import LinearCosts

BOUND = LinearCosts().predict(Schedule())


@dataclass
class Growing:
    """Stands for a search: its front after each result."""

    fronts: list[tuple[Incumbent, ...]] = field(default_factory=list)


def incumbent(share: float, loss: float, spread: float = 0.0, seed: int = 0) -> Incumbent:
    rows = np.abs(loss + spread * np.random.default_rng(seed).normal(size=400))
    rows *= loss / rows.mean()
    right = torch.ones(400, dtype=torch.bool)
    text = pack_rows(Evaluation(right[:, None].float(), torch.from_numpy(rows.astype(np.float32)), right))
    assert text is not None
    return Incumbent((share * BOUND, loss), text)


def results_until_converged(fronts: list[tuple[Incumbent, ...]]) -> int | None:
    search, converged = Growing(), Convergence([Objective("latency", LinearCosts(), BOUND)], 0.005)
    for k, front in enumerate(fronts, start=1):
        search.fronts.append(front)
        if converged(search):  # type: ignore[arg-type]
            return k
    return None


def test_a_front_that_stands_has_converged_after_a_window() -> None:
    front = (incumbent(0.5, 0.1), incumbent(0.8, 0.02))
    found = results_until_converged([front] * 60)
    assert found is not None
    assert convergence._WINDOW < found <= convergence._WINDOW + convergence._EVERY


def test_a_front_that_grows_has_not() -> None:
    fronts = [(incumbent(0.5, 0.3 / (1 + k / 40)),) for k in range(60)]
    assert results_until_converged(fronts) is None


def test_growth_too_small_to_matter_does_not_keep_it_going() -> None:
    fronts = [(incumbent(0.5, 0.1 - 1e-6 * k),) for k in range(60)]
    assert results_until_converged(fronts) is not None


def test_doubtful_rows_are_given_the_benefit_of_the_doubt() -> None:
    """The same small growth: with rows that agree it is over, with rows that scatter it may be more than it seems."""
    ends = []
    for spread in (0.0, 3.0):
        before = incumbent(0.5, 0.1, spread, seed=1)
        after = incumbent(0.5, 0.0995, spread, seed=2)
        ends.append(results_until_converged([(before,)] * 16 + [(after,)] * 14))
    assert ends[0] is not None
    assert ends[1] is None or ends[1] > ends[0]


def test_nothing_found_yet_is_not_convergence() -> None:
    assert results_until_converged([()] * 60) is None
