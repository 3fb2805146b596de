"""The engine of a cluster: units as tasks of Ray, on this machine or on many.

A machine that dies costs the units that it was on; they are tried again. No more than a unit's name
and lines for the log pass through Ray: a unit reads and writes the run folder, which has to be on a
disk that all machines share.
"""

import contextlib
import secrets
from collections.abc import Sequence
from types import TracebackType

from ct.system.machine_memory import free_memory_mb
from ct.system.parallel_jobs import cores
from pipeline.engines.cluster_resources import ask, at_once
from pipeline.engines.cluster_task import Caller, environment, marked, program
from pipeline.engines.cluster_units import ClusterUnits
from pipeline.engines.local_engine import visible_gpus
from pipeline.engines.ray_cluster import RayCluster, joined_ray, own_ray
from pipeline.units.progress_files import shown_progress
from pipeline.units.unit import Log, MakeBar, Unit
from pipeline.units.unit_lock import lock_path


class RayEngine:
    """Runs units on Ray: one of its own on this machine, or the cluster at `address`.

    Used in a `with` block, which ends the Ray of its own, and the connection to another.
    """

    name = "ray"

    def __init__(
        self, address: str | None, workers: int | None, devices: Sequence[str] | None
    ) -> None:
        """address: "host:port"; workers: units at the same time that take no GPU; None: as fit.

        devices: GPUs of a Ray of its own, as in CUDA_VISIBLE_DEVICES; None: all visible GPUs
        """
        self.address, self.workers, self.devices = address, workers, devices
        self._stack = contextlib.ExitStack()
        self._cluster: RayCluster | None = None
        self._with_gpus = False
        self._at_once = 1

    def __enter__(self) -> "RayEngine":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        self._cluster = None

    def cores(self) -> int:
        """Return the processor cores of this machine, or of all machines of the cluster."""
        if self.address is None:
            return cores()
        return sum(node.cores for node in self._connected(False).nodes())

    def at_once(self) -> int:
        """Return how many units ran at the same time in the last call of `run`, at most."""
        return self._at_once

    def run(self, units: Sequence[Unit], log: Log, bar: MakeBar) -> None:
        """Run units as `Engine.run` describes."""
        if not units:
            return
        cluster = self._connected(any(unit.takes().gpus for unit in units))
        nodes = cluster.nodes()
        self._at_once = at_once([ask(unit.takes(), nodes) for unit in units], nodes, self.workers)
        folder, token = lock_path(units[0]).parent, secrets.token_hex(16)
        with (
            marked(folder, token) as marker,
            bar(len(units), units[0].name.partition("/")[0], "unit") as stage_bar,
            shown_progress(folder, stage_bar),
        ):
            caller = Caller(marker, token, program(), environment())
            ClusterUnits(cluster, caller, self.workers, log, stage_bar).run(units)

    def _connected(self, with_gpus: bool) -> RayCluster:
        """Return the cluster; start or join it at the first call."""
        if self._cluster and (self.address or self._with_gpus >= with_gpus):
            return self._cluster
        self._stack.close()  # a Ray that was started for units without GPUs
        if self.address is not None:
            started = joined_ray(self.address)
        else:
            gpus = visible_gpus() if self.devices is None and with_gpus else self.devices or []
            started = own_ray(cores(), gpus, free_memory_mb())
        self._cluster, self._with_gpus = self._stack.enter_context(started), with_gpus
        return self._cluster
