"""Shards divide the units of a stage: each unit once, and no shard hangs without the others."""

import multiprocessing
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest
from fake_units import FakeUnit, fake_units

from ct.config import validate
from ct.errors import InputError
from ct.storage.file_lock import file_lock
from pipeline.checked_options import AllOptions, UnitOptions
from pipeline.engines import shard_engine
from pipeline.engines.choice import chosen_engine
from pipeline.engines.local_engine import LocalEngine
from pipeline.engines.shard_engine import ShardEngine
from pipeline.progress import no_bar
from pipeline.units.unit import UnitsLeft
from pipeline.units.unit_lock import join_lock, lock_path, stage_of_shards, unit_lock
from pipeline.units.unit_runner import run_unit


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(shard_engine, "PAUSE", 0.01)


def run_shard(units, number, count, log=lambda line: None):
    """Run one shard of a plan, in this process. Returns how many units are left, as it says."""
    engine = ShardEngine(number, count, LocalEngine(workers=1, wait_for_locks=False))
    engine.plan(units)
    try:
        engine.run([unit for unit in units if unit.why_not_done(True)], log, no_bar)
    except UnitsLeft as error:
        assert error.total == len(units)
        return error.left
    return 0


def runs(units):
    return "".join(str(unit.runs()) for unit in units)


def test_each_does_its_own_units_and_the_last_one_ends_the_stage(tmp_path):
    units = fake_units(tmp_path, "abcde")
    assert run_shard(units, 1, 2) == 2
    assert runs(units) == "10101"
    assert run_shard(units, 2, 2) == 0
    assert runs(units) == "11111"


def test_the_division_does_not_depend_on_what_is_done(tmp_path):
    """Shards start at different times, and a killed one is called again."""
    units = fake_units(tmp_path, "abcdef")
    for unit in (units[0], units[3]):
        unit.run(None, None)
    assert run_shard(units, 2, 3) == 2
    assert runs(units) == "110110"
    assert run_shard(units, 1, 3) == 2
    assert runs(units) == "110110"  # both of its units were done
    assert run_shard(units, 3, 3) == 0


def test_four_shards_at_once_do_each_unit_once_and_one_of_them_ends_the_stage(tmp_path):
    units = fake_units(tmp_path, [f"u{number:02}" for number in range(20)], seconds=0.002)
    with ThreadPoolExecutor(4) as pool:  # locks exclude threads as they exclude processes
        left = list(pool.map(lambda number: run_shard(units, number, 4), (1, 2, 3, 4)))
    assert runs(units) == "1" * 20 and 0 in left


def test_units_may_use_the_cores_of_all_shards():
    engine = ShardEngine(2, 8, LocalEngine(workers=1))
    assert (engine.name, engine.cores(), engine.at_once()) == ("8 shards", 8, 1)
    assert ShardEngine(1, 1, LocalEngine(workers=1)).name == "1 shard"


def test_more_shards_than_units(tmp_path):
    units = fake_units(tmp_path, "ab")
    assert run_shard(units, 7, 8) == 2
    assert runs(units) == "00"


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_unit_that_extends_the_plan_is_made_though_no_other_shard_is_there(tmp_path, number):
    chunks = fake_units(tmp_path, "abcd")
    units = [*chunks, FakeUnit(str(tmp_path), "slices", tuple("abcd"), opens=True)]
    assert run_shard(units, number, 3) == 0
    assert runs(units) == "11111"


def test_what_an_own_unit_needs_is_made_and_nothing_else_of_others(tmp_path):
    root = str(tmp_path)
    units = [
        FakeUnit(root, "matrix"),
        FakeUnit(root, "own", ("matrix",)),
        FakeUnit(root, "other"),
        FakeUnit(root, "their own", ("matrix", "other")),
    ]
    assert run_shard(units, 2, 4) == 2
    assert runs(units) == "1100"


def test_three_shards_at_once_with_needs_between_them(tmp_path):
    labels = [f"c{number}" for number in range(9)]
    units = fake_units(tmp_path, labels, seconds=0.002)
    units.append(FakeUnit(str(tmp_path), "slices", tuple(labels), opens=True, seconds=0.01))
    with ThreadPoolExecutor(3) as pool:
        left = list(pool.map(lambda number: run_shard(units, number, 3), (1, 2, 3)))
    assert runs(units) == "1" * 10 and left == [0, 0, 0]


@pytest.mark.parametrize("finishes", [True, False])
@pytest.mark.parametrize("label", ["own", "needed"])
def test_a_unit_that_another_process_does_is_waited_for(tmp_path, finishes, label):
    """If that process is killed, the shard does it."""
    root = str(tmp_path)
    units = [FakeUnit(root, "needed"), FakeUnit(root, "own", ("needed",))]
    busy = next(unit for unit in units if unit.label == label)
    with ThreadPoolExecutor(1) as pool:
        with unit_lock(busy, wait=False) as held:
            assert held
            lines = []
            shard = pool.submit(run_shard, units, 2, 2, lines.append)
            time.sleep(0.1)
            assert not shard.done() and busy.runs() == 0
            assert lines == [f"  waits for work/{label}, which another process does"]
            if finishes:
                busy.path("receipt").touch()
        assert shard.result(timeout=10) == 0
    assert busy.runs() == (0 if finishes else 1)


def test_two_processes_never_do_one_unit_at_the_same_time(tmp_path):
    """The second one waits, or leaves it, and does not do it again."""
    unit = FakeUnit(str(tmp_path), "a", seconds=0.5)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        outcomes = list(pool.map(run_unit, [unit, unit, unit], [True, True, False]))
    assert unit.runs() == 1 and [outcome.busy for outcome in outcomes[:2]] == [False, False]


def test_damage_that_only_the_content_shows_is_repaired_by_whoever_finds_it(tmp_path):
    """Else a shard that sees only sizes and times would count the unit among the done ones."""
    units = fake_units(tmp_path, "abcd")
    for unit in units:
        unit.run(None, None)
    units[1].path("damage").touch()  # of shard 2
    assert run_shard(units, 1, 2) == 0
    assert runs(units) == "1211"


def test_a_unit_that_is_never_done_is_not_run_for_ever(tmp_path):
    units = [FakeUnit(str(tmp_path), "broken", ever_done=False)]
    with pytest.raises(RuntimeError, match="work/broken was run 10 times, but: not made yet"):
        run_shard(units, 1, 1)


def test_an_error_of_a_unit_is_raised(tmp_path):
    units = [FakeUnit(str(tmp_path), "a")]
    units[0].path("running").touch()
    with pytest.raises(FileExistsError):
        run_shard(units, 1, 1)


WRONG = ["0/8", "9/8", "2", "2/", "/8", "2/8/1", "a/b", "-1/8", "1./8", ""]


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_shard_is_refused(text):
    with pytest.raises(InputError, match="shard = .*the shards of eight are 1/8 to 8/8"):
        validate(UnitOptions, {"run": "r", "shard": text}, "train")


def test_shards_are_of_one_stage():
    with pytest.raises(InputError, match="shard = '1/2': shards are of one stage"):
        validate(AllOptions, {"run": "r", "shard": "1/2"}, "all")


def test_the_engine_of_a_shard_waits_for_no_lock():
    with chosen_engine(UnitOptions(run="r", shard="2/8")) as engine:
        assert (engine.number, engine.count, engine.local.wait_for_locks) == (2, 8, False)


def test_shards_of_one_stage_are_together_and_those_of_two_stages_are_not(tmp_path):
    with stage_of_shards(tmp_path, "train") as first, stage_of_shards(tmp_path, "train") as second:
        assert first == second == ""
        with stage_of_shards(tmp_path, "ingest") as other:
            assert other == "train"
    with stage_of_shards(tmp_path, "ingest") as other:
        assert other == ""


def test_a_stage_is_joined_by_one_process_at_a_time(tmp_path):
    order, inside = [], threading.Event()

    def join(number):
        with join_lock(tmp_path, "train") as held:
            assert held
            order.append((number, "in"))
            inside.set()
            time.sleep(0.05)
            order.append((number, "out"))

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(join, 1)
        inside.wait(10)
        with join_lock(tmp_path, "train", wait=False) as held:
            assert not held
        pool.submit(join, 2).result(10)
        first.result(10)
    assert order == [(1, "in"), (1, "out"), (2, "in"), (2, "out")]


def test_locks_of_different_units_have_different_files_and_private_ones(tmp_path):
    names = ["a/fold1", "a-fold1", "a_fold1"]
    paths = {lock_path(unit) for unit in fake_units(tmp_path, names)}
    assert len(paths) == 3
    with unit_lock(FakeUnit(str(tmp_path), "a"), wait=False) as held:
        assert held and (tmp_path / "locks").stat().st_mode & 0o777 == 0o700
    (tmp_path / "locks/work.a.lock").unlink()
    (tmp_path / "locks/work.a.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is a link"), file_lock(tmp_path / "locks/work.a.lock"):
        pass
