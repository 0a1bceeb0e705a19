"""A study to look at."""

from __future__ import annotations

import pytest

from prunesearch.report.views.study_view import StudyView
from tests.support.studies import SHAPE, plain_trials


@pytest.fixture
def study(make_front):
    """A finished study with trials."""
    return StudyView("demo", "demo", make_front(), plain_trials(30), {}, SHAPE)
