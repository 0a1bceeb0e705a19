"""The model card of an exported cascade or router, and the same for machines."""

from __future__ import annotations

import json

from prunesearch import __version__
from prunesearch.core.tables.export_tables import RULE_FORMATS
from prunesearch.export.by_row.rule_source import RuleSource
from prunesearch.export.models.card import card_head, export_lines, plan_lines
from prunesearch.export.models.record import ModelExport, save_facts


def write_rule_card(done: ModelExport, source: RuleSource) -> None:
    """Write the card and the provenance of an export into its folder."""
    facts = {
        "plans": {name: plan.to_dict() for name, plan in source.plans.items()},
        "rule": source.facts(),
        "provenance": {**source.provenance, "exported": done.facts(), "exported_by": f"prunesearch {__version__}"},
    }
    save_facts(done.path, json.dumps(facts, indent=2, ensure_ascii=False) + "\n", "prunesearch.json", ".json")
    save_facts(done.path, rule_card(done, source), "README.md", ".md")


def rule_card(done: ModelExport, source: RuleSource) -> str:
    """Markdown that says what is chosen between, by what, and what the export was found to do."""
    found = source.provenance
    base = found["model"]["id"]
    lines = [*card_head(base), "", "## Tokens pruned input by input", ""]
    how = (
        f"The unpruned model's block {source.block} decides for every row which of these it runs"
        if source.guesses
        else f"A row runs these one after another until the answer of one is sure enough, by its {source.by}"
    )
    lines.append(f"{how} (threshold {source.threshold:.4g}); answers are in the order of the rows.")
    for name, plan in source.plans.items():
        lines += ["", f"### {name}", "", *plan_lines(plan)]
    quality = found["adapted"]["quality"]
    lines += [
        "",
        f"- Study `{found['study']}`, {found['created']}; {found['metric']} {quality['value']:.4f} on held-out rows.",
        "",
        *export_lines(done, RULE_FORMATS.entry(done.format)),
        "",
        f"Found with prunesearch {__version__}.",
        "",
    ]
    return "\n".join(lines)
