"""Ray: start one on this machine or connect to a cluster, and run tasks on it.

The only module that imports ray, and only when an engine calls it.
"""

import contextlib
import functools
import importlib.util
import os
import secrets
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ct.errors import InputError, reason_of
from pipeline.engines.cluster_resources import Node
from pipeline.engines.cluster_units import TaskLost
from pipeline.units.unit import Resources

OLDEST = (2, 52)  # the first version with token authentication
INSTALL = "pip install -e '.[cluster]'"
OBJECT_STORE = 100 * 2**20  # bytes of shared memory: replies are a few lines
CONNECT_SECONDS = 10
LONGEST_FOLDER = 30  # characters; the paths of sockets in it must stay below 107
SETTINGS = {  # environment of this process; Ray reads most of it when it is imported
    "RAY_USAGE_STATS_ENABLED": "0",
    # otherwise a driver that `uv run` started makes the environment of each worker anew
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # GPUs are hidden by CUDA_VISIBLE_DEVICES of a task; without this Ray warns about it
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AUTH_MODE": "token",
}
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # Ray binds to 127.0.0.1 alone


class RayCluster:
    """A running Ray. ray: the module"""

    def __init__(self, ray: Any) -> None:
        self.ray = ray
        self.functions: dict[tuple[Callable[..., Any], bool], Any] = {}  # as Ray knows them

    def nodes(self) -> list[Node]:
        """Return the machines that are alive."""
        return [
            Node(
                node["NodeManagerHostname"],
                int(node["Resources"].get("CPU", 0)),
                int(node["Resources"].get("GPU", 0)),
                int(node["Resources"].get("memory", 0)) // 2**20,
            )
            for node in self.ray.nodes()
            if node["Alive"]
        ]

    def submit(
        self,
        function: Callable[..., Any],
        arguments: Sequence[Any],
        name: str,
        asks: Resources,
        environment: Mapping[str, str],
    ) -> Any:
        """Start a task as soon as a machine has what it asks for. Returns its handle.

        Ray never tries it again: its own counts are apart for kills, for memory and for machines.
        """
        options: dict[str, Any] = {
            "num_cpus": asks.cores,
            "num_gpus": asks.gpus,
            "memory": asks.memory_mb * 2**20,
            "max_retries": 0,
            "name": name,
        }
        if environment:  # without it, processes that Ray has started in advance are used
            options["runtime_env"] = {"env_vars": dict(environment)}
        key = function, asks.gpus > 0
        if key not in self.functions:
            # a process that has used a GPU keeps memory of it, and ends after one task
            self.functions[key] = self.ray.remote(max_calls=int(asks.gpus > 0))(function)
        return self.functions[key].options(**options).remote(*arguments)

    def ended(self, tasks: Sequence[Any], seconds: float) -> list[Any]:
        """Wait until a task has ended, or for `seconds`; return those that have."""
        ended, _ = self.ray.wait(list(tasks), num_returns=1, timeout=seconds, fetch_local=False)
        if ended:
            ended, _ = self.ray.wait(
                list(tasks), num_returns=len(tasks), timeout=0, fetch_local=False
            )
        return list(ended)

    def result(self, task: Any) -> Any:
        """Return the result of a task that has ended.

        Raises TaskLost; InputError where Ray has ended, or a machine cannot run the program.
        """
        errors = self.ray.exceptions
        try:
            return self.ray.get(task)
        except errors.NodeDiedError:
            raise TaskLost("its machine was lost", with_node=True) from None
        except errors.OutOfMemoryError:
            raise TaskLost("Ray ended its process for lack of memory") from None
        except (errors.WorkerCrashedError, errors.ObjectLostError):
            raise TaskLost("its process was killed") from None
        except errors.LocalRayletDiedError:
            raise InputError(
                "Ray has ended on this machine; what is finished is kept, "
                "the same command continues"
            ) from None
        except errors.RayError as error:
            raise InputError(
                f"Ray cannot run the program ({_last_line(error)}); on each machine Ray must be "
                "started from the same Python environment, on a disk that all share"
            ) from None

    def cancel(self, tasks: Sequence[Any]) -> None:
        """End tasks in the middle of their work."""
        for task in tasks:
            self.ray.cancel(task, force=True)


@contextlib.contextmanager
def own_ray(cores: int, gpus: Sequence[str], memory_mb: int) -> Iterator[RayCluster]:
    """Start a Ray that only this machine and this process reach; end it with the block.

    gpus: names as in CUDA_VISIBLE_DEVICES
    """
    _check_installed()
    environment = SETTINGS | LOOPBACK | {"RAY_AUTH_TOKEN": _token()}
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    place = None if len(tempfile.gettempdir()) <= LONGEST_FOLDER else "/tmp"
    with (
        _environment(environment),
        tempfile.TemporaryDirectory("", "ich-ray-", place, ignore_cleanup_errors=True) as folder,
        _started(
            address="local",  # without it, RAY_ADDRESS would name another
            num_cpus=cores,
            num_gpus=len(gpus),
            _memory=memory_mb * 2**20,
            object_store_memory=OBJECT_STORE,
            include_dashboard=False,
            _temp_dir=os.path.join(folder, "ray"),  # Ray opens it to everybody; `folder` is not
        ) as cluster,
    ):
        yield cluster


@contextlib.contextmanager
def joined_ray(address: str) -> Iterator[RayCluster]:
    """Connect to the cluster at "host:port", which this machine is part of, for the block."""
    _check_installed()
    _check_reachable(address)
    environment = {name: os.environ.get(name, value) for name, value in SETTINGS.items()}
    with _environment(environment), _started(address=address) as cluster:
        yield cluster


@contextlib.contextmanager
def _started(**options: Any) -> Iterator[RayCluster]:
    """Start or join a Ray, and shut it down at the end. Raises InputError where it fails."""
    ray = _import_ray()
    try:
        try:
            ray.init(log_to_driver=False, logging_level="ERROR", **options)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            if options["address"] == "local":
                raise InputError(f"--engine=ray: Ray did not start: {reason_of(error)}") from None
            raise InputError(
                f"--address={options['address']}: {reason_of(error)}; this machine has to be part "
                "of the cluster, with the same token and version of Ray (docs/scaling.md)"
            ) from None
        yield RayCluster(ray)
    finally:
        ray.shutdown()


def _check_installed() -> None:
    """Raise InputError where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise InputError(f"--engine=ray: Ray is not installed: {INSTALL}")


def _import_ray() -> Any:
    """Import ray, after its settings are in the environment. Raises InputError if it is too old."""
    import ray
    import ray._private.worker as driver

    if tuple(map(int, ray.__version__.split(".")[:2])) < OLDEST:
        raise InputError(
            f"--engine=ray: Ray {ray.__version__} has no token authentication: {INSTALL}"
        )
    # whatever log_to_driver says, Ray prints paragraphs about each process that was killed
    driver.print_to_stdstream = lambda *_, **__: None
    return ray


@functools.cache
def _token() -> str:
    """Return the secret of the Rays of this process: Ray reads it once."""
    return secrets.token_hex(32)


def _check_reachable(address: str) -> None:
    """Raise InputError where nothing listens: Ray itself would try for many minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise InputError(
            f"--address={address}: no Ray listens there ({error.strerror or 'no answer'}); start "
            "one with `ray start --head`, or give no address for a Ray of this machine alone"
        ) from None


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables for the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _last_line(error: Exception) -> str:
    """Return the last line of a Ray error: those before it are a traceback."""
    lines = str(error).strip().splitlines()
    return reason_of(Exception(lines[-1])) if lines else type(error).__name__
