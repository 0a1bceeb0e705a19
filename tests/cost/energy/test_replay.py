import pytest

from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.cost.energy.replay import EnergyRecording, ReplayClock, ReplayCounter, record
from prunesearch.cost.energy.window import EnergyMeter, measure_energy
from tests.support.energy_machine import Machine


def test_a_recording_replays_as_it_was(tmp_path):
    machine = Machine(idle_w=35.0)
    recording = record(machine, 20.0, clock=machine.clock, sleep=machine.sleep)
    recording.save(tmp_path / "idle.json")
    clock = ReplayClock()
    samples = EnergyRecording.load(tmp_path / "idle.json").samples
    meter = EnergyMeter(ReplayCounter(samples, clock=clock), clock=clock, sleep=clock.sleep)
    window = meter.watch(10.0)
    assert window.power_w == pytest.approx(35.0, rel=0.02)
    assert meter.update_period_s == pytest.approx(0.1, abs=0.01)
    assert window.temperature_c == 40.0


def test_a_whole_measurement_can_be_recorded_and_replayed():
    machine = Machine(period_s=0.02)
    samples, spend = [], machine.spend

    def noted(seconds, watts):
        spend(seconds, watts)
        if not samples or machine.shown_mj != samples[-1][1]:
            samples.append((machine.now, machine.shown_mj, machine.degrees))

    machine.spend = noted
    machine.sleep(1.0)
    begin = samples[0][0]
    first = measure_energy(machine.meter(), {"a": machine.job(90.0)}, rows=2, synchronize=machine.synchronize)
    noted(1.0, 20.0)

    clock = ReplayClock(begin)
    meter = EnergyMeter(ReplayCounter(samples, clock=clock), clock=clock, sleep=clock.sleep)
    again = measure_energy(meter, {"a": lambda: clock.sleep(0.02)}, rows=2)
    assert again.results["a"].energy_mj == pytest.approx(first.results["a"].energy_mj, rel=0.01)
    assert again.results["a"].valid
    assert again.source.name == "replay"


def test_a_recording_ends_in_words():
    clock = ReplayClock()
    counter = ReplayCounter([(0.0, 0.0, None), (2.0, 10.0, None)], clock=clock)
    clock.sleep(2.5)
    with pytest.raises(PruneSearchError, match=r"the recording is over after 2\.0 s"):
        counter.read()


@pytest.mark.parametrize("samples", [[], [(0.0, 1.0, None)], [(1.0, 1.0, None), (1.0, 2.0, None)]])
def test_samples_that_cannot_be_are_refused(samples):
    with pytest.raises(PruneSearchError, match="at least 2 samples with increasing seconds"):
        ReplayCounter(samples, clock=ReplayClock())


def test_a_counter_that_stands_still_cannot_be_recorded():
    clock = ReplayClock()
    still = ReplayCounter([(0.0, 1.0, None), (9.0, 1.0, None)], clock=clock)
    with pytest.raises(PruneSearchError, match="stood still"):
        record(still, 1.0, clock=clock, sleep=clock.sleep)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "must be a JSON object"),
        ('{"name": "x", "covers": "y", "date": "z", "samples": [[0, 1, null]]}', "'samples'"),
        ('{"name": "x", "covers": "y", "date": "z", "samples": [[0, "a", null], [1, 2, null]]}', "'samples.0.1'"),
    ],
)
def test_broken_recordings_are_one_line(tmp_path, text, message):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(CorruptFileError, match=message) as caught:
        EnergyRecording.load(tmp_path / "r.json")
    assert "\n" not in str(caught.value)


def test_a_missing_recording_is_said(tmp_path):
    with pytest.raises(PruneSearchError, match="cannot be read"):
        EnergyRecording.load(tmp_path / "none.json")
