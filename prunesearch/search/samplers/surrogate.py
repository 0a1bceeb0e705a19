"""What the trials teach about losses: the additive estimate, corrected for its stages and for pairs of them.

log loss = log(sum of what each stage adds) + what verified schedules showed to be wrong with that. The correction is a
Gaussian process over the stages' shares of the sum: a multiplier for each stage, alike for stages that are alike (SPDY,
Frantar and Alistarh 2022, fits one for each layer), and an interaction of each stage with the next.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.search.solve.gaussian import Array, Posterior, Refits, fit_scales
from prunesearch.search.solve.loss_surface import FLOOR, SurfaceScales, alike, method_kernel
from prunesearch.search.solve.losses import Sensitivities
from prunesearch.search.space.moves import sites_of
from prunesearch.search.space.plan_space import PlanSpace
from prunesearch.search.space.space import Space

_LEAST_FITTED, _MOST_FITTED = 16, 64  # verified schedules that scales are fitted to; of more, an even part
_LENGTHS = (0.6, 1.0, 1.6)  # factors on both lengths that are tried
# how far the prior lets the logarithms of common, noise, stages and pairs go; set by `benchmarks/loss_models.py`
_SPREADS = (0.7, 1.0, 0.7, 0.7)
_VARIANT = 0.2  # prior standard deviation of the log correction of all plans in a precision
_HALVES = 0.5  # of that of changes of halves of blocks, where they are all that a plan loses by
_OTHER_VARIANT = 0.9  # correlation of a stage's correction with that of the same stage in another precision


class CorrectionScales(NamedTuple):
    """Prior standard deviations of log corrections, and the lengths over which they change.

    The defaults were set by errors on verified schedules of two image classifiers.

    Attributes:
        common: of all schedules alike.
        stage: of a stage beyond the error of its measurement.
        pair: of a stage with the next.
        noise: of what none of these explains.
        any_method: of a stage's correction, the part that all methods share: rows that were hard or easy by chance.
        blocks, log_keep: lengths, in shares of the depth and in log(keep).
        measured: factor on the standard deviations of a stage's correction.
    """

    common: float = 0.05
    stage: float = 0.10
    pair: float = 0.15
    noise: float = 0.05
    any_method: float = 0.4
    blocks: float = 0.15
    log_keep: float = 1.0
    measured: float = 1.0


@dataclass(frozen=True)
class _Encoded:
    """Plans as arrays `[n, stages]`: index of each stage's cell, its share of the estimate (0: no such stage).

    `variant` `[n]`: index of what is done to all of the model beside its tokens; `halves` `[n]`: share of the estimate
    that changes of halves of blocks have.
    """

    layer: NDArray[np.int64]
    level: NDArray[np.int64]
    method: NDArray[np.int64]
    share: Array
    estimate: Array  # [n], nats
    variant: NDArray[np.int64]
    halves: Array

    def reshaped(self, *shape: int) -> _Encoded:
        """The same plans along axes that broadcast."""
        layer, level, method = (x.reshape(*shape, x.shape[-1]) for x in (self.layer, self.level, self.method))
        share = self.share.reshape(*shape, self.share.shape[-1])
        return _Encoded(
            layer, level, method, share, self.estimate, self.variant.reshape(*shape), self.halves.reshape(*shape)
        )

    def rows(self, index: NDArray[np.int64]) -> _Encoded:
        """Some of the schedules."""
        layer, level, method = (x[index] for x in (self.layer, self.level, self.method))
        return _Encoded(
            layer,
            level,
            method,
            self.share[index],
            self.estimate[index],
            self.variant[index],
            self.halves[index],
        )

    def against(self, other: _Encoded) -> tuple[_Encoded, _Encoded]:
        """Both along axes of their own: what is computed of them is `[n, m]`."""
        return self.reshaped(-1, 1), other.reshaped(1, -1)


def _kin(a: _Encoded, b: _Encoded) -> Array:
    """Correlation of the corrections of equal stages, by what else is done to the model."""
    return np.where(a.variant == b.variant, 1.0, _OTHER_VARIANT)


def _of_variant(a: _Encoded, b: _Encoded) -> Array:
    """Prior covariance of what all plans of one precision share, the model as it is has none of it; and of what all
    changes of halves of blocks do together beyond what each does by itself."""
    same = np.where((a.variant == b.variant) & (a.variant > 0), _VARIANT**2, 0.0)
    found: Array = same + _HALVES**2 * a.halves * b.halves
    return found


def _likeliest(
    scales: CorrectionScales, pieces: Sequence[Array], residual: Array, fixed: Array
) -> tuple[float, CorrectionScales]:
    """Fit all standard deviations; `pieces` are the covariances `[n, n]` of stages and of pairs under `scales`, which
    come to `fixed`."""

    def evidence(factors: Array) -> float:
        common, noise, stages, pairs = factors**2
        kernel = fixed + common * scales.common**2 + stages * pieces[0] + pairs * pieces[1]
        return Posterior(kernel, np.full(len(residual), noise * scales.noise**2), residual).evidence

    factors = fit_scales(evidence, _SPREADS)
    common, noise, stages, pairs = (float(factor) for factor in factors)
    return evidence(factors), scales._replace(
        common=common * scales.common, noise=noise * scales.noise, measured=stages, pair=pairs * scales.pair
    )


class LossModel:
    """Predicts the loss of any plan of a space.

    Args:
        scales: to keep; None fits them when there are schedules enough, and again whenever these have doubled.
    """

    def __init__(
        self, space: Space | PlanSpace, sensitivities: Sensitivities, scales: CorrectionScales | None = None
    ) -> None:
        self.space, self.sensitivities = space.schedules, sensitivities
        self._refits = Refits(_LEAST_FITTED if scales is None else None, _MOST_FITTED)
        self._train: _Encoded | None = None
        self._posterior: Posterior | None = None
        self._unexplained = 0.0  # variance
        self._variants: dict[str, int] = {"": 0}
        self._use(scales or CorrectionScales())

    def _use(self, scales: CorrectionScales) -> None:
        space, self.scales = self.space, scales
        self._layers = alike(np.array(space.at_depth), scales.blocks)
        self._levels = alike(np.log(space.keeps), scales.log_keep)
        methods = method_kernel(space.methods, SurfaceScales())
        self._methods = scales.any_method + (1 - scales.any_method) * methods / methods.max()
        self._sd = scales.measured * np.sqrt(self.sensitivities.sd**2 + scales.stage**2)

    def fit(self, schedules: Sequence[Plan | Schedule], losses: Array) -> None:
        """Learn from verified schedules and their losses in nats."""
        self._train = train = self._encode(schedules)
        residual = np.log(losses + FLOOR) - np.log(train.estimate + FLOOR)
        if self._refits.due(len(residual)):
            self._fit_scales(train, residual)
        noise = np.full(len(residual), self.scales.noise**2)
        self._posterior = Posterior(self._kernel(train, train), noise, residual)

    def _fit_scales(self, train: _Encoded, residual: Array) -> None:
        """The standard deviations that make the residuals likeliest, at the lengths that do so best."""
        some = self._refits.chosen(len(residual))
        train, residual = train.rows(some), residual[some]
        found = []
        for length in _LENGTHS:
            prior = CorrectionScales()
            self._use(prior._replace(blocks=length * prior.blocks, log_keep=length * prior.log_keep))
            pieces = [self._stages(*train.against(train)), self._pairs(*train.against(train))]
            found.append(_likeliest(self.scales, pieces, residual, _of_variant(*train.against(train))))
        self._use(max(found, key=lambda pair: pair[0])[1])
        self._unexplained = self.scales.noise**2

    def predict(self, schedules: Sequence[Plan | Schedule]) -> tuple[Array, Array]:
        """Mean and standard deviation `[n]` of the log loss."""
        asked = self._encode(schedules)
        prior = np.broadcast_to(self._covariance(asked, asked), asked.estimate.shape)
        mean, variance = np.log(asked.estimate + FLOOR), prior
        if self._train is not None and self._posterior is not None:
            cross = self._kernel(asked, self._train)
            mean = mean + self._posterior.mean(cross)
            variance = self._posterior.variance(cross, prior)
        # what no stage and no pair explains is of each schedule its own, the one asked for too
        return mean, np.sqrt(variance + self._unexplained)

    def corrected(self, sigmas: float = 0.0) -> Sensitivities:
        """The sensitivities times the multipliers learnt; lowered by `sigmas` standard deviations of their error."""
        loss = self.sensitivities.loss * np.exp(-sigmas * self.sensitivities.sd)
        if self._train is not None and self._posterior is not None:
            layer, level, method = np.indices(loss.shape).reshape(3, -1, 1)
            none = np.zeros(loss.size, dtype=np.int64)
            ones = np.ones(loss.size)
            cells = _Encoded(layer, level, method, ones[:, None], ones, none, np.zeros(loss.size))
            cross = self.scales.common**2 + self._stages(*cells.against(self._train))
            multipliers = self._posterior.mean(cross)
            loss = loss * np.exp(multipliers).reshape(loss.shape)
        return replace(self.sensitivities.with_loss(np.maximum.accumulate(loss, axis=1)), halves=self._halves(sigmas))

    def _halves(self, sigmas: float) -> dict[str, float]:
        """What changes of halves of blocks lose, times the one multiplier learnt of them; lowered likewise."""
        halves, factor = self.sensitivities.halves, 1.0
        if halves and self._train is not None and self._posterior is not None:
            none = np.zeros((1, 1), dtype=np.int64)
            alone = _Encoded(none, none, none, np.zeros((1, 1)), np.ones(1), none[0], np.ones(1))
            cross = self._kernel(alone, self._train)
            sd = np.sqrt(self._posterior.variance(cross, np.array([self.scales.common**2 + _HALVES**2])))
            factor = float(np.exp(self._posterior.mean(cross) - sigmas * sd)[0])
        return {name: loss * factor for name, loss in halves.items()}

    def _encode(self, schedules: Sequence[Plan | Schedule]) -> _Encoded:
        width = max([1, *(len(s) for s in schedules)])
        index = np.zeros((3, len(schedules), width), dtype=np.int64)
        added = np.zeros((len(schedules), width))
        for n, schedule in enumerate(schedules):
            last = 0
            for k, (i, g, m) in enumerate(sites_of(self.space, schedule)):
                index[:, n, k] = i, g, m
                added[n, k] = self.sensitivities.added(i, last, g)[m]
                last = g
        variants = [Plan.of(s).variant for s in schedules]
        base = np.array([self.sensitivities.base.get(variant, 0.0) for variant in variants])
        halves = np.array([self.sensitivities.of_halves(Plan.of(s)) for s in schedules])
        base = base + halves
        estimate = base + added.sum(1)  # what is not of a stage is measured, and has no correction
        share = added / np.maximum(estimate, FLOOR)[:, None]
        variant = np.array([self._variants.setdefault(v, len(self._variants)) for v in variants], dtype=np.int64)
        return _Encoded(index[0], index[1], index[2], share, estimate, variant, halves / np.maximum(estimate, FLOOR))

    def _kernel(self, a: _Encoded, b: _Encoded) -> Array:
        """Prior covariances of schedules `[n]` with schedules `[m]`, `[n, m]`."""
        return self._covariance(*a.against(b))

    def _covariance(self, a: _Encoded, b: _Encoded) -> Array:
        """Prior covariance of the corrections of schedules, broadcast over all axes but the last (stages)."""
        return self.scales.common**2 + _of_variant(a, b) + self._stages(a, b) + self._pairs(a, b)

    def _stages(self, a: _Encoded, b: _Encoded) -> Array:
        weight = [x.share * self._sd[x.layer, x.level, x.method] for x in (a, b)]
        pairs = itertools.product(range(a.share.shape[-1]), range(b.share.shape[-1]))
        terms = (weight[0][..., s] * weight[1][..., t] * self._alike(a, s, b, t) for s, t in pairs)
        return _kin(a, b) * sum(terms, start=np.zeros(()))

    def _pairs(self, a: _Encoded, b: _Encoded) -> Array:
        weight = [np.sqrt(x.share[..., :-1] * x.share[..., 1:]) for x in (a, b)]
        pairs = itertools.product(range(a.share.shape[-1] - 1), range(b.share.shape[-1] - 1))
        terms = (
            weight[0][..., s] * weight[1][..., t] * self._alike(a, s, b, t) * self._alike(a, s + 1, b, t + 1)
            for s, t in pairs
        )
        return self.scales.pair**2 * _kin(a, b) * sum(terms, start=np.zeros(()))

    def _alike(self, a: _Encoded, s: int, b: _Encoded, t: int) -> Array:
        """Correlation of the corrections of stage `s` of `a` and stage `t` of `b`."""
        near: Array = self._layers[a.layer[..., s], b.layer[..., t]]
        close: Array = self._levels[a.level[..., s], b.level[..., t]]
        kin: Array = self._methods[a.method[..., s], b.method[..., t]]
        return near * close * kin
