"""A few hundred of the inputs of benchmarks/fuzz.py, the same ones each time: every parser takes or refuses them."""

from __future__ import annotations

import pytest
from fuzz import fuzz
from fuzz_parsers import PARSERS


@pytest.mark.parametrize("name", list(PARSERS))
def test_nearly_right_documents_are_taken_or_refused_in_a_line(name: str):
    found = fuzz(PARSERS[name](), 200)
    assert not found.faults
    assert found.inputs == 200
    assert found.accepted > 5  # valid ones are among them
    assert found.refused > 5


def test_a_fault_is_found():
    parser = PARSERS["method"]()
    careless = type(parser)(parser.documents, parser.form, lambda folder: lambda text: {"bipartite": 1}[text])
    found = fuzz(careless, 50)
    assert found.faulty == 50 - found.accepted
    assert all(where.startswith("KeyError") for where in found.faults)
