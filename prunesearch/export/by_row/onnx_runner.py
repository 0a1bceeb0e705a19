"""Runs several plans of one model, a row by the plan that the rule gives it. Needs onnxruntime and numpy alone.

    from run import RowRunner
    logits, plans = RowRunner(FOLDER)(inputs)   # plans: the place in rule.json of the plan that answered each row

    python run.py INPUTS.npz ANSWERS.npz        # the same with files of arrays

Rows go to the first plan, from the fastest on, that is sure enough of them (`threshold` in rule.json), and else to the
last. With `decide` in rule.json a graph of the first blocks says how sure each plan will be (a router); else the answer
of one plan says whether the next one is asked (a cascade). A graph of texts or sounds has one length: pad to it.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class RowRunner:
    """The plans in a folder; `threads` of each, onnxruntime's own choice if 0."""

    def __init__(self, folder: str | Path, threads: int = 0) -> None:
        onnxruntime: Any = importlib.import_module("onnxruntime")
        path = Path(folder)
        self.rule: dict[str, Any] = json.loads((path / "rule.json").read_text(encoding="utf-8"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3

        def session(file: str) -> Any:
            return onnxruntime.InferenceSession(str(path / file), options, providers=["CPUExecutionProvider"])

        self.plans = [session(plan["file"]) for plan in self.rule["plans"]]
        self.decider = session(self.rule["decide"]) if "decide" in self.rule else None

    def __call__(self, inputs: Mapping[str, Array]) -> tuple[Array, Array]:
        """Logits `[b, classes]` and the place of each row's plan, int64 `[b]`, in the order of the rows."""
        if self.decider is None:
            return self._cascade(inputs)
        places = self.decide(inputs)
        chosen = np.unique(places)
        if len(chosen) == 1:
            return _run(self.plans[chosen[0]], inputs), places
        order = [np.flatnonzero(places == place) for place in chosen]
        parts = [_run(self.plans[place], _rows(inputs, rows)) for place, rows in zip(chosen, order, strict=True)]
        return np.concatenate(parts)[np.argsort(np.concatenate(order))], places

    def decide(self, inputs: Mapping[str, Array]) -> Array:
        """A router's places, int64 `[b]`, before a plan runs."""
        sure = _run(self.decider, inputs)
        enough = np.concatenate([sure >= self.rule["threshold"], np.ones((len(sure), 1), bool)], axis=1)
        places: Array = enough.argmax(axis=1)  # the first of them
        return places

    def _cascade(self, inputs: Mapping[str, Array]) -> tuple[Array, Array]:
        last = _run(self.plans[0], inputs)
        logits, rows, places = last.copy(), np.arange(len(last)), np.zeros(len(last), np.int64)
        for place, plan in enumerate(self.plans[1:], start=1):
            rows = rows[sureness(last, self.rule["by"]) < self.rule["threshold"]]
            if not len(rows):
                break
            last = _run(plan, _rows(inputs, rows))
            logits[rows], places[rows] = last, place
        return logits, places


def sureness(logits: Array, by: str) -> Array:
    """How sure answers are, high = sure: logits `[b, classes]` -> `[b]`."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares = powers / powers.sum(axis=1, keepdims=True)
    ordered = np.sort(shares, axis=1)
    found: dict[str, Array] = {
        "probability": ordered[:, -1],
        "margin": ordered[:, -1] - ordered[:, -2],
        "entropy": (shares * np.log(np.maximum(shares, np.finfo(shares.dtype).tiny))).sum(axis=1),
    }
    return found[by]


def _rows(inputs: Mapping[str, Array], rows: Array) -> dict[str, Array]:
    return {name: value[rows] for name, value in inputs.items()}


def _run(session: Any, inputs: Mapping[str, Array]) -> Array:
    found: Array = session.run(None, {given.name: inputs[given.name] for given in session.get_inputs()})[0]
    return found


if __name__ == "__main__":
    with np.load(sys.argv[1]) as given:
        answers, plans = RowRunner(Path(__file__).parent)(given)
    np.savez(sys.argv[2], logits=answers, plans=plans)
