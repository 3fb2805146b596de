"""Units on a cluster, with a cluster that runs tasks in this process and loses some of them."""

import os
import re
import socket
import subprocess
import sys
from importlib.util import find_spec
from unittest import mock

import pytest
import torch
from conftest import ROOT, error_line
from tiny_units import Note, PickDevice, read

import pipeline.engines.cluster_units
import run
from ct.config import validate
from ct.errors import InputError
from pipeline.checked_options import AllOptions, CnnOptions
from pipeline.commands.all import stage_command
from pipeline.engines import cluster_task
from pipeline.engines.choice import chosen_engine
from pipeline.engines.cluster_resources import Node, ask, at_once
from pipeline.engines.cluster_task import Caller, differences, marked, parcel, perform, portable
from pipeline.engines.cluster_units import ClusterUnits, TaskLost
from pipeline.progress import no_bar
from pipeline.units.unit import Resources
from stage1_cnn.config import GPU_OF_PROCESS
from stage1_cnn.train_loop import NotANumber

LAPTOP, WORKSTATION = Node("laptop", 4, 0, 16_000), Node("workstation", 16, 4, 128_000)


class Cluster:
    """Runs a task when its end is awaited; loses the tasks of a unit as often as `losses` says."""

    def __init__(self, losses=None, nodes=(LAPTOP,), hidden=()):
        self.losses, self.machines, self.hidden = losses or {}, list(nodes), hidden
        self.tasks, self.names, self.cancelled, self.most = {}, [], [], 0

    def nodes(self):
        return list(self.machines)

    def submit(self, function, arguments, name, asks, environment):
        self.names.append(name)
        self.tasks[len(self.names)] = name, function, arguments
        self.most = max(self.most, len(self.tasks))
        return len(self.names)

    def ended(self, tasks, seconds):
        assert set(tasks) == set(self.tasks)
        return [task for task in tasks[:1] if self.tasks[task][0] not in self.hidden]

    def result(self, task):
        name, function, arguments = self.tasks.pop(task)
        if self.losses.get(name):
            raise self.losses[name].pop()
        return function(*arguments)

    def cancel(self, tasks):
        self.cancelled += [self.tasks[task][0] for task in tasks]


@pytest.fixture
def caller(tmp_path):
    with (
        marked(tmp_path / "locks", "ab" * 8) as marker,
        mock.patch.dict(os.environ),  # `perform` sets variables of its process
    ):
        yield Caller(marker, "ab" * 8, {}, cluster_task.environment())


def run_on(cluster, caller, units, workers=None):
    lines = []
    ClusterUnits(cluster, caller, workers, lines.append, no_bar(None, "", "")).run(units)
    return [line for line in lines if "other versions" not in line]


def test_units_run_after_those_that_they_need_and_no_more_than_allowed_at_once(caller, tmp_path):
    units = [Note(str(tmp_path), 0, after=(1, 2)), *(Note(str(tmp_path), n) for n in range(1, 5))]
    cluster = Cluster()
    lines = run_on(cluster, caller, units, workers=2)
    assert [unit.why_not_done() for unit in units] == [""] * 5
    assert cluster.most == 2
    assert cluster.names == ["notes/1", "notes/2", "notes/3", "notes/0", "notes/4"]
    assert lines[:2] == ["  line of 1", "  note 1"]


def test_a_lost_task_is_tried_again_and_its_machine_is_not_its_fault(caller, tmp_path):
    unit = Note(str(tmp_path), 7)
    killed, lost = TaskLost("its process was killed"), TaskLost("its machine was lost", True)
    cluster = Cluster({"notes/7": [killed, lost, lost, lost, killed]})
    lines = run_on(cluster, caller, [unit])
    assert unit.why_not_done() == "" and len(cluster.names) == 6
    assert lines.count("  notes/7: its machine was lost; it is tried again") == 3


def test_a_unit_whose_process_is_killed_three_times_stops_the_rest(caller, tmp_path):
    units = [Note(str(tmp_path), n) for n in (7, 8)]
    cluster = Cluster({"notes/7": [TaskLost("its process was killed")] * 3})
    cluster.ended = lambda tasks, seconds: [
        task for task in tasks if cluster.tasks[task][0] == "notes/7"
    ]
    with pytest.raises(InputError, match="^notes/7: its process was killed, 3 times, .*ulimit"):
        run_on(cluster, caller, units)
    assert cluster.cancelled == ["notes/8"]


def test_an_error_of_the_program_is_raised_as_itself_and_not_tried_again(caller, tmp_path):
    units = [Note(str(tmp_path), 1, error="a bad file"), Note(str(tmp_path), 2)]
    cluster = Cluster()
    with pytest.raises(InputError, match="^a bad file") as raised:
        run_on(cluster, caller, units)
    assert str(raised.value) == "a bad file"
    assert "tiny_units.py" in raised.value.__notes__[0]
    assert cluster.names.count("notes/1") == 1 and cluster.cancelled == ["notes/2"]


def test_errors_survive_the_way_to_another_process():
    class Nameless(Exception):
        def __init__(self, one, two):
            super().__init__(f"{one}{two}")

    assert type(portable(KeyError("x"))) is KeyError
    assert type(portable(NotANumber("loss", {"slice_ids": []}))) in (NotANumber, InputError)
    assert portable(OSError(28, "No space left on device", "a")).errno == 28
    assert str(portable(Nameless("a", "b"))) == "ab"


def test_a_machine_that_does_not_see_the_run_folder_is_named(caller, tmp_path):
    unit = Note(str(tmp_path), 1)
    for other in (caller._replace(marker=str(tmp_path / "gone")), caller._replace(token="cd")):
        reply = perform(parcel(unit, False), other)
        assert isinstance(reply.error, InputError)
        assert f"{reply.node}, a machine of the cluster, does not see" in str(reply.error)
        assert str(tmp_path) in str(reply.error) and unit.why_not_done()


def test_what_a_finished_unit_wrote_must_be_seen_here(caller, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline.engines.cluster_units, "VISIBLE_SECONDS", 0)
    unit = Note(str(tmp_path), 1)
    cluster = Cluster()
    cluster.result = lambda task: perform(parcel(unit, False), caller)._replace(node="b")
    monkeypatch.setattr(Note, "why_not_done", lambda self, verify=False: "not made yet")
    with pytest.raises(InputError, match="notes/1 is done on b, but not in"):
        run_on(cluster, caller, [unit])


def test_other_versions_are_remarked_once(caller, tmp_path):
    here = {"ich-stack": "1", "torch": "2.9"}
    assert differences("b", here, here) == []
    assert differences("b", {"ich-stack": "2", "torch": "2.9"}, here) == [
        "b has other versions than this machine, numbers may differ: ich-stack 2 (1)"
    ]
    lines, units = [], [Note(str(tmp_path), n) for n in range(3)]
    ClusterUnits(Cluster(), caller, None, lines.append, no_bar(None, "", "")).run(units)
    assert sum("other versions" in line for line in lines) == 1


def test_a_unit_asks_for_what_some_machine_has():
    nodes = [LAPTOP, WORKSTATION]
    assert ask(Resources(2, 1, 50_000, 8000), nodes) == (2, 1, 8000, 0)
    assert ask(Resources(8, 1, 50_000, 8000), nodes) == (
        4,
        1,
        8000,
        0,
    )  # every GPU shall have a unit
    assert ask(Resources(8, 1, 8000, 4000), [LAPTOP]) == (
        4,
        0,
        8000,
        0,
    )  # without a GPU: on its cores
    assert ask(Resources(1, 0, 900_000), nodes) == (1, 0, 128_000, 0)  # it runs alone
    assert ask(Resources(64, 0, 1000), nodes) == (16, 0, 1000, 0)
    assert ask(Resources(1, 0, 64_000), nodes) == (1, 0, 64_000, 0)


def test_units_at_once_are_those_that_fit_on_free_machines():
    assert at_once([Resources(4, 1, 8000)] * 9, [LAPTOP, WORKSTATION]) == 4
    assert at_once([Resources(4, 0, 8000)] * 9, [LAPTOP, WORKSTATION]) == 5
    assert at_once([Resources(1, 0, 50_000)] * 9, [LAPTOP, WORKSTATION]) == 2
    assert at_once([Resources(1, 0, 0)] * 3, [LAPTOP]) == 3
    assert at_once([Resources(1, 0, 0), Resources(1, 1, 0)] * 9, [WORKSTATION], workers=2) == 6


def test_workers_limit_the_units_that_take_no_gpu(caller, tmp_path):
    units = [Note(str(tmp_path), n, gpus=n % 2) for n in range(8)]
    cluster = Cluster(nodes=[WORKSTATION])
    run_on(cluster, caller, units, workers=1)
    assert cluster.names[:5] == ["notes/0", "notes/1", "notes/3", "notes/5", "notes/7"]


def test_a_head_without_cores_runs_no_unit():
    head = Node("head", 0, 0, 900_000)
    assert ask(Resources(8, 0, 1000), [head, LAPTOP]) == (4, 0, 1000, 0)
    assert ask(Resources(8, 0, 1000), [head]) == (8, 0, 1000, 0)  # until a machine joins


def test_a_machine_that_is_gone_for_good_stops_the_run(caller, tmp_path, monkeypatch):
    cluster = Cluster(nodes=[WORKSTATION], hidden=["notes/1"])
    monkeypatch.setattr(pipeline.engines.cluster_units, "PATIENCE", 0)
    units = ClusterUnits(cluster, caller, None, (lines := []).append, no_bar(None, "", ""))
    cluster.machines = [LAPTOP]
    with pytest.raises(
        InputError, match="notes/1: no machine of the cluster has 1 GPU, 1 core and"
    ):
        units.run([Note(str(tmp_path), 1, gpus=1)])
    assert len(lines) == 1 and lines[0].endswith("; waiting for one")


def test_a_unit_waits_for_the_gpu_that_was_lost_and_does_not_train_on_a_processor(
    caller, tmp_path, monkeypatch
):
    asked = []

    class Preempted(Cluster):
        def submit(self, function, arguments, name, asks, environment):
            asked.append(asks.gpus)
            return super().submit(function, arguments, name, asks, environment)

        def result(self, task):
            self.machines = [LAPTOP]
            self.hidden = ["notes/1"]
            return super().result(task)

    monkeypatch.setattr(pipeline.engines.cluster_units, "PATIENCE", 0)
    cluster = Preempted(
        {"notes/1": [TaskLost("its machine was lost", True)]}, [LAPTOP, WORKSTATION]
    )
    with pytest.raises(InputError, match="notes/1: no machine of the cluster has 1 GPU"):
        run_on(cluster, caller, [Note(str(tmp_path), 1, gpus=1)])
    assert asked == [1, 1]


def test_patience_begins_anew_once_a_machine_is_back(caller, tmp_path, monkeypatch):
    """Also where units end all the time, so that there is no pause in which it would be noticed."""
    cluster, clock = Cluster(nodes=[LAPTOP]), [0.0]
    monkeypatch.setattr(pipeline.engines.cluster_units.time, "monotonic", lambda: clock[0])
    units = ClusterUnits(cluster, caller, None, (lines := []).append, no_bar(None, "", ""))
    machines = iter([[], [LAPTOP], [LAPTOP], [], [LAPTOP], [LAPTOP]])
    pauses = iter([True, False, True, False, False, False])

    def ended(tasks, seconds):
        clock[0] += 500
        cluster.machines = next(machines, [LAPTOP])
        return [] if next(pauses, False) else tasks[:1]

    cluster.ended = ended
    units.run([Note(str(tmp_path), n) for n in range(4)])
    assert sum(line.endswith("; waiting for one") for line in lines) == 1
    assert units.unfit_since is None


def test_a_unit_gets_the_variables_that_decide_numbers_and_no_gpu(caller, tmp_path):
    for name in cluster_task.FORWARDED:  # the fixture restores them
        os.environ.pop(name, None)
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    here = cluster_task.environment()
    assert here == dict.fromkeys(cluster_task.FORWARDED) | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    for name, value, seen in (
        ("OMP_NUM_THREADS", "7", "unset"),  # as Ray sets it
        ("CUBLAS_WORKSPACE_CONFIG", ":16:8", ":4096:8"),
        ("CUDA_VISIBLE_DEVICES", "0", "none"),
        ("CUDA_VISIBLE_DEVICES", "3", "3"),
    ):
        os.environ[name] = value
        unit = Note(str(tmp_path), 1, environment=name)
        unit.path.unlink(missing_ok=True)
        reply = perform(parcel(unit, with_gpu=seen == "3"), caller._replace(environment=here))
        assert reply.error is None and read(unit)[1] == seen


def test_a_unit_with_a_gpu_that_torch_does_not_find_is_refused(caller, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    os.environ.update({"CUDA_VISIBLE_DEVICES": "3", GPU_OF_PROCESS: "left over"})
    unit = PickDevice(str(tmp_path), 1)
    error = perform(parcel(unit, with_gpu=True), caller).error
    assert isinstance(error, InputError) and unit.why_not_done()
    assert re.match(rf"GPU 3 of {re.escape(socket.gethostname())}: torch finds no", str(error))
    assert perform(parcel(unit, with_gpu=False), caller).error is None  # which shall have none
    assert read(unit)[1] == "unset"


def test_units_without_gpu_have_their_own_processes_where_there_are_gpus(caller, tmp_path):
    seen = {}

    class Watched(Cluster):
        def submit(self, function, arguments, name, asks, environment):
            seen[name] = dict(environment)
            return super().submit(function, arguments, name, asks, environment)

    units = [Note(str(tmp_path), 0), Note(str(tmp_path), 1, gpus=1)]
    run_on(Watched(nodes=[LAPTOP, WORKSTATION]), caller, units)
    assert seen == {"notes/0": {"CUDA_VISIBLE_DEVICES": ""}, "notes/1": {}}
    run_on(Watched(), caller, [Note(str(tmp_path), 2)])
    assert seen["notes/2"] == {}


def test_a_process_of_a_cluster_loads_no_library_before_its_variables_are_set():
    code = (
        "import sys, pipeline.engines.cluster_task\n"
        "assert not {'numpy', 'pandas', 'torch', 'lightgbm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"engine": "slurm"}, "engine"),
        ({"address": "h:1"}, "--address is for --engine=ray"),
        ({"engine": "ray", "address": "auto"}, "such as 10.0.0.1:6379"),
        ({"engine": "ray", "address": "ray://h:10001"}, "such as 10.0.0.1:6379"),
        ({"engine": "ray", "shard": "1/2"}, "one of --engine=ray and --shard"),
        ({"engine": "ray", "address": "h:1", "gpus": "0"}, "--gpus is for this machine"),
        ({"engine": "ray", "gpus": "cpu,cpu"}, "leave out cpu"),
    ],
)
def test_flags_that_do_not_go_together(options, text):
    with pytest.raises(InputError, match=text):
        validate(CnnOptions, {"run": "r", **options}, "train")


@pytest.mark.parametrize(
    ("flags", "refused"),
    [
        ({"engine": "ray"}, "--engine=ray: not under torchrun"),
        ({"shard": "2/8"}, "--shard=2/8: not under torchrun"),
        ({"gpus": "2,3"}, "--gpus=2,3: not under torchrun.*CUDA_VISIBLE_DEVICES"),
    ],
)
def test_flags_that_are_not_for_torchrun(flags, refused, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=refused), chosen_engine(CnnOptions(run="r", **flags)):
        pass


def test_a_stage_in_its_own_process_gets_the_engine():
    options = AllOptions(run="r", engine="ray", address="h:6379")
    assert stage_command("tune", options)[-2:] == ["--engine=ray", "--address=h:6379"]
    assert "--engine=ray" not in stage_command("folds", options)


def test_without_ray_one_line_says_how_to_install_it(kept, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    (kept / "receipts/predict.json").unlink()
    for path in kept.glob("stage1/*/fold*/predict.json"):
        path.unlink()
    assert run.main(["predict", f"--run={kept}", "--engine=ray"]) == 1
    assert "pip install -e '.[cluster]'" in error_line(capsys)


@pytest.mark.skipif(find_spec("ray") is None, reason="pip install -e '.[cluster]'")
def test_an_address_where_nothing_listens_is_one_line(kept, capsys):
    for path in kept.glob("stage1/*/fold*/predict.json"):
        path.unlink()
    (kept / "receipts/predict.json").unlink()
    words = ["predict", f"--run={kept}", "--engine=ray", "--address=127.0.0.1:1"]
    assert run.main(words) == 1
    assert "--address=127.0.0.1:1: no Ray listens there" in error_line(capsys)
