"""NSGA-II and NSGA-III that breed from enqueued trials.

Optuna's own give a trial its generation when they draw its parameters, which they never do for one that was enqueued
with all of them: it stays outside every population.
"""

from __future__ import annotations

from optuna.samplers import NSGAIIISampler, NSGAIISampler
from optuna.study import Study
from optuna.trial import FrozenTrial


class SeededNSGAII(NSGAIISampler):
    """NSGA-II (Deb 2002); every trial has a generation from its beginning."""

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Put the trial into the current generation."""
        super().before_trial(study, trial)
        self.get_trial_generation(study, trial)


class SeededNSGAIII(NSGAIIISampler):
    """NSGA-III (Deb and Jain 2014); every trial has a generation from its beginning."""

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Put the trial into the current generation."""
        super().before_trial(study, trial)
        self.get_trial_generation(study, trial)
