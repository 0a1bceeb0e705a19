"""The tables of trainings, to read without importing torch."""

from __future__ import annotations

from prunesearch.core.tables.names import make_table
from prunesearch.core.tables.row_kinds import ParametersRow

_TRAINABLE = "prunesearch.training.trainable"

PARAMETERS = make_table(
    "parameters",
    {
        "full": ParametersRow(f"{_TRAINABLE}:FULL", "all", rate=1e-4),
        "norms": ParametersRow(f"{_TRAINABLE}:NORMS", "norms and biases", rate=1e-3),
        "lora": ParametersRow(
            f"{_TRAINABLE}:LORA", "low-rank additions to linear layers (peft)", rate=1e-3, replaces=True
        ),
    },
    ParametersRow,
    "parameters",
)
