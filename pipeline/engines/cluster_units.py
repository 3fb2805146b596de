"""Units as tasks of a cluster: what is submitted, what is tried again, when to give up."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from ct.errors import InputError
from pipeline.engines.cluster_resources import Node, ask, fits, shown
from pipeline.engines.cluster_task import NO_GPU, Caller, Reply, parcel, perform
from pipeline.engines.local_engine import TRIES
from pipeline.progress import Bar
from pipeline.units.unit import Log, Resources, Unit

AHEAD = 1000  # units that the cluster has at the same time, running or waiting for a machine
MACHINES = 10  # that may be lost while they run the same unit
PAUSE = 5.0  # seconds until the machines are counted again, while no unit ends
PATIENCE = 600.0  # seconds without a machine that has what a unit asks for
VISIBLE_SECONDS = 90.0  # until a finished unit is seen here: network disks keep old listings


class TaskLost(Exception):
    """A task ended without a result, through no error of its own. Its text says why.

    with_node: its machine was lost
    """

    def __init__(self, why: str, with_node: bool = False) -> None:
        super().__init__(why)
        self.with_node = with_node


class Cluster(Protocol):
    """Machines that run tasks; pipeline.engines.ray_cluster has Ray's."""

    def nodes(self) -> list[Node]:
        """Return the machines that are alive."""

    def submit(
        self,
        function: Callable[..., Any],
        arguments: Sequence[Any],
        name: str,
        asks: Resources,
        environment: Mapping[str, str],
    ) -> Any:
        """Start a task as soon as a machine has what it asks for. Returns its handle.

        Tasks with different `environment` run in different processes.
        """

    def ended(self, tasks: Sequence[Any], seconds: float) -> list[Any]:
        """Wait until a task has ended, or for `seconds`; return those that have."""

    def result(self, task: Any) -> Any:
        """Return the result of a task that has ended. Raises TaskLost, InputError."""

    def cancel(self, tasks: Sequence[Any]) -> None:
        """End tasks in the middle of their work."""


class Submitted(NamedTuple):
    """A unit that the cluster has."""

    unit: Unit
    asks: Resources


class ClusterUnits:
    """Runs the units of one call on a cluster.

    workers: units at the same time that take no GPU; None: as many as fit
    """

    def __init__(
        self, cluster: Cluster, caller: Caller, workers: int | None, log: Log, bar: Bar
    ) -> None:
        self.cluster, self.caller, self.workers = cluster, caller, workers
        self.log, self.bar = log, bar
        self.nodes: list[Node] = []
        self.had_gpus = False
        self._count_machines()
        self.takes: dict[str, Resources] = {}
        self.submitted: dict[Any, Submitted] = {}  # by the handle of the task
        self.losses: dict[tuple[str, bool], int] = {}  # by unit, and whether the machine was lost
        self.remarked: set[str] = set()
        self.unfit_since: float | None = None

    def run(self, units: Sequence[Unit]) -> None:
        """Run units, each after those that it needs."""
        waiting, not_done = list(units), {unit.name for unit in units}
        self.takes = {unit.name: unit.takes() for unit in units}  # some read the recipe for it
        try:
            while waiting or self.submitted:
                waiting = self._submit_ready(waiting, not_done)
                ended = self.cluster.ended(list(self.submitted), PAUSE)
                if not ended or self.unfit_since is not None:
                    self._check_machines()
                for task in ended:
                    unit, _ = self.submitted.pop(task)
                    if self._is_done(unit, task):
                        not_done.discard(unit.name)
                    else:
                        waiting.insert(0, unit)
        except BaseException:
            self.cluster.cancel(list(self.submitted))  # they may run for hours
            raise

    def _submit_ready(self, waiting: Sequence[Unit], not_done: set[str]) -> list[Unit]:
        """Submit the units whose needs are done, in their order. Returns the others."""
        left = []
        for unit in waiting:
            if len(self.submitted) >= AHEAD or not_done.intersection(unit.needs):
                left.append(unit)
                continue
            asks = ask(self.takes[unit.name], self.nodes, self.had_gpus)
            if self.workers and not asks.gpus and self._without_gpu() == self.workers:
                left.append(unit)
                continue
            message = parcel(unit, with_gpu=asks.gpus > 0), self.caller
            task = self.cluster.submit(perform, message, unit.name, asks, self._apart(asks))
            self.submitted[task] = Submitted(unit, asks)
        return left

    def _is_done(self, unit: Unit, task: Any) -> bool:
        """Log what a unit did; return whether it must not be tried again.

        Raises the unit's error.
        """
        try:
            reply: Reply = self.cluster.result(task)
        except TaskLost as loss:
            self._count(unit, loss)
            return False
        if reply.error is not None:
            raise reply.error
        for remark in reply.remarks:
            if remark not in self.remarked:
                self.remarked.add(remark)
                self.log(f"  {remark}")
        self._wait_until_seen(unit, reply.node)
        for line in reply.lines:
            self.log(line)
        self.bar.update()
        return True

    def _count(self, unit: Unit, loss: TaskLost) -> None:
        """Count a loss of a unit's task. Raises InputError after too many of them."""
        key = unit.name, loss.with_node
        times = self.losses[key] = self.losses.get(key, 0) + 1
        self._count_machines()
        if times == (MACHINES if loss.with_node else TRIES):
            raise InputError(
                f"{unit.name}: {loss}, {times} times, perhaps because memory or open files ran out "
                "(ulimit -a); what is finished is kept, the same command continues"
            )
        self.log(f"  {unit.name}: {loss}; it is tried again")

    def _check_machines(self) -> None:
        """Count the machines anew.

        Raises InputError where for PATIENCE none has had what a unit asks for.
        """
        self._count_machines()
        unfit = next((s for s in self.submitted.values() if not self._fits(s.asks)), None)
        if unfit is None:
            self.unfit_since = None
            return
        lacks = f"{unfit.unit.name}: no machine of the cluster has {shown(unfit.asks)}"
        if self.unfit_since is None:
            self.unfit_since = time.monotonic()
            self.log(f"  {lacks}; waiting for one")
        elif time.monotonic() - self.unfit_since > PATIENCE:
            raise InputError(f"{lacks}; what is finished is kept, the same command continues")

    def _count_machines(self) -> None:
        self.nodes = self.cluster.nodes()
        self.had_gpus |= any(node.gpus for node in self.nodes)

    def _without_gpu(self) -> int:
        return sum(not submitted.asks.gpus for submitted in self.submitted.values())

    def _apart(self, asks: Resources) -> Mapping[str, str]:
        """Return the environment that a unit's process has from its start, {} for any process.

        Where there are GPUs, units without one get processes of their own: no process can use a
        GPU after libraries have found that it sees none. Ray itself hides no GPU from them.
        """
        return NO_GPU if not asks.gpus and self.had_gpus else {}

    def _fits(self, asks: Resources) -> bool:
        return any(fits(asks, node) for node in self.nodes)

    def _wait_until_seen(self, unit: Unit, node: str) -> None:
        """Wait until this machine sees what a unit wrote. Raises InputError where it does not."""
        patience = time.monotonic() + VISIBLE_SECONDS
        while why := unit.why_not_done():
            if time.monotonic() > patience:
                raise InputError(
                    f"{unit.name} is done on {node}, but not in {unit.root} as this machine sees "
                    f"it ({why}): the run folder has to be on a disk that all machines share"
                )
            time.sleep(1)
