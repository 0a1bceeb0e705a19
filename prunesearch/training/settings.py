"""`TrainingSettings`: what may be asked of a training, all checks of it, and the only home of its defaults."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.tables.training_tables import PARAMETERS
from prunesearch.study.config import first_of
from prunesearch.study.settings.as_typed import Seconds
from prunesearch.training.processes import share_of

EPOCHS = 3.0  # where neither these nor a time is asked for


class TrainingSettings(BaseModel):
    """How long is trained, and what.

    Attributes:
        epochs: passes over the rows, for each schedule; None with a time: what fits into it.
        seconds: that all trainings may take together (`time="30m"`); None: as long as the epochs take.
        parameters: a name in `PARAMETERS`.
        rate: learning rate at its height; None: what suits the parameters.
        batch_size: rows in a step.
        accumulate: steps of rows that one of the optimiser's takes together.
        augment: mirror and move pictures.
        seed: of everything random.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    seconds: Seconds | None = Field(default=None, gt=0, allow_inf_nan=False)
    parameters: str = "full"
    rate: float | None = Field(default=None, gt=0, le=1)
    batch_size: int = Field(default=64, ge=1)
    accumulate: int = Field(default=1, ge=1)
    augment: bool = True
    seed: int = Field(default=0, ge=0)

    def __init__(self, **settings: Any) -> None:
        given = {{"time": "seconds"}.get(name, name): value for name, value in settings.items() if value is not None}
        try:
            super().__init__(**given)
        except ValidationError as error:
            raise PruneSearchError(first_of(error, type(self).model_fields)) from None

    @field_validator("parameters")
    @classmethod
    def _known(cls, name: str) -> str:
        PARAMETERS.entry(name)
        return name

    @model_validator(mode="after")
    def _one_length(self) -> TrainingSettings:
        if self.epochs is not None and self.seconds is not None:
            raise PruneSearchError(
                f"a training is as long as --epochs or --time says, but got both "
                f"({self.epochs:g} and {self.seconds:g} s): leave one out"
            )
        return self

    @model_validator(mode="after")
    def _shared(self) -> TrainingSettings:
        share_of(self.batch_size)
        return self

    @property
    def height(self) -> float:
        """The learning rate."""
        return PARAMETERS.entry(self.parameters).rate if self.rate is None else self.rate

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return self.model_dump(mode="json")
