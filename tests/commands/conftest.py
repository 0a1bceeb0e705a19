"""A tiny model to profile, measured by the known machine where only what is kept counts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from prunesearch.core.tables.registry import RUNTIMES
from prunesearch.cost.devices.device import describe_device
from tests.support.known_device import SHAPE, known_table, write_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("profiling")
    write_model(root)
    config = ViTConfig.from_pretrained(root / "model", hidden_size=32, intermediate_size=48)
    ViTForImageClassification(config).save_pretrained(root / "wide" / "model")
    return root


class Measurements:
    """Stands in for what measures a table in torch: the known machine's, for the model and inputs at hand."""

    def __init__(self) -> None:
        self.calls: list[dict] = []
        self.fails_at: dict[int, BaseException] = {}

    def __call__(self, model, inputs, wanted):
        rows = len(inputs["pixel_values"])
        self.calls.append({"rows": rows, **vars(wanted)})
        error = self.fails_at.get(len(self.calls))
        if error is not None:
            raise error
        threads = torch.get_num_threads()
        facts = describe_device("cpu")
        shape = SHAPE.model_copy(
            update={"width": model.config.hidden_size, "mlp_width": model.config.intermediate_size}
        )
        return known_table(
            shape=shape, batch_size=rows, threads=threads, cores=facts["affinity"], device="cpu", mode=wanted.mode,
            concurrency=wanted.concurrency, dtype=str(next(model.parameters()).dtype).removeprefix("torch."),
        ).model_copy(update={"device": facts, "model": ""})  # fmt: skip


@pytest.fixture
def measured() -> Iterator[Measurements]:
    found = Measurements()
    with ExitStack() as stack:
        for name in RUNTIMES:
            if RUNTIMES.entry(name).by_torch:
                stack.enter_context(RUNTIMES.replaced(name, table=found))
        yield found
