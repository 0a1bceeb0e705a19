"""A table of a machine that is known exactly, and a tiny real model."""

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from prunesearch.cost.tables.cost_table import CostTable
from tests.support.known_machine import synthetic_walks, table_of


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Threads that wait for each other crawl on a busy machine, and nothing here needs speed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def table() -> CostTable:
    return table_of(synthetic_walks(400))


@pytest.fixture(scope="session")
def tiny() -> ViTForImageClassification:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48, image_size=16, patch_size=4,
        num_labels=5,
    )  # fmt: skip
    return ViTForImageClassification(config).eval()


@pytest.fixture(scope="session")
def batch() -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))}
