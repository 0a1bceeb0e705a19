"""How long until the dashboard shows a study of 10,000 trials? In a real browser, against a real server.

    python benchmarks/dashboard_load.py [--trials 10000] [--repeats 5]      # needs chromium and playwright

The study's front is that of `studies/example`; its trials are random schedules of that model's space with made-up
qualities. Times start when the address is asked for, in a new
browser profile each time; the server has been started before, which is when it reads what it was given:
  reading     the trials by this project's reader, a new one each time
  overview    the first page, its cards painted
  study       the study's page, its front painted with the trials behind it
  whole       the same, until the last of its figures is painted
  look        what the server takes to say that nothing has changed
"""

from __future__ import annotations

import argparse
import base64
import logging
import random
import shutil
import statistics
import tempfile
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, create_trial
from werkzeug.serving import make_server

from prunesearch.report.dashboard.app import make_app
from prunesearch.report.dashboard.library import Library
from prunesearch.report.dashboard.overview import overview
from prunesearch.search.space.space import Space, SpaceFile
from prunesearch.study.storage.journal import StudyFile
from prunesearch.study.storage.reader import TrialReader

ROOT = Path(__file__).resolve().parents[1]
ROWS = 1024  # of a search, of which a trial keeps loss and answer: 17 bits
SHAPE = (9, 65, 1)  # blocks, tokens, protected of the example's model
CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)


def make_study(folder: Path, trials: int) -> None:
    """A study folder with the example's front and `trials` random trials."""
    shutil.copytree(ROOT / "studies" / "example", folder)
    space, rng = Space(SpaceFile.load(None), *SHAPE), random.Random(0)
    journal = JournalStorage(StudyFile(folder / "study.journal"))
    study = optuna.create_study(study_name="prunesearch", storage=journal, directions=["minimize", "minimize"])
    study.add_trials(random_trial(space, rng, number) for number in range(trials))


def random_trial(space: Space, rng: random.Random, n: int) -> FrozenTrial:
    """One random trial, with the attributes that a search writes."""
    distributions = space.distributions()
    params: dict[str, Any] = {}
    for name, d in distributions.items():
        if isinstance(d, CategoricalDistribution):
            params[name] = rng.choice(d.choices)
        elif isinstance(d, IntDistribution):
            params[name] = rng.randint(d.low, d.high)
    schedule = space.decode(params)
    counts = schedule.counts(*SHAPE)
    share = sum(counts) / (SHAPE[0] * SHAPE[1])
    ms, quality = 24 * share + rng.random(), max(0.1, 0.83 - 0.5 * (1 - share) ** 2 - 0.2 * rng.random())
    attrs = {"schedule": schedule.to_dict(), "source": "sampler", "latency": ms, "quality": quality, "seconds": 0.5}
    attrs |= {"worker": "machine/1234", "per_row": base64.b64encode(rng.randbytes(ROWS * 17 // 8)).decode()}
    trial = create_trial(params=params, distributions=distributions, values=[0.84 - quality, ms], user_attrs=attrs)
    trial.datetime_start = trial.datetime_complete = datetime(2026, 1, 1) + timedelta(seconds=n)
    return trial


def seconds_until(page: Any, address: str, selector: str) -> float:
    """Wall time from asking for an address until an element of `selector` is in the page."""
    started = time.monotonic()
    page.goto(address, wait_until="commit")
    page.wait_for_selector(selector, state="attached")
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "studies" / "large"
        make_study(folder, args.trials)
        times: dict[str, list[float]] = {name: [] for name in ("reading", "overview", "study", "whole", "look")}
        for _ in range(args.repeats):
            started = time.monotonic()
            TrialReader(folder / "study.journal").refresh()
            times["reading"].append(time.monotonic() - started)
        drawn = ".js-plotly-plot .scatterlayer path.point:nth-of-type(900)"
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            for _ in range(args.repeats):
                library = Library([str(folder)])
                overview(library.views())  # as `serve` does before it listens
                server = make_server("127.0.0.1", 0, make_app(library).server, threaded=True)
                threading.Thread(target=server.serve_forever, daemon=True).start()
                address = f"http://127.0.0.1:{server.server_port}"
                for name, path, selector in (
                    ("study", "/study/large", drawn),
                    ("overview", "/", ".cards > li"),
                ):
                    context = browser.new_context()
                    page = context.new_page()
                    started = time.monotonic()
                    times[name].append(seconds_until(page, address + path, selector))
                    if name == "study":
                        page.wait_for_selector("#trust .js-plotly-plot .main-svg", state="attached")
                        times["whole"].append(time.monotonic() - started)
                    context.close()
                started = time.monotonic()
                library.sources()["large"].view()
                times["look"].append(time.monotonic() - started)
                server.shutdown()
            browser.close()
    print(f"{args.trials} trials; median of {args.repeats} (least to most), seconds")
    for name, values in times.items():
        print(f"{name:10} {statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})")


if __name__ == "__main__":
    main()
