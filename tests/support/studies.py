"""Small study folders, as a run leaves them: an Optuna study made by Optuna, a front, a table, samples."""

from __future__ import annotations

import json
import random

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.report.views.conditions import conditions
from prunesearch.report.views.shown_samples import ShownRow, ShownSamples, ShownTrace
from prunesearch.report.views.shown_samples import ShownStage as Reduced
from prunesearch.report.views.study_view import ShownShape
from prunesearch.study.storage.reader import Trial
from tests.support.curve_tables import smooth
from tests.support.curve_tables import table as curve_table

SHAPE = ShownShape(9, 65, 1)
PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E"
    "rkJggg=="
)
METHODS = [("cls_attention", "fuse"), ("value_norm", "drop"), ("cls_attention", "bipartite")]
optuna.logging.set_verbosity(optuna.logging.ERROR)


def schedules(count, seed=0):
    """Different schedules of one or two stages."""
    rng = random.Random(seed)
    found = []
    while len(found) < count:
        layer, keep = rng.randrange(6), round(rng.uniform(0.5, 0.95), 3)
        stages = [Stage(layer, keep, *rng.choice(METHODS))]
        if rng.random() < 0.5:
            stages.append(Stage(layer + 2, round(keep / 2, 3), *rng.choice(METHODS)))
        if Schedule(stages) not in found:
            found.append(Schedule(stages))
    return found


def attrs_of(schedule, ms, quality):
    """User attributes as a search writes them."""
    return {"schedule": schedule.to_dict(), "source": "sampler", "latency": ms, "quality": quality, "seconds": 0.5}


def plain_trials(count, seed=0):
    """Trials without a storage; quality rises with latency, with noise."""
    rng = random.Random(seed)
    found = []
    for number, schedule in enumerate(schedules(count, seed)):
        ms = 5 + 15 * sum(schedule.counts(9, 65, 1)) / (9 * 65)
        quality = 0.4 + 0.02 * ms + 0.05 * rng.random()
        found.append(Trial(number, "COMPLETE", (1 - quality, ms), attrs_of(schedule, ms, quality)))
    return found


def optuna_storage(path):
    """Optuna's own storage of a file: SQLite, as of studies before there were journals, or a journal."""
    return f"sqlite:///{path}" if path.suffix == ".db" else JournalStorage(JournalFileBackend(str(path)))


def new_study(path):
    """An empty study of two objectives at a file, made by Optuna alone."""
    return optuna.create_study(
        study_name="prunesearch", storage=optuna_storage(path), directions=["minimize", "minimize"]
    )


def load_study(path):
    """The study of a file, by Optuna alone."""
    return optuna.load_study(study_name="prunesearch", storage=optuna_storage(path))


def add_trials(study, trials):
    """Write trials through Optuna."""
    for trial in trials:
        study.add_trial(create_trial(values=list(trial.values), user_attrs=trial.attrs, state=TrialState.COMPLETE))


def samples(point="p2", label="frog", word="soil"):
    """A picture and a text; the text's answer changes."""
    picture = ShownRow(index=0, label=label, picture=PNG, grid=(2, 2), leading=1)
    text = ShownRow(index=3, label=label, words=["[CLS]", "so", "##il", word, "[SEP]"], leading=1, trailing=1)
    kept = Reduced(layer=2, tokens=3, method="value_norm+fuse", owner=[0, 1, 2, -1, 2])
    said = Reduced(layer=4, tokens=3, method="bipartite", owner=[0, 1, 1, -1, 2])
    return ShownSamples(
        rows=[picture, text],
        traces=[
            ShownTrace(point=point, row=0, unpruned=label, pruned=label, stages=[kept]),
            ShownTrace(point=point, row=3, unpruned=label, pruned="toad", stages=[said]),
        ],
    )


def write_folder(folder, front=None, trials=(), rows=None, config=None):
    """A study folder."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {"model": "demo", "device": "cpu", "batch_size": 32, "trials": 10, **(config or {})}
    (folder / "config.yaml").write_text(json.dumps(written))  # JSON is YAML
    if trials:
        add_trials(new_study(folder / "study.journal"), trials)
    if front is not None:
        front.save(folder / "front.json")
    if rows is not None:
        rows.save(folder / "samples.json")
    return folder


def small_table():
    """A cost table of smooth blocks."""
    return curve_table(smooth, error=0.02)


def conditions_of(view):
    """Names and texts of the list of conditions."""
    listed = conditions(view).children[0].children
    return [(name.children, text.children) for name, text in zip(listed[::2], listed[1::2], strict=True)]


def texts_of(figure):
    """All strings of a figure that plotly would read markup in."""
    if isinstance(figure, dict):
        return [t for value in figure.values() for t in texts_of(value)]
    if isinstance(figure, list | tuple):
        return [t for value in figure for t in texts_of(value)]
    return [figure] if isinstance(figure, str) else []
