"""What a process of a cluster does with a unit: check that it can, run it, and reply.

Nothing that sets the number of its threads when it is imported is imported at the top: Ray changes
OMP_NUM_THREADS before a task, which `perform` undoes.
"""

import contextlib
import dataclasses
import importlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ct.errors import InputError
from pipeline.units.portable_errors import portable

if TYPE_CHECKING:
    from pipeline.units.unit import Unit

# variables that decide numbers: those of the process that called have to hold in all
FORWARDED = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "CUBLAS_WORKSPACE_CONFIG",
)
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}


class Parcel(NamedTuple):
    """A unit as a message of plain values: reading it imports nothing."""

    location: str  # "module:class"
    fields: dict[str, Any]
    with_gpu: bool


class Caller(NamedTuple):
    """What a process compares with the process that called."""

    marker: str  # path of a file in the run folder
    token: str  # what is in it
    program: dict[str, str]  # as `program` returns it
    environment: dict[str, str | None]  # as `environment` returns it


class Reply(NamedTuple):
    """What became of a unit."""

    node: str  # name of the machine
    lines: list[str]  # for the log
    remarks: list[str]  # differences from the program of the caller
    error: Exception | None = None


def parcel(unit: "Unit", with_gpu: bool) -> Parcel:
    """Return a unit as a message; its run folder has an absolute path there."""
    fields = {field.name: getattr(unit, field.name) for field in dataclasses.fields(unit)}
    fields["root"] = os.path.abspath(unit.root)
    return Parcel(f"{type(unit).__module__}:{type(unit).__qualname__}", fields, with_gpu)


def environment() -> dict[str, str | None]:
    """Return {variable: value} that units get: None for one that is not set here."""
    return {name: os.environ.get(name) for name in FORWARDED}


def program() -> dict[str, str]:
    """Return {name: version} of what decides the numbers: this program and its packages."""
    from pipeline.receipt import commit, versions

    return {"ich-stack": commit(), **versions()}


@contextlib.contextmanager
def marked(folder: Path, token: str) -> Iterator[str]:
    """Yield the path of a file with `token` in a folder of the run; it is removed at the end."""
    folder.mkdir(exist_ok=True)
    path = folder / f"cluster-{token[:12]}.mark"
    path.write_text(token, encoding="ascii")
    try:
        yield os.path.abspath(path)
    finally:
        path.unlink(missing_ok=True)


def perform(parcel: Parcel, caller: Caller) -> Reply:
    """Run a unit, unless it is done. An error is returned, not raised: Ray would log its text."""
    _set_environment({**caller.environment, **({} if parcel.with_gpu else NO_GPU)})
    node = socket.gethostname()
    with (
        open(os.devnull, "w", encoding="utf-8") as devnull,
        # a cluster keeps what is printed; it may hold names of files
        contextlib.redirect_stdout(devnull),
        contextlib.redirect_stderr(devnull),
    ):
        try:
            _check_shared(caller, parcel, node)
            _set_environment(gpu_of_process(parcel.with_gpu, node))
            from pipeline.units.unit_runner import run_unit

            module, name = parcel.location.split(":")
            unit = getattr(importlib.import_module(module), name)(**parcel.fields)
            lines = run_unit(unit).lines
            return Reply(node, lines, differences(node, program(), caller.program))
        except Exception as error:
            return Reply(node, [], [], portable(error))


def gpu_of_process(with_gpu: bool, node: str) -> dict[str, str | None]:
    """Return the variable by which `pick_device` refuses the CPU where the GPU is not found.

    A unit that shall have a GPU would else run on the CPU, for days. with_gpu: whether the cluster
    has given this process a GPU; node: the name of the machine
    """
    from stage1_cnn.config import GPU_OF_PROCESS

    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return {GPU_OF_PROCESS: f"{gpu} of {node}".strip() if with_gpu else None}


def differences(node: str, there: dict[str, str], here: dict[str, str]) -> list[str]:
    """Return a line where the versions of a machine differ from those of the caller, else none."""
    names = [name for name in {**here, **there} if here.get(name) != there.get(name)]
    if not names:
        return []
    listed = ", ".join(
        f"{name} {there.get(name, 'none')} ({here.get(name, 'none')})" for name in names
    )
    return [f"{node} has other versions than this machine, numbers may differ: {listed}"]


def _set_environment(values: dict[str, str | None]) -> None:
    """Set variables, and remove those that are None, before a library that reads them is loaded."""
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _check_shared(caller: Caller, parcel: Parcel, node: str) -> None:
    """Raise InputError where this machine does not see the run folder of the caller."""
    try:
        seen = Path(caller.marker).read_text(encoding="ascii") == caller.token
    except OSError:
        seen = False
    if not seen:
        raise InputError(
            f"{node}, a machine of the cluster, does not see the run folder "
            f"{parcel.fields['root']}: it has to be on a disk that all machines share, under the "
            "same path"
        )
