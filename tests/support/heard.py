"""What a block told while it ran."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prunesearch.core.events import Event, Note, Progress, StepBegun, listening


class Heard:
    """The events of a block; as text its steps and notes, one a line."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __str__(self) -> str:
        return "\n".join(e.text for e in self.events if isinstance(e, StepBegun | Note))

    def progress(self, label: str) -> list[Progress]:
        """How far `label` was told to be, from its begin to its end."""
        return [e for e in self.events if isinstance(e, Progress) and e.label == label]

    def take(self) -> str:
        """The text so far, which is forgotten."""
        said = str(self)
        self.events.clear()
        return said


@contextmanager
def hearing() -> Iterator[Heard]:
    """Hear what the block tells."""
    heard = Heard()
    with listening(heard.events.append):
        yield heard
