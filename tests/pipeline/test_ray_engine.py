"""Units on a Ray cluster of two machines, which are two raylets here, and on a Ray of its own."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import ROOT
from tiny_units import Note, read

import run
from ct.errors import InputError
from ct.storage.file_formats import read_json
from pipeline.engines.cluster_units import TaskLost
from pipeline.engines.ray_cluster import LOOPBACK, SETTINGS, RayCluster
from pipeline.engines.ray_engine import RayEngine
from pipeline.progress import no_bar
from pipeline.units.unit_lock import LOCKS, is_busy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="pip install -e '.[cluster]'"),
]
MEMORY = 100 * 2**20  # bytes of shared memory for objects, of each machine
LISTEN = "0A"  # state in /proc/net/tcp


@pytest.fixture(scope="module")
def cluster():
    """Two machines with two cores each, and a head that runs no units."""
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory("", "ich-", "/tmp", ignore_cleanup_errors=True) as folder,
    ):
        for name, value in (SETTINGS | LOOPBACK | {"RAY_AUTH_TOKEN": "ab" * 32}).items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", str(ROOT / "tests" / "pipeline"))
        from ray.cluster_utils import Cluster

        head = machine(0) | {"include_dashboard": False, "temp_dir": folder}
        cluster = Cluster(True, head_node_args=head)
        cluster.machines = [cluster.add_node(**machine(2)) for _ in range(2)]
        yield cluster
        cluster.shutdown()


def machine(cores):
    return {"num_cpus": cores, "num_gpus": 0, "object_store_memory": MEMORY}


@pytest.fixture
def engine(cluster):
    with RayEngine(cluster.address, None, None) as engine:
        yield engine


def run_on(engine, units):
    lines = []
    engine.run(units, lines.append, no_bar)
    return lines


def new(folder, competition, recipe):
    words = ["new", f"--run={folder}", f"--recipe={recipe}", f"--data={competition}"]
    assert run.main(words) == 0
    return folder


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def same_numbers(folder, finished):
    for name in ("submission.csv", "stage2/scores.json"):
        assert (folder / name).read_bytes() == (finished / name).read_bytes()


def test_a_run_on_two_machines_makes_the_same_files(
    cluster, competition, stacking, finished, tmp_path
):
    folder = new(tmp_path / "r", competition, stacking)
    words = ["all", f"--run={folder}", "--engine=ray", f"--address={cluster.address}"]
    assert run.main(words) == 0
    same_numbers(folder, finished)
    receipt = read_json(folder / "receipts" / "train.json")
    assert (receipt["engine"], receipt["units_at_once"]) == ("ray", 2)
    assert not (folder / LOCKS).exists()


def test_processes_and_machines_see_no_gpu_and_run_side_by_side(engine, tmp_path):
    units = [Note(str(tmp_path), n, together=((n + 1) % 4,)) for n in range(4)]
    run_on(engine, units)
    assert engine.at_once() == engine.cores() == 4
    assert {read(unit)[1] for unit in units} == {"none"}


def test_a_killed_process_costs_its_unit_alone(engine, tmp_path, capfd):
    units = [Note(str(tmp_path), 0, killed=1), *(Note(str(tmp_path), n) for n in range(1, 6))]
    lines = run_on(engine, units)
    assert [unit.why_not_done() for unit in units] == [""] * 6
    assert "  notes/0: its process was killed; it is tried again" in lines
    with pytest.raises(InputError, match="notes/6: its process was killed, 3 times"):
        run_on(engine, [Note(str(tmp_path), 6, killed=9)])
    assert (tmp_path / "6.attempts").stat().st_size == 3
    assert capfd.readouterr() == ("", "")  # nothing of Ray's own


def test_an_error_of_the_program_is_raised_once_and_as_itself(cluster, engine, tmp_path):
    long = Note(str(tmp_path), 1, seconds=60)
    with pytest.raises(InputError, match="a bad file of Smith"):
        run_on(engine, [long, Note(str(tmp_path), 0, together=(1,), error="a bad file of Smith")])
    assert (tmp_path / "0.attempts").stat().st_size == 1
    assert long.why_not_done()
    wait_for(lambda: not is_busy(long), seconds=20)  # its process was ended
    logs = [
        path.read_text(encoding="utf-8", errors="replace")
        for path in Path(cluster.head_node.get_session_dir_path()).rglob("logs/*")
        if path.is_file()
    ]
    assert any("notes/0" in text or "perform" in text for text in logs)  # Ray's own words
    assert not any("Smith" in text for text in logs)


def test_the_machines_share_the_threads_and_settings_of_the_caller(engine, tmp_path, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    for threads in ("1", None):
        if threads is None:
            monkeypatch.delenv("OMP_NUM_THREADS")
        unit = Note(str(tmp_path), int(threads or 0), environment="OMP_NUM_THREADS", cores=2)
        run_on(engine, [unit])
        assert read(unit)[1] == (threads or "unset")  # not the number that Ray sets


def train_and_lose_a_machine(folder, cluster):
    """Train on a cluster, and remove one of its machines once both folds are begun."""
    words = ["train", f"--run={folder}", "--engine=ray", f"--address={cluster.address}"]
    with subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        wait_for(lambda: len(list((folder / LOCKS).glob("train.*fold*.lock"))) == 2)
        cluster.remove_node(cluster.machines.pop(), allow_graceful=False)
        output = process.communicate()[0]
    cluster.machines.append(cluster.add_node(**machine(2)))
    assert process.returncode == 0, output
    return output


def test_a_machine_that_is_lost_while_it_trains(cluster, competition, stacking, finished, tmp_path):
    """Its fold is trained on the other one: the files are the same."""
    for attempt in range(4):  # a fold of a second may end before its machine does
        folder = new(tmp_path / f"r{attempt}", competition, stacking)
        for verb in ("ingest", "folds"):
            assert run.main([verb, f"--run={folder}"]) == 0
        output = train_and_lose_a_machine(folder, cluster)
        if "its machine was lost" in output:
            break
    assert output.count("its machine was lost; it is tried again") == 1
    assert "raylet" not in output
    assert run.main(["all", f"--run={folder}"]) == 0
    same_numbers(folder, finished)


def test_ray_of_its_own_listens_on_this_machine_alone_and_ends_with_ctrl_c(
    competition, stacking, finished, tmp_path
):
    folder = new(tmp_path / "r", competition, stacking)
    mark = f"ICH_TEST={os.getpid()}-{time.time()}"
    name, _, value = mark.partition("=")
    for verb in ("ingest", "folds"):
        assert run.main([verb, f"--run={folder}"]) == 0
    place = tmp_path_for_sockets()
    with subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), "train", f"--run={folder}", "--engine=ray"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {name: value, "TMPDIR": str(place)},
        start_new_session=True,
    ) as process:
        wait_for(lambda: list((folder / LOCKS).glob("train.*fold*.lock")))
        [ray_folder] = place.iterdir()
        assert ray_folder.stat().st_mode & 0o777 == 0o700
        addresses = listening(processes(mark))
        assert addresses and all(each in ("127.0.0.1", "::1") for each in addresses)
        os.killpg(process.pid, signal.SIGINT)
        errors = process.communicate()[1]
    assert process.returncode == 130
    assert [line[:20] for line in errors.splitlines() if "units in" not in line] == [
        "error: interrupted; "
    ]
    wait_for(lambda: not processes(mark), seconds=20)
    assert not list(place.iterdir())
    place.rmdir()
    assert run.main(["all", f"--run={folder}", "--workers=1"]) == 0
    same_numbers(folder, finished)


def tmp_path_for_sockets():
    """A short folder: paths of sockets are limited to 107 bytes."""
    return Path(tempfile.mkdtemp(prefix="ich-", dir="/tmp"))


def processes(mark):
    """{process: files that it has open} of those whose environment has `mark`."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (path / "environ").read_bytes().split(b"\0"):
                found[path.name] = [os.readlink(each) for each in (path / "fd").iterdir()]
        except OSError:  # it has ended
            continue
    return found


def listening(found):
    """Addresses on which processes listen."""
    addresses = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            open_files = {each for files in found.values() for each in files}
            if state == LISTEN and f"socket:[{rest[5]}]" in open_files:
                addresses.append(address(local.split(":")[0]))
    return addresses


def address(digits):
    """An address of /proc/net/tcp as text; IPv4 within IPv6 as IPv4."""
    import ipaddress

    words = [bytes.fromhex(digits[start : start + 8])[::-1] for start in range(0, len(digits), 8)]
    found = ipaddress.ip_address(b"".join(words))
    return str(getattr(found, "ipv4_mapped", None) or found)


def test_no_verb_imports_ray_unless_it_is_asked_for(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "r")
    for path in (*folder.glob("stage1/*/fold*/predict.json"), folder / "receipts/predict.json"):
        path.unlink()
    code = (
        "import sys, run\n"
        f"for verb in ('status', 'all'): assert run.main([verb, '--run={folder}']) == 0\n"
        "assert 'torch' in sys.modules and 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_what_ended_a_task_is_told_apart():
    """Ray counts kills, memory and machines apart; here all of them end in one count each."""
    errors = pytest.importorskip("ray").exceptions

    class Ray:
        exceptions = errors

        @staticmethod
        def get(error):
            raise error

    for error, text, with_node in (
        (errors.OutOfMemoryError("x"), "for lack of memory", False),
        (errors.WorkerCrashedError(), "process was killed", False),
        (errors.NodeDiedError("x"), "machine was lost", True),
        (errors.OwnerDiedError("ab", None, ""), "process was killed", False),
    ):
        with pytest.raises(TaskLost, match=text) as lost:
            RayCluster(Ray).result(error)
        assert lost.value.with_node is with_node
    with pytest.raises(InputError, match="Ray has ended on this machine"):
        RayCluster(Ray).result(errors.LocalRayletDiedError())
    with pytest.raises(InputError, match="cannot run the program .no module"):
        RayCluster(Ray).result(errors.RaySystemError("traceback\nno module"))
