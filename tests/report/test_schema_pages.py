"""The pages on files are what the models say: write them again after a change."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunesearch.report.schema_pages import PAGES, Page, main

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.file)
def test_a_page_in_git_is_what_the_models_say(page: Page):
    said = page.text()
    assert (DOCS / page.file).read_text(encoding="utf-8") == said, "python -m prunesearch.report.schema_pages"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.file)
def test_every_field_of_the_file_is_explained(page: Page):
    """Of what is in the file itself; parts deeper down may leave it to their names."""
    for name, field in page.model.model_fields.items():
        if not field.exclude:
            assert field.description, name
            assert f"| `{field.alias or name}` |" in page.text()


def test_they_are_written_where_one_says(tmp_path: Path):
    main(str(tmp_path))
    assert {p.name for p in tmp_path.iterdir()} == {page.file for page in PAGES}
