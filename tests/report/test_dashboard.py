"""The dashboard without a browser: what it is given, what it refuses, what its pages are made of."""

from __future__ import annotations

import json
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
from typer.testing import CliRunner

from prunesearch.cli.dashboard import register
from prunesearch.core.errors import PruneSearchError
from prunesearch.report.dashboard import compare_page, devices_page, study_page
from prunesearch.report.dashboard.app import make_app
from prunesearch.report.dashboard.library import Library, progress
from prunesearch.report.dashboard.overview import overview, study_address
from prunesearch.report.dashboard.security import host_allowed
from prunesearch.report.views.freeze import Frozen
from prunesearch.report.views.study_view import StudyView
from prunesearch.study.storage.reader import Trial
from tests.support.curve_tables import smooth
from tests.support.curve_tables import table as curve_table
from tests.support.some import some
from tests.support.studies import add_trials, load_study, new_study, plain_trials, samples, write_folder

EVIL = "<script>alert(1)</script>"


def text_of(parts):
    """Components as HTML."""
    return Frozen().html(parts)


@pytest.fixture
def root(tmp_path, make_front):
    """A folder of two studies: one finished, one under way."""
    write_folder(tmp_path / "studies" / "done", make_front(study="done"), plain_trials(10), samples())
    write_folder(tmp_path / "studies" / "going", None, plain_trials(4), config={"trials": 40})
    return tmp_path / "studies"


# -- what it is given ----------------------------------------------------------------------------------


def test_folders_of_studies_and_single_ones(root, monkeypatch):
    assert list(Library([str(root)]).sources()) == ["done", "going"]
    assert list(Library([str(root / "going")]).sources()) == ["going"]
    assert list(Library([str(root / "done" / "front.json")]).sources()) == ["done"]
    assert list(Library(["done"], root).sources()) == ["done"]
    monkeypatch.chdir(root.parent)
    assert list(Library().sources()) == ["done", "going"]
    with pytest.raises(PruneSearchError, match=r"no study 'dome'.*done"):
        Library(["dome"], root)


def test_two_studies_of_one_name_keep_apart(root, tmp_path, make_front):
    write_folder(tmp_path / "more" / "done", make_front(study="done"))
    assert list(Library([str(root), str(tmp_path / "more")]).sources()) == ["done", "going", "done~2"]


def test_an_optuna_storage(root, tmp_path):
    add_trials(new_study(tmp_path / "study.db"), plain_trials(4))
    library = Library([f"sqlite:///{tmp_path / 'study.db'}"])
    (view,) = library.views()
    assert view.name == tmp_path.name
    assert len(view.done) == 4
    assert view.front is None
    with pytest.raises(PruneSearchError, match="no Optuna storage"):
        Library([f"sqlite:///{root / 'none.db'}"])


def test_a_new_study_shows_up_and_a_running_one_moves(root, make_front):
    library = Library([str(root)])
    source = library.find("going")
    first = source.view()
    assert source.view() is first
    assert source.version == 1
    add_trials(load_study(root / "going" / "study.journal"), plain_trials(1, 9))
    assert len(source.view().done) == 5
    assert source.version == 2
    make_front(study="going").save(root / "going" / "front.json")
    assert source.view().front is not None
    write_folder(root / "new", make_front(study="new"))
    assert list(library.sources()) == ["done", "going", "new"]


def test_trials_that_come_later_are_found_wherever_they_are(tmp_path):
    """As a run of an earlier version writes them, and as a run of this one takes them over."""
    write_folder(tmp_path / "s")
    source = Library([str(tmp_path / "s")]).find("s")
    assert source.view().trials == []
    add_trials(new_study(tmp_path / "s" / "study.db"), plain_trials(2))
    assert len(source.view().done) == 2
    add_trials(new_study(tmp_path / "s" / "study.journal"), plain_trials(3))
    assert len(source.view().done) == 3


def test_what_cannot_be_read_is_said_and_the_rest_is_shown(root):
    (root / "done" / "samples.json").write_text("{")
    (root / "done" / "cost_table.json").write_text("[]")
    (root / "going" / "study.journal").write_text("this is no database, whatever its name is")
    done, going = Library([str(root)]).views()
    assert "samples.json is not JSON" in done.problem
    assert "cost table" in done.problem
    assert done.front is not None
    assert "not a readable study" in going.problem


# -- nothing outside the folders, nothing executed -----------------------------------------------------


def test_links_out_of_the_folders_are_not_followed(root, tmp_path, make_front):
    secret = write_folder(tmp_path / "secret", make_front(study="secret"), plain_trials(1))
    os.symlink(secret, root / "link")
    hidden = write_folder(root / "hidden")
    for name in ("front.json", "study.journal"):
        os.symlink(secret / name, hidden / name)
    views = {view.key: view for view in Library([str(root)]).views()}
    assert "link" not in views
    assert views["hidden"].front is None
    assert views["hidden"].trials == []
    assert "leads out of the study's folder" in views["hidden"].problem


@pytest.mark.parametrize("key", ["../secret", "..%2Fsecret", "/etc", "done/../../secret", "", None])
def test_keys_are_looked_up_and_never_paths(root, tmp_path, make_front, key):
    write_folder(tmp_path / "secret", make_front(study="secret"))
    assert Library([str(root)]).find(key) is None


def test_a_study_does_not_choose_whom_to_connect_to(tmp_path):
    write_folder(tmp_path / "s", config={"storage": "postgresql://me:secret@somewhere/name"})
    view = Library([str(tmp_path / "s")]).find("s").view()
    assert "give the dashboard that URL too" in view.problem
    assert "secret" not in view.problem


def test_yaml_that_would_run_something_is_refused(tmp_path):
    folder = write_folder(tmp_path / "s")
    (folder / "config.yaml").write_text("!!python/object/apply:os.system ['touch ran']")
    view = Library([str(folder)]).find("s").view()
    assert "not plain YAML" in view.problem


@pytest.mark.parametrize(
    ("header", "host", "allowed"),
    [
        ("127.0.0.1:8765", "127.0.0.1", True),
        ("localhost:9000", "127.0.0.1", True),  # through a tunnel
        ("[::1]:8765", "127.0.0.1", True),
        ("evil.example", "127.0.0.1", False),
        ("127.0.0.1.evil.example:8765", "127.0.0.1", False),
        ("192.168.1.5:8765", "127.0.0.1", False),
        ("192.168.1.5:8765", "0.0.0.0", True),
        ("evil.example", "0.0.0.0", False),
        ("box.lan:8765", "box.lan", True),
        ("", "127.0.0.1", False),
        ("[", "127.0.0.1", False),
        ("evil.example@127.0.0.1", "127.0.0.1", True),  # the part before @ is a user, not a host
    ],
)
def test_hosts(header, host, allowed):
    assert host_allowed(header, host) is allowed


def test_every_answer_is_guarded(root):
    client = make_app(Library([str(root)])).server.test_client()
    for path in ("/", "/_dash-layout", "/_dash-dependencies", "/assets/style.css", "/study/done"):
        answer = client.get(path, headers={"Host": "127.0.0.1:8765"})
        assert answer.status_code == 200
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self' 'sha256-")
        assert "unsafe-eval" not in policy
        assert "http" not in policy
        assert client.get(path, headers={"Host": "evil.example"}).status_code == 403
    page = client.get("/", headers={"Host": "127.0.0.1"}).text
    loaded = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(loaded) > 10
    assert all(address.startswith("/") and not address.startswith("//") for address in loaded)
    for path in ("/assets/../report.py", "/assets/%2e%2e/report.py", "/assets/..%2freport.py"):
        assert client.get(path, headers={"Host": "127.0.0.1"}).text.count("def report_html") == 0


def callback(client, output, inputs, state=()):
    """Ask for a callback as Dash's renderer does."""
    first = inputs[0]
    body = {
        "output": output,
        "outputs": {"id": output.partition(".")[0], "property": output.partition(".")[2]},
        "inputs": [{"id": i, "property": p, "value": v} for i, p, v in inputs],
        "state": [{"id": i, "property": p, "value": v} for i, p, v in state],
        "changedPropIds": [f"{first[0]}.{first[1]}"],
    }
    return client.post("/_dash-update-component", json=body, headers={"Host": "localhost"})


@pytest.mark.parametrize("path", ["/", "/study/done", "/study/going", "/compare", "/devices", "/study/none", "/../etc"])
def test_every_page_is_served(root, path):
    client = make_app(Library([str(root)])).server.test_client()
    answer = callback(client, "page.children", [("url", "pathname", path)], [("url", "search", "?point=p3")])
    assert answer.status_code == 200
    text = json.dumps(answer.json)
    assert ("There is no such page" in text) == (path in ("/study/none", "/../etc"))
    if path == "/study/done":
        assert "Schedule " in text
        assert '"p3"' in text


def test_a_look_says_only_what_has_changed(root):
    client = make_app(Library([str(root)])).server.test_client()
    inputs, place = [("tick", "n_intervals", 1)], ("url", "pathname", "/study/going")
    first = callback(client, "version.data", inputs, [("version", "data", None), place])
    version = first.json["response"]["version"]["data"]
    again = callback(
        client, "version.data", inputs, [("version", "data", version), ("url", "pathname", "/study/going")]
    )
    assert again.status_code == 204 or again.json["response"] == {}


def test_a_hundred_readers_while_a_run_writes(root):
    """Every look and page is whole, and in the end all readers see all trials."""
    library, writer = Library([str(root)]), load_study(root / "going" / "study.journal")
    server = make_app(library).server
    begin = threading.Barrier(101)

    def read(index: int) -> list[int]:
        begin.wait()
        client, place = server.test_client(), ("url", "pathname", "/study/going")
        look = callback(client, "version.data", [("tick", "n_intervals", 1)], [("version", "data", None), place])
        page = callback(
            client, "page.children", [place] if index % 2 else [("url", "pathname", "/")], [("url", "search", "")]
        )
        return [look.status_code, page.status_code]

    with ThreadPoolExecutor(100) as pool:
        answers = [pool.submit(read, index) for index in range(100)]
        begin.wait()
        for number in range(5):
            add_trials(writer, plain_trials(1, 9 + number))
        assert [answer.result() for answer in answers] == [[200, 200]] * 100
    assert len(library.find("going").view().done) == 9


# -- the pages -----------------------------------------------------------------------------------------


def test_the_overview(root):
    text = text_of(overview(Library([str(root)]).views()))
    for part in ("done", "going", "1.67× faster", "AMD EPYC 7B13", "image-classification", "p2, 12 ms", "4 of 40"):
        assert part in text.replace("(12.0 ms)", "12 ms")
    assert "No study yet" in text_of(overview([]))


def test_progress():
    now = datetime(2026, 1, 1, 12)
    trials = [
        Trial(i, "COMPLETE", (0.1, 1.0), {"quality": 0.5, "schedule": str(i)}, now, now + timedelta(seconds=30 * i))
        for i in range(5)
    ]
    lost = Trial(5, "FAIL", (), {"error": "no memory"}, now, now)
    twin = Trial(6, "FAIL", (), {"duplicate_of": 2}, now, now)
    view = StudyView("a", "a", None, [*trials, lost, twin], {"trials": 9})
    how = progress(view, now + timedelta(minutes=3))
    assert (how.state, how.done, how.wanted, how.failed, how.last_error) == ("running", 5, 9, 1, "no memory")
    assert how.pace == pytest.approx(2.0)
    assert progress(view, now + timedelta(hours=1)).state == "stopped"
    assert progress(StudyView("a", "a", None)).state == "preparing"


def test_a_finished_study_whose_search_goes_on(make_front):
    front = make_front()
    view = StudyView("a", "a", front, plain_trials(10), {"trials": 64})
    assert progress(view).state == "finished"
    later = front.model_copy(update={"search": front.search.model_copy(update={"trials": 5})})
    assert progress(StudyView("a", "a", later, plain_trials(10), {})).state != "finished"


def test_the_chosen_point(root):
    done, going = Library([str(root)]).views()
    assert study_page.chosen_item(done, "?point=p3").id == "p3"
    assert study_page.chosen_item(done, "?point=nonsense").id == "p2"  # the verdict
    assert study_page.chosen_item(done, None).id == "p2"
    assert study_page.chosen_item(going, "").id.startswith("t")
    assert "No trial has finished yet" in text_of(study_page.panel(StudyView("a", "a", None), None))


def test_what_can_be_shown_too(root, make_front):
    done, going = Library([str(root)]).views()
    names = [o["value"] for o in study_page.other_options(done, [done, going])]
    assert "going" in names
    assert "done" not in names
    assert study_page.overlaid(done, {"going": going}, ["going", "on:none", "unknown"]) == [going]


def test_two_points_side_by_side(root):
    views = Library([str(root)]).views()
    first, second = (compare_page.find_pair(views, f"done\x1f{name}") for name in ("p1", "p3"))
    text = text_of(compare_page.compared(first, second))
    assert "−37.5%" in text  # 16 ms against 10
    assert "−1.80 points" in text
    assert "Choose two points" in text_of(compare_page.compared(first, None))
    assert compare_page.find_pair(views, "done\x1fp9") is None
    query = compare_page.address("done\x1fp1", "going\x1ft0")
    assert "done" in text_of(compare_page.compared(first, second))
    assert query.startswith("?a=done")


def test_curves_of_studies_and_profiles(make_front):
    table = curve_table(smooth)
    view = StudyView("a", "a", make_front(), read_table=lambda: table)
    text = text_of(devices_page.curves([view], "study:a"))
    assert "No plateau" in text
    assert "p10 to p90" in text
    assert "no profile" in text_of(devices_page.curves([view], "profile:../../etc"))
    assert "is estimated" in text_of(devices_page.curves([view], "profile:h100"))
    assert "has no cost table" in text_of(devices_page.curves([], "study:a"))


def test_names_stay_text_on_every_page(tmp_path, make_front):
    data = make_front().to_dict()
    data["model"]["id"] = data["device"]["name"] = data["task"]["metric"] = EVIL
    data["points"][1]["id"] = data["verdict"]["point"] = data["verdict"]["text"] = EVIL
    front = make_front(**{**data, "study": EVIL})
    view = StudyView(EVIL, EVIL, front, plain_trials(10), {"model": EVIL}, samples=samples(EVIL, EVIL), problem=EVIL)
    pages = [
        overview([view]),
        study_page.panel(view, view.item(EVIL)),
        study_page.data(view, view.item(EVIL)),
        study_page.points(view, view.item(EVIL)),
        study_page.below(view, "latency"),
        compare_page.compared((view, view.items[0]), (view, view.item(EVIL))),
    ]
    for page in some(pages):
        assert "<script" not in text_of(page)
    assert study_address(EVIL) == "/study/%3Cscript%3Ealert%281%29%3C%2Fscript%3E"


# -- the command ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_the_command_listens_where_it_says(root, host, warned):
    """At a port that is taken: it comes as far as that."""
    import socket

    import typer

    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    with socket.socket() as taken:
        taken.bind((host, 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = CliRunner().invoke(app, ["dashboard", str(root), "--host", host, "--port", str(port)])
    assert f"{host}:{port} cannot be listened on" in str(done.exception)
    assert f"http://{host}:{port} (2 studies; " in done.output
    assert ("no password" in done.output) == warned


def test_a_port_that_is_taken(root):
    import socket

    from prunesearch.report.dashboard.app import serve

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(PruneSearchError, match="choose another --port"):
            serve(Library([str(root)]), "127.0.0.1", taken.getsockname()[1])
