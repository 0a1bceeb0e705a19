"""REINFORCE (Williams 1992) as an Optuna sampler: a small network proposes plans, rewarded by how the front grows.

The policy is a controller as in neural architecture search (Zoph and Le 2017): a recurrent cell that chooses one
parameter of the space after another, each by what was chosen before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna
import torch
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from torch import Tensor, nn

from prunesearch.core.pareto import hypervolume_2d
from prunesearch.search.space.plan_space import PlanSpace

_HIDDEN = 32
_RATE = 0.02  # of Adam
_STEPS, _BATCH = 2, 32  # for each trial that finished: steps, on so many of the latest
_ENTROPY = 0.02  # what a nat of it is worth beside an advantage of one standard deviation


class Controller(nn.Module):
    """Makes one choice after another.

    Args:
        sizes: how many each parameter has.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.zeros(1, _HIDDEN))
        self.cell = nn.GRUCell(_HIDDEN, _HIDDEN)
        self.chosen = nn.ModuleList([nn.Embedding(size, _HIDDEN) for size in sizes])
        self.heads = nn.ModuleList([nn.Linear(_HIDDEN, size) for size in sizes])

    def forward(self, given: Tensor) -> tuple[Tensor, Tensor]:
        """The logarithm of the probability of choices `[b, parameters]`, and the entropy on their way; both `[b]`."""
        state, last = torch.zeros(len(given), _HIDDEN), self.start.expand(len(given), -1)
        likely, entropy = torch.zeros(len(given)), torch.zeros(len(given))
        for place, (head, chosen) in enumerate(zip(self.heads, self.chosen, strict=True)):
            state = self.cell(last, state)
            logp, choice = head(state).log_softmax(-1), given[:, place]
            likely = likely + logp.gather(1, choice[:, None])[:, 0]
            entropy = entropy - (logp.exp() * logp).sum(-1)
            last = chosen(choice)
        return likely, entropy

    @torch.no_grad()
    def draw(self, made: torch.Generator) -> list[int]:
        """One choice a parameter."""
        state, last, choices = torch.zeros(1, _HIDDEN), self.start, list[int]()
        for head, chosen in zip(self.heads, self.chosen, strict=True):
            state = self.cell(last, state)
            choice = torch.multinomial(head(state).softmax(-1), 1, generator=made)[:, 0]
            choices.append(int(choice))
            last = chosen(choice)
        return choices


class ReinforceSampler(BaseSampler):
    """Learns from finished trials in their order, seeds among them; a study that goes on is learnt anew.

    The reward is the area that a trial adds to the front of the loss and a cost, over that between the best and the
    worst values seen; with several costs, the sum over them; with none, how far the loss falls. A trial that breaks a
    constraint has what the others have on average, with a minus. The mean is the baseline. What was drawn by an earlier
    policy, or by none, counts by the ratio of its probabilities, at most once (truncated importance weights, Espeholt
    et al. 2018).

    Args:
        space: what may be proposed.
        seed: of everything random.
    """

    def __init__(self, space: PlanSpace, seed: int) -> None:
        self.space = space
        self._draws = torch.Generator().manual_seed(seed)
        self._values = {name: _choices(one) for name, one in space.distributions().items()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._policy = Controller([len(values) for values in self._values.values()])
        self._optimiser = torch.optim.Adam(self._policy.parameters(), lr=_RATE)
        self._seen: set[int] = set()
        self._found: list[list[float]] = []  # values of those that keep all constraints
        self._known: list[tuple[list[int], float, float]] = []  # choices, reward, how likely they were

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All parameters of the space, drawn together."""
        return self.space.distributions()

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """What the policy draws, after it has learnt from the trials that finished since."""
        for done in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            if done.number not in self._seen:
                self._seen.add(done.number)
                self._learn(done)
        pairs = zip(self._values.items(), self._policy.draw(self._draws), strict=True)
        return {name: values[choice] for (name, values), choice in pairs}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A uniform draw, for a parameter that is not the space's."""
        seed = int(torch.randint(2**31, (), generator=self._draws))
        return optuna.samplers.RandomSampler(seed).sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Draw anew, as a copy of the sampler in another process must."""
        self._draws.seed()

    def _learn(self, trial: FrozenTrial) -> None:
        choices = [values.index(trial.params[name]) for name, values in self._values.items()]
        with torch.no_grad():
            likely, _ = self._policy(torch.tensor([choices]))
        self._known.append((choices, self._reward(trial), float(likely)))
        given, rewards, before = zip(*self._known[-_BATCH:], strict=True)
        if len(given) < 2:
            return
        gains = torch.tensor(rewards)
        advantage = (gains - gains.mean()) / gains.std().clamp_min(1e-9)
        for _ in range(_STEPS):
            likely, entropy = self._policy(torch.tensor(given))
            weight = (likely.detach() - torch.tensor(before)).exp().clamp_max(1.0)
            loss = -(weight * advantage * likely + _ENTROPY * entropy).mean()
            self._optimiser.zero_grad()
            loss.backward()
            self._optimiser.step()

    def _reward(self, trial: FrozenTrial) -> float:
        if any(excess > 0 for excess in trial.constraints.values()):
            gains = [reward for _, reward, _ in self._known if reward > 0]
            return -sum(gains) / len(gains) if gains else -1.0
        before, self._found = self._found, [*self._found, list(trial.values)]
        if len(trial.values) == 1:
            losses = [loss for (loss,) in self._found]
            better = min((loss for (loss,) in before), default=losses[-1]) - losses[-1]
            return float(max(0.0, better) / (max(losses) - min(losses) or 1.0))
        return sum((self._grown(before, cost) for cost in range(1, len(trial.values))), 0.0)

    def _grown(self, before: Sequence[Sequence[float]], cost: int) -> float:
        after = [(values[0], values[cost]) for values in self._found]
        (low, left), (high, right) = (tuple(pick(axis) for axis in zip(*after, strict=True)) for pick in (min, max))
        whole = (high - low) * (right - left)
        if not whole:
            return 0.0
        worst = high, right
        grown = hypervolume_2d(after, worst) - hypervolume_2d([(v[0], v[cost]) for v in before], worst)
        return float(grown / whole)


def _choices(distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, IntDistribution):
        return list(range(distribution.low, distribution.high + 1, distribution.step))
    return list(getattr(distribution, "choices", ()))
