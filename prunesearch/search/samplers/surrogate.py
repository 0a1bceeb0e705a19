"""What the trials teach about losses: the additive estimate, corrected for its stages and for pairs of them.

log loss = log(sum of what each stage adds) + what verified schedules showed to be wrong with that. The correction is a
Gaussian process over the stages' shares of the sum: a multiplier for each stage, alike for stages that are alike (SPDY,
Frantar and Alistarh 2022, fits one for each layer), and an interaction of each stage with the next.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunesearch.core.schedule import Schedule
from prunesearch.search.solve.gaussian import Array, Posterior
from prunesearch.search.solve.loss_surface import FLOOR, method_kernel
from prunesearch.search.solve.losses import Sensitivities
from prunesearch.search.space.moves import sites_of
from prunesearch.search.space.space import Space

# Prior standard deviations of log corrections: of all schedules alike, of a stage beyond the error of its measurement,
# of a pair; and the lengths over which they change. Set by errors on verified schedules of two image classifiers.
_COMMON, _STAGE, _PAIR, _NOISE = 0.05, 0.10, 0.15, 0.05
_ANY_METHOD = 0.4  # of a stage's correction, the part that all methods share: rows that were hard or easy by chance
_BLOCKS, _LOG_KEEP = 0.15, 1.0


@dataclass(frozen=True)
class _Encoded:
    """Schedules as arrays `[n, stages]`: index of each stage's cell, its share of the estimate (0: no such stage)."""

    layer: NDArray[np.int64]
    level: NDArray[np.int64]
    method: NDArray[np.int64]
    share: Array
    estimate: Array  # [n], nats

    def reshaped(self, *shape: int) -> _Encoded:
        """The same schedules along axes that broadcast."""
        layer, level, method = (x.reshape(*shape, x.shape[-1]) for x in (self.layer, self.level, self.method))
        return _Encoded(layer, level, method, self.share.reshape(*shape, self.share.shape[-1]), self.estimate)


class LossModel:
    """Predicts the loss of any schedule of a space."""

    def __init__(self, space: Space, sensitivities: Sensitivities) -> None:
        self.space, self.sensitivities = space, sensitivities
        layers = np.array(space.layers) / space.depth
        log_keep = np.log(space.keeps)
        self._layers = np.exp(-0.5 * ((layers[:, None] - layers) / _BLOCKS) ** 2)
        self._levels = np.exp(-0.5 * ((log_keep[:, None] - log_keep) / _LOG_KEEP) ** 2)
        methods = method_kernel(space.methods)
        self._methods = _ANY_METHOD + (1 - _ANY_METHOD) * methods / methods.max()
        self._sd = np.sqrt(sensitivities.sd**2 + _STAGE**2)
        self._train: _Encoded | None = None
        self._posterior: Posterior | None = None

    def fit(self, schedules: Sequence[Schedule], losses: Array) -> None:
        """Learn from verified schedules and their losses in nats."""
        self._train = train = self._encode(schedules)
        residual = np.log(losses + FLOOR) - np.log(train.estimate + FLOOR)
        self._posterior = Posterior(self._kernel(train, train), np.full(len(residual), _NOISE**2), residual)

    def predict(self, schedules: Sequence[Schedule]) -> tuple[Array, Array]:
        """Mean and standard deviation `[n]` of the log loss."""
        asked = self._encode(schedules)
        prior = np.broadcast_to(self._covariance(asked, asked), asked.estimate.shape)
        mean, variance = np.log(asked.estimate + FLOOR), prior
        if self._train is not None and self._posterior is not None:
            cross = self._kernel(asked, self._train)
            mean = mean + self._posterior.mean(cross)
            variance = self._posterior.variance(cross, prior)
        return mean, np.sqrt(variance)

    def corrected(self, sigmas: float = 0.0) -> Sensitivities:
        """The sensitivities times the multipliers learnt; lowered by `sigmas` standard deviations of their error."""
        loss = self.sensitivities.loss * np.exp(-sigmas * self.sensitivities.sd)
        if self._train is not None and self._posterior is not None:
            layer, level, method = np.indices(loss.shape).reshape(3, -1, 1)
            cells = _Encoded(layer, level, method, np.ones((loss.size, 1)), np.ones(loss.size))
            cross = _COMMON**2 + self._stages(cells.reshaped(-1, 1), self._train.reshaped(1, -1))
            multipliers = self._posterior.mean(cross)
            loss = loss * np.exp(multipliers).reshape(loss.shape)
        return self.sensitivities.with_loss(np.maximum.accumulate(loss, axis=1))

    def _encode(self, schedules: Sequence[Schedule]) -> _Encoded:
        width = max([1, *(len(s) for s in schedules)])
        index = np.zeros((3, len(schedules), width), dtype=np.int64)
        added = np.zeros((len(schedules), width))
        for n, schedule in enumerate(schedules):
            last = 0
            for k, (i, g, m) in enumerate(sites_of(self.space, schedule)):
                index[:, n, k] = i, g, m
                added[n, k] = self.sensitivities.added(i, last, g)[m]
                last = g
        estimate = added.sum(1)
        share = added / np.maximum(estimate, FLOOR)[:, None]
        return _Encoded(index[0], index[1], index[2], share, estimate)

    def _kernel(self, a: _Encoded, b: _Encoded) -> Array:
        """Prior covariances of schedules `[n]` with schedules `[m]`, `[n, m]`."""
        return self._covariance(a.reshaped(-1, 1), b.reshaped(1, -1))

    def _covariance(self, a: _Encoded, b: _Encoded) -> Array:
        """Prior covariance of the corrections of schedules, broadcast over all axes but the last (stages)."""
        return _COMMON**2 + self._stages(a, b) + self._pairs(a, b)

    def _stages(self, a: _Encoded, b: _Encoded) -> Array:
        weight = [x.share * self._sd[x.layer, x.level, x.method] for x in (a, b)]
        pairs = itertools.product(range(a.share.shape[-1]), range(b.share.shape[-1]))
        terms = (weight[0][..., s] * weight[1][..., t] * self._alike(a, s, b, t) for s, t in pairs)
        return sum(terms, start=np.zeros(()))

    def _pairs(self, a: _Encoded, b: _Encoded) -> Array:
        weight = [np.sqrt(x.share[..., :-1] * x.share[..., 1:]) for x in (a, b)]
        pairs = itertools.product(range(a.share.shape[-1] - 1), range(b.share.shape[-1] - 1))
        terms = (
            weight[0][..., s] * weight[1][..., t] * self._alike(a, s, b, t) * self._alike(a, s + 1, b, t + 1)
            for s, t in pairs
        )
        return _PAIR**2 * sum(terms, start=np.zeros(()))

    def _alike(self, a: _Encoded, s: int, b: _Encoded, t: int) -> Array:
        """Correlation of the corrections of stage `s` of `a` and stage `t` of `b`."""
        near: Array = self._layers[a.layer[..., s], b.layer[..., t]]
        close: Array = self._levels[a.level[..., s], b.level[..., t]]
        kin: Array = self._methods[a.method[..., s], b.method[..., t]]
        return near * close * kin
