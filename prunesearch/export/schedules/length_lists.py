"""Tokens kept by each block, in one list: PoWER-BERT and Length-Adaptive Transformer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prunesearch.core.errors import CorruptFileError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.export.schedules.format import (
    Format,
    ModelShape,
    Read,
    Reader,
    Writer,
    commented,
    from_counts,
    leaving,
    needed,
)
from prunesearch.export.schedules.parsing import integers, parse_flags, parse_literal, show


def _writer(flag: str, as_text: Callable[[list[int]], str]) -> Writer:
    def write(schedule: Schedule, shape: ModelShape, remarks: Sequence[str]) -> str:
        return commented(f'--{flag} "{as_text(leaving(schedule, shape))}"', remarks)

    return write


def _reader(flag: str) -> Reader:
    def read(text: str, shape: ModelShape | None, entry: str | None) -> Read:
        """Read the flag, alone or within a command line, or the list without it."""
        flags = parse_flags(text)
        if flags and flag not in flags:
            raise CorruptFileError(f"must hold --{flag}, but it holds {show(', '.join(flags))}")
        lengths = integers(parse_literal(flags.get(flag, text), f"--{flag}"), f"--{flag}")
        return Read(from_counts(lengths, needed(shape), "attention_received", "drop"))

    return read


POWER_BERT = Format(
    name="power-bert",
    tool="PoWER-BERT",
    write=_writer("RETENTION_CONFIG", lambda counts: ",".join(map(str, counts))),
    read=_reader("RETENTION_CONFIG"),
    limits="it drops tokens by the attention they receive",
    variants=("PoWER-BERT leaves a token's attention to itself out of its score",),
    source="IBM/PoWER-BERT: utils/retention_parser.py, model/model.py (Hard_Extract)",
)

LENGTH_ADAPTIVE = Format(
    name="length-adaptive",
    tool="Length-Adaptive Transformer",
    write=_writer("length_config", lambda counts: str(tuple(counts))),
    read=_reader("length_config"),
    limits="it drops tokens by the attention they receive",
    variants=("Length-Adaptive Transformer puts dropped tokens back after the last block",),
    source="clovaai/length-adaptive-transformer: length_adaptive_transformer/modeling_bert.py",
)
