"""A device whose power is known exactly, with the counter of a GPU: energy shows only at updates."""

from __future__ import annotations

import math
import random

from prunesearch.cost.energy.counters import Reading
from prunesearch.cost.energy.window import EnergyMeter


class Machine:
    """Time passes only while it sleeps or works. It is a counter, a clock and a device in one."""

    name, covers, update_period_s = "simulated", "everything", None

    def __init__(self, idle_w=20.0, period_s=0.1, noise=0.0, seed=0):
        self.now, self.idle_w, self.period_s = 100.0, idle_w, period_s
        self.noise, self.random = noise, random.Random(seed)
        self.true_mj = self.shown_mj = 5e6
        self.degrees = 40.0
        self.queued = []
        self.waits = 0

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.spend(seconds, self.idle_w)

    def spend(self, seconds, watts):
        end = self.now + seconds
        update = math.floor(end / self.period_s) * self.period_s
        if update > self.now:
            self.shown_mj = self.true_mj + watts * (update - self.now) * 1e3
        self.true_mj += watts * seconds * 1e3
        self.now = end

    def job(self, watts, seconds=0.02, then=lambda: None):
        """A forward as CUDA runs it: the call only queues it."""

        def run():
            then()
            self.queued.append((seconds, watts * (1 + self.noise * self.random.gauss(0, 1))))

        return run

    def synchronize(self):
        self.waits += 1
        for seconds, watts in self.queued:
            self.spend(seconds, watts)
        self.queued.clear()

    def read(self):
        return Reading(self.now, self.shown_mj)

    def temperature_c(self):
        return self.degrees

    def close(self):
        pass

    def meter(self):
        return EnergyMeter(self, clock=self.clock, sleep=self.sleep)
