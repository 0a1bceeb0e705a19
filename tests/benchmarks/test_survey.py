"""The page on the survey's table is what its script makes of the results that are kept."""

from __future__ import annotations

import survey

from tests.support.some import some


def test_the_page_is_made_of_the_results() -> None:
    results = survey.read(survey.RESULTS)
    assert survey.page(some(results)) == survey.PAGE.read_text(encoding="utf-8")


def test_every_figure_of_a_study_is_on_it() -> None:
    page = survey.PAGE.read_text(encoding="utf-8")
    for one in some(survey.read(survey.RESULTS)):
        for method in one.compared.methods:
            assert f"{method.speedup:.2f}x" in page
            assert f"{100 * method.quality.value:.1f}" in page
            assert f"`{method.text}`".replace("|", chr(92) + "|") in page
        for name, why in one.compared.left_out.items():
            assert f"{name} is left out: {why}" in page
        assert one.compared.verdict in page
