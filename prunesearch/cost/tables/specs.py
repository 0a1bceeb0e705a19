"""What a vendor says about a GPU: the facts that an estimate starts from, each with its source."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from prunesearch.core.errors import CorruptFileError

DTYPES = ("float32", "tf32", "float16", "bfloat16")
Dtype = Literal["float32", "tf32", "float16", "bfloat16"]
T = TypeVar("T", bound=BaseModel)


class DeviceSpec(BaseModel):
    """A GPU as its datasheet describes it.

    Args:
        name: of the profile's folder.
        aliases: other names that people may use.
        matches: regular expression that the whole name CUDA reports must match.
        architecture: the vendor's name of it.
        sm_count: streaming multiprocessors.
        boost_clock_mhz: the clock behind `peak_tflops["float32"]`.
        peak_tflops: by dtype, DENSE, in 1e12 operations a second (a multiply-add is two). Half precision is that of
            tensor cores which accumulate in float32, as PyTorch's products do. A dtype that is left out does not run.
        gemm_tflops: what PyTorch's own large square products reach in public measurements, by dtype; of a dtype that
            is left out nothing is known.
        memory_gb: GPU memory.
        bandwidth_gbs: of that memory, in 1e9 bytes a second.
        l2_mb: last-level cache.
        tdp_w: board (module) power in watts.
        sources: which document says what.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: ClassVar[str] = "cuda"  # of device; what is here is known of no other

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    aliases: tuple[str, ...] = ()
    matches: str
    architecture: str
    sm_count: int = Field(ge=1)
    boost_clock_mhz: float = Field(gt=0)
    peak_tflops: dict[Dtype, float]
    gemm_tflops: dict[Dtype, float] = {}
    memory_gb: float = Field(gt=0)
    bandwidth_gbs: float = Field(gt=0)
    l2_mb: float = Field(gt=0)
    tdp_w: float = Field(gt=0)
    sources: tuple[str, ...] = Field(min_length=1)

    @field_validator("matches")
    @classmethod
    def _is_expression(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return value

    @model_validator(mode="after")
    def _check_rates(self) -> Self:
        rates = [*self.peak_tflops.values(), *self.gemm_tflops.values()]
        if "float32" not in self.peak_tflops or min(rates) <= 0:
            raise ValueError("`peak_tflops` must hold float32, and every rate must be above 0")
        if unknown := self.gemm_tflops.keys() - self.peak_tflops.keys():
            raise ValueError(f"`gemm_tflops` has {', '.join(sorted(unknown))}, which `peak_tflops` lacks")
        return self

    def is_called(self, cuda_name: str, sm_count: int | None = None) -> bool:
        """True if CUDA calls this device `cuda_name`; `sm_count` tells siblings apart (all Jetson Orins are "Orin")."""
        return re.fullmatch(self.matches, cuda_name) is not None and sm_count in (None, self.sm_count)


def validate(model: type[T], data: Any, where: str) -> T:
    """Check `data` against a pydantic model; the error names the first field that is wrong.

    Raises:
        CorruptFileError: one line, beginning with `where`.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise CorruptFileError(f"{where}, field `{field or 'file'}`: {first['msg']}") from None
