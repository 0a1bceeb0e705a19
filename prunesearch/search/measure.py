"""The study's cost table: read back if it was measured before, else measured and validated now."""

from __future__ import annotations

from prunesearch.cost.build import conditions_of
from prunesearch.cost.table import CostTable
from prunesearch.cost.validate import measure_table
from prunesearch.pruning.apply import Handle
from prunesearch.results.store import StudyFolder
from prunesearch.search.config import RunConfig
from prunesearch.search.progress import Reporter
from prunesearch.search.space import Space
from prunesearch.tasks.base import Task


def cost_table(
    folder: StudyFolder, task: Task, handle: Handle, space: Space, config: RunConfig, reporter: Reporter
) -> CostTable:
    """Return the cost table of the study's model under the study's conditions, with its error inside.

    Raises:
        PruneSearchError: if a table that is there was measured under other conditions.
    """
    inputs = task.timing_inputs(config.batch_size)
    if folder.cost_table.exists():
        table = CostTable.load(folder.cost_table)
        table.check_conditions(**conditions_of(handle, inputs, task.tokens))
        reporter.step("cost table: kept from before")
    else:
        reporter.step(
            f"cost table: timing forwards of batch {config.batch_size}, {task.tokens} tokens, on this machine"
        )
        table = measure_table(
            task.model,
            inputs,
            counts=space.counts[1:],
            methods=space.methods,
            time_budget_s=config.table_seconds,
            quiet=reporter.quiet or not reporter.console.is_terminal,
            seed=config.seed,
        )
        table.save(folder.cost_table)
    _say(table, reporter)
    return table


def _say(table: CostTable, reporter: Reporter) -> None:
    checked = table.validation
    if checked is not None:
        reporter.say(
            f"      error on {len(checked.schedules) - 1} unseen schedules: mean {checked.mape:.1%}, worst "
            f"{checked.worst:.1%}, rank correlation {checked.rank_correlation:.3f}"
        )
    if table.noise.noisy:
        reporter.say(f"      the machine was noisy ({table.noise.why}): latencies may be off by more")
