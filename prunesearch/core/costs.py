"""What can be minimised or bounded: one row a cost.

A new cost is one row here, or one more `register_cost`, or an entry point of `prunesearch.costs`, and the class that
prices it (`search.costs.bench.Pricing`).
Whatever reads, bounds, draws or prints a cost asks its row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.tables.names import Row, load_target, make_table

_PRICING = "prunesearch.search.costs.bench"


@dataclass(frozen=True)
class Cost(Row):
    """A row; `target` is the class that prices and measures it (`search.costs.bench.Pricing`).

    Attributes:
        name: in options, constraints and files.
        unit: of every amount.
        per: what an amount is of.
        noun: what people call it, and `a_noun` one amount of it.
        typed: units that may be typed, in lower case, with their value in `unit`.
        examples: of what may be typed.
        least: of schedules, the one that costs least; `less`: how the cheaper of two is.
        decimals: digits after the point in a column, by the least value that has so many; empty: three significant.
        smaller_is_better: what is better when there is more of it can be told and bounded, not minimised.
        known: before a schedule is evaluated, or only after.
        by_load: whether each of several loads has its own; other costs are those of the first load.
        on_device: whether it is another on another device.
        exact: whether its prediction is the thing itself.
        predicted_by: how an amount that was not measured came to be; empty: by the cost table, as that says of itself.
        around: what surrounds a measured amount.
        metered: measured by the device's energy counter.
        of_activations: whether it is another where activations are in another dtype, of which its prediction knows
            nothing.
        always: told in every study, asked for or not.
        blocks: what prices blocks by their sizes alone, for trials that were not told: `module:function`, which takes
            the shape that a cost table is keyed by and the flow of a schedule.
        column: what its column is headed; empty: its unit.
        written: of models that write token by token alone.
        halves: it knows plans whose halves of blocks are smaller or left out.
        rate: what a second has of it, where amounts are milliseconds each: said beside them.
    """

    name: str
    unit: str
    per: Literal["batch", "input", "model"]
    noun: str
    a_noun: str
    typed: Mapping[str, float]
    examples: str
    least: str = "Cheapest"
    less: str = "cheaper"
    decimals: Mapping[float, int] = field(default_factory=dict)
    smaller_is_better: bool = True
    known: Literal["before", "after"] = "before"
    by_load: bool = False
    on_device: bool = True
    exact: bool = False
    predicted_by: str = "predicted"
    around: str = "95 %"
    metered: bool = False
    of_activations: bool = False
    always: bool = False
    blocks: str | Callable[..., float] | None = None
    column: str = ""
    written: bool = False
    halves: bool = False
    rate: str = ""

    @property
    def title(self) -> str:
        """`latency of a batch`."""
        return f"{self.noun} of {self.of}"

    @property
    def of(self) -> str:
        """`a batch`."""
        return f"{'an' if self.per[0] in 'aeiou' else 'a'} {self.per}"

    @property
    def head(self) -> str:
        """What a column of its amounts is headed."""
        return self.column or self.unit

    @property
    def searched(self) -> bool:
        """Whether a search can minimise it and keep a bound on it; other bounds hold in the end alone."""
        return self.known == "before" and self.smaller_is_better

    def keeps(self, value: float, limit: float) -> bool:
        """Whether a value is inside a bound."""
        return value <= limit if self.smaller_is_better else value >= limit

    def text(self, value: float) -> str:
        """The value with three significant digits and its unit."""
        said = f"{digits(value)} {self.unit}"
        return f"{said}, {digits(1000 / value)} {self.rate}" if self.rate and value > 0 else said

    def places(self, value: float) -> int | None:
        """Digits after the point in a column; None for three significant ones."""
        return next((n for least, n in sorted(self.decimals.items(), reverse=True) if value >= least), None)

    def cell(self, value: float, places: int | None = None) -> str:
        """The value in a column, with the `places` of another value beside it if given."""
        shown = self.places(value) if places is None else places
        return digits(value) if shown is None else f"{value:.{shown}f}"

    def make_pricing(self) -> Any:
        """The class that prices it, made."""
        return load_target(self.target)()

    def load_blocks(self) -> Callable[..., float] | None:
        """The function behind `blocks`."""
        found: Callable[..., float] | None = load_target(self.blocks)
        return found


# -- the rows ---------------------------------------------------------------------------------------------------------

_ROWS = (
    Cost(
        target=f"{_PRICING}:LatencyPricing",
        help="time of a forward, measured on the device",
        name="latency",
        unit="ms",
        per="batch",
        noun="latency",
        a_noun="a latency",
        typed={"us": 1e-3, "ms": 1.0, "s": 1e3},
        examples="10ms, 500us, 0.2s",
        least="Fastest",
        less="faster",
        decimals={100: 0, 10: 1, 0: 2},
        by_load=True,
        predicted_by="",
        around="p10–p90",
        always=True,
        halves=True,
    ),
    Cost(
        target="prunesearch.search.costs.answering:AnswerPricing",
        help="time to the last token of an answer (models that read pictures; latency: the first)",
        name="answer",
        unit="ms",
        per="batch",
        noun="time to the last token",
        a_noun="a time to the last token",
        typed={},
        examples="60%",
        least="First to end",
        less="faster",
        decimals={100: 0, 10: 1, 0: 2},
        around="p10–p90",
        column="ms to the last",
        written=True,
    ),
    Cost(
        target="prunesearch.search.costs.throughput:ThroughputPricing",
        help="time of a token, of all of --concurrency requests (models that write): tokens a second",
        name="throughput",
        unit="ms a token",
        per="batch",
        noun="time of a token",
        a_noun="a time of a token",
        typed={},
        examples="60%",
        least="Most tokens a second",
        less="faster",
        around="p10–p90",
        column="ms a token",
        written=True,
        rate="tokens a second",
    ),
    Cost(
        target=f"{_PRICING}:EnergyPricing",
        help="energy of a forward by the device's own counter, idle power included",
        name="energy",
        unit="mJ",
        per="input",
        noun="energy",
        a_noun="an energy",
        typed={"uj": 1e-3, "mj": 1.0, "j": 1e3},
        examples="40mJ, 1.5J",
        least="Most frugal",
        less="more frugal",
        metered=True,
    ),
    Cost(
        target=f"{_PRICING}:MacPricing",
        help="multiply-adds of a forward, counted",
        name="macs",
        unit="GMACs",
        per="input",
        noun="multiply-adds",
        a_noun="multiply-adds",
        typed={"mmacs": 1e-3, "gmacs": 1.0, "tmacs": 1e3},
        examples="2GMACs, 900MMACs",
        least="Lightest",
        less="lighter",
        decimals={0.095: 2, 0: 3},
        on_device=False,
        exact=True,
        predicted_by="counted",
        always=True,
        halves=True,
        blocks="prunesearch.cost.counting.flops:blocks_gmacs",
    ),
    Cost(
        target=f"{_PRICING}:MemoryPricing",
        help="peak memory of activations, estimated from shapes; of a decoder, its cache of a prompt",
        name="memory",
        unit="MiB",
        per="batch",
        noun="memory",
        a_noun="a memory",
        typed={
            "kib": 2**-10,
            "mib": 1.0,
            "gib": 2.0**10,
        },
        examples="64MiB, 0.5GiB",
        least="Smallest",
        less="smaller",
        on_device=False,
        predicted_by="estimated from shapes",
        of_activations=True,
    ),
    Cost(
        target=f"{_PRICING}:SizePricing",
        help="size of the model's weights on disk, counted",
        name="size",
        unit="MB",
        per="model",
        noun="size",
        a_noun="a size",
        typed={"kb": 1e-3, "mb": 1.0, "gb": 1e3},
        examples="20MB, 0.5GB",
        least="Smallest",
        less="smaller",
        on_device=False,
        exact=True,
        predicted_by="counted",
        halves=True,
    ),
)


def check_cost(name: str, row: Cost, others: Mapping[str, Cost]) -> None:
    """Refuse a row whose name or one of whose typed units means something already."""
    if row.name != name:
        raise PruneSearchError(f"cost '{row.name}' is registered as '{name}': call it by one name")
    for unit in row.typed:
        other = next((known.name for known in others.values() if unit in known.typed), None)
        if other is not None or unit in ("x", "%") or unit != unit.lower():
            reason = f"that of {other}" if other else "a share, a speed-up or not in lower case"
            raise PruneSearchError(f"cost '{row.name}' has the unit '{unit}', which is {reason}: choose another one")


COSTS = make_table("cost", {row.name: row for row in _ROWS}, Cost, check=check_cost)


def register_cost(row: Cost) -> None:
    """Add a row.

    Raises:
        PruneSearchError: if its name or one of its typed units is taken: a study must not change its meaning.
    """
    COSTS.add(row.name, row)


def find_cost(name: str) -> Cost:
    """The row called `name`; raise `PruneSearchError` naming the nearest one on a miss."""
    return COSTS.entry(name)


def cost_of_unit(unit: str) -> tuple[Cost, float] | None:
    """The cost that a typed unit is of, and one such unit in that of the cost; None for no unit of any."""
    rows = COSTS.entries().values()
    return next(((row, row.typed[unit.lower()]) for row in rows if unit.lower() in row.typed), None)


def digits(value: float) -> str:
    """Three significant digits, thousands whole: `0.123`, `12.3`, `1,234`."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"
