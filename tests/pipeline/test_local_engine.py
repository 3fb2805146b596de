"""The engine of one machine: which units run side by side, and what a killed worker costs."""

import os
import signal
import time
from dataclasses import dataclass

import pytest
from tiny_units import Note, overlap, read

from ct.errors import InputError
from ct.system.machine_memory import free_memory_mb
from pipeline.engines import local_engine
from pipeline.engines.local_engine import LocalEngine, chosen_devices, levels
from pipeline.engines.placement import Machine, Placement, at_once
from pipeline.progress import no_bar
from pipeline.units.unit import Resources
from pipeline.units.unit_lock import unit_lock
from pipeline.units.unit_runner import run_unit


def run_all(engine, units):
    lines = []
    engine.run(units, lines.append, no_bar)
    return lines


@pytest.fixture
def four_cores(monkeypatch):
    monkeypatch.setattr(local_engine, "cores", lambda: 4)


def test_units_without_a_gpu_run_within_cores_memory_and_their_own_number():
    machine = Machine(cores=4, memory_mb=10_000)
    small = Resources(1, 0, 1000)
    assert at_once(machine, [small] * 9) == 4
    assert at_once(machine._replace(most=3), [small] * 9) == 3
    assert at_once(machine, [Resources(1, 0, 4000)] * 9) == 2
    assert at_once(machine, [Resources(2, 0, 0)] * 9) == 2
    placement = Placement(machine)
    assert placement.start(Resources(99, 0, 99_999)) == ""  # alone on the machine
    assert placement.start(small) is None
    placement.end(Resources(99, 0, 99_999), "")
    assert placement.start(small) == ""


def test_each_gpu_has_one_unit_also_where_there_are_fewer_cores():
    machine, takes = Machine(4, 10_000, ("0", "1", "2", "3")), Resources(2, 1, 100)
    placement = Placement(machine)
    assert [placement.start(takes) for _ in range(5)] == ["0", "1", "2", "3", None]
    assert placement.start(Resources(1, 0, 0)) is None  # no core is left
    placement.end(takes, "2")
    assert placement.start(takes) == "2"


def test_on_a_gpu_a_unit_takes_less_of_the_machines_memory():
    takes = Resources(1, 1, 8000, 2000)
    for devices, started in (((), 1), (("cpu", "cpu"), 1), (("0", "1", "2"), 3)):
        assert at_once(Machine(4, 9000, devices), [takes] * 4) == started


def test_without_a_gpu_its_units_take_their_cores():
    placement = Placement(Machine(4, 10_000))
    assert [placement.start(Resources(2, 1, 0)) for _ in range(3)] == ["", "", None]


def test_free_memory_is_that_of_this_machine():
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    assert 0 < free_memory_mb() <= total


def test_units_come_after_those_that_they_need(tmp_path):
    units = [Note(str(tmp_path), 0, after=(1, 2)), Note(str(tmp_path), 1, after=(2,))]
    units += [Note(str(tmp_path), 2, after=(9,))]  # 9 is no unit of this call: it is done
    assert [[unit.number for unit in level] for level in levels(units)] == [[2], [1], [0]]


def test_units_in_a_row_run_in_this_process_however_many_cores_there_are(tmp_path, four_cores):
    """A worker process for each would take longer to start than it saves."""
    units = [Note(str(tmp_path), n, after=tuple(range(n))) for n in range(3)]
    engine = LocalEngine()
    run_all(engine, units)
    assert {read(unit)[0] for unit in units} == {os.getpid()} and engine.at_once() == 1


@dataclass(frozen=True)
class BriefNote(Note):
    """A note that takes a moment."""

    @property
    def is_brief(self):
        return True


@pytest.mark.parametrize(
    ("kind", "bars"), [(Note, ["note 0", "note 1"]), (BriefNote, ["notes"])], ids=["long", "brief"]
)
def test_brief_units_share_one_bar(tmp_path, kind, bars):
    shown = []

    def bar(total, text, unit):
        shown.append(text)
        return no_bar(total, text, unit)

    LocalEngine(workers=1).run([kind(str(tmp_path), n) for n in range(2)], list().append, bar)
    assert shown == bars


def test_one_at_a_time_runs_in_this_process(tmp_path):
    units = [Note(str(tmp_path), n) for n in range(2)]
    engine = LocalEngine(workers=1)
    lines = run_all(engine, units)
    assert lines == ["  line of 0", "  note 0", "  line of 1", "  note 1"]
    assert {read(unit)[0] for unit in units} == {os.getpid()} and engine.at_once() == 1
    assert run_all(engine, units) == ["  note 0, kept", "  note 1, kept"]


def test_units_run_side_by_side_in_other_processes(tmp_path, four_cores):
    units = [Note(str(tmp_path), n, together=(1 - n,), cores=2) for n in range(2)]
    units.append(Note(str(tmp_path), 2, cores=2, after=(0, 1)))
    engine = LocalEngine()
    lines = run_all(engine, units)
    assert sorted(lines) == sorted(
        f"  {word} {n}" for n in range(3) for word in ("line of", "note")
    )
    assert os.getpid() not in {read(unit)[0] for unit in units} and engine.at_once() == 2
    assert not overlap(units[0], units[2]) and not overlap(units[1], units[2])
    assert not list((tmp_path / "locks").glob("*.now"))


@pytest.mark.parametrize("variable", ["CUDA_VISIBLE_DEVICES", "ICH_GPU"])
def test_each_worker_sees_its_own_gpu_alone(tmp_path, four_cores, variable):
    more = {"gpus": 1, "environment": variable}
    units = [Note(str(tmp_path), n, together=(1 - n,) * (n < 2), **more) for n in range(3)]
    run_all(LocalEngine(devices=["7", "GPU-5"]), units)
    by_process = {}
    for unit in units:
        by_process.setdefault(read(unit)[0], set()).add(read(unit)[1])
    assert sorted(by_process.values(), key=str) == [{"7"}, {"GPU-5"}]
    assert os.environ.get("CUDA_VISIBLE_DEVICES") is None


def test_one_unit_on_another_gpu_than_the_visible_ones_runs_in_a_worker(tmp_path, monkeypatch):
    """This process may have counted its GPUs: CUDA then ignores a change of the variable."""
    monkeypatch.setattr("pipeline.engines.local_engine.visible_gpus", lambda: ["0", "1"])
    units = [Note(str(tmp_path), n, gpus=1) for n in range(2)]
    run_all(LocalEngine(devices=["1"]), units[:1])
    process, device = read(units[0])[:2]
    assert process != os.getpid() and device == "1"
    monkeypatch.setattr("pipeline.engines.local_engine.visible_gpus", lambda: ["1"])
    run_all(LocalEngine(devices=["1"]), units[1:])
    assert read(units[1])[:2] == (os.getpid(), "unset")
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_places_on_the_cpu_stand_in_for_gpus(tmp_path):
    units = [Note(str(tmp_path), n, together=(1 - n,), cores=2, gpus=1) for n in range(2)]
    run_all(LocalEngine(devices=["cpu", "cpu"]), units)  # on one core
    assert {read(unit)[1] for unit in units} == {"none"}


def test_a_killed_worker_costs_its_unit_a_second_try_and_the_others_nothing(tmp_path, four_cores):
    units = [Note(str(tmp_path), n, 0.2, killed=2 * (n == 1)) for n in range(4)]
    lines = run_all(LocalEngine(workers=2), units)
    assert lines.count("  notes/1: its process was killed; it is tried again") == 2
    sizes = [(tmp_path / f"{n}.attempts").stat().st_size for n in range(4)]
    assert sizes == [1, 3, 1, 1]


def test_a_unit_whose_process_is_killed_three_times_is_one_line_of_error(tmp_path, four_cores):
    units = [Note(str(tmp_path), 0, 30), Note(str(tmp_path), 1, killed=9)]
    with pytest.raises(InputError, match="notes/1 was killed.*3 times.*--workers=1"):
        run_all(LocalEngine(workers=2), units)
    assert not units[0].path.exists()  # it was ended at once
    with unit_lock(units[0], wait=False) as held:
        assert held


@pytest.mark.parametrize("error", ["--x=1: no such thing", "not a number"])
def test_an_error_of_a_unit_is_raised_once_and_ends_the_rest(tmp_path, four_cores, error):
    units = [Note(str(tmp_path), 0, 30), Note(str(tmp_path), 1, error=error)]
    with pytest.raises(InputError) as raised:
        run_all(LocalEngine(workers=2), units)
    assert str(raised.value) == error
    assert (tmp_path / "1.attempts").stat().st_size == 1 and not units[0].path.exists()


def test_a_unit_that_another_process_does_is_left_or_waited_for(tmp_path):
    unit = Note(str(tmp_path), 0)
    with unit_lock(unit, wait=False) as held:
        assert held and run_unit(unit, wait=False).busy
    assert not unit.path.exists()
    assert not run_unit(unit, wait=False).busy and unit.path.exists()


@pytest.mark.parametrize(
    "environment, device", [(None, "1"), ("4, GPU-8", "GPU-8"), ("MIG-a,MIG-b", "MIG-b")]
)
def test_numbers_of_gpus_count_among_the_visible_ones(monkeypatch, environment, device):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1 if device == "MIG-b" else 2)
    if environment:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", environment)
    assert chosen_devices("1,cpu") == [device, "cpu"]
    with pytest.raises(InputError, match=r"^--gpus=2: torch finds 2 GPUs here, no GPU 2$"):
        chosen_devices("2")


@dataclass(frozen=True)
class KillIdle(Note):
    """Kills the process of a Note that has ended, which waits for its next unit."""

    idle: int = 0

    def run(self, log, bar):
        ended = Note(self.root, self.idle)
        while not ended.path.exists():
            time.sleep(0.01)
        time.sleep(0.5)  # its process reports its end
        os.kill(read(ended)[0], signal.SIGKILL)
        time.sleep(0.5)  # the parent notices
        super().run(log, bar)


def test_a_worker_that_is_killed_between_two_units_costs_nothing(tmp_path, four_cores):
    root = str(tmp_path)
    units = [Note(root, 0), KillIdle(root, 1), *(Note(root, n, after=(1,)) for n in (2, 3))]
    run_all(LocalEngine(workers=2), units)
    processes = {read(unit)[0] for unit in units}
    assert len(processes) == 3  # a new one in place of the first
