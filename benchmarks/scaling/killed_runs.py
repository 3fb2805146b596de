"""Runs whose workers, shards or nodes are killed: nothing is lost but the time of a unit.

A process that does a unit holds the unit's lock: so the system names the process that a kill must
hit, whichever engine started it.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.scaling.ray_nodes import Nodes
from benchmarks.scaling.same_bytes import CPU, SHARDS, command, finish, start
from pipeline.registry import STAGES
from pipeline.units.unit_lock import LOCKS

POLL = 0.05  # seconds

Hits = dict[str, str]  # stage -> the unit whose process was killed


def unit_holders(run: Path) -> list[tuple[str, str, int]]:
    """Return (stage, unit, process) of the units that processes of this machine do."""
    names = {}
    for path in (run / LOCKS).glob("*.lock"):
        with contextlib.suppress(FileNotFoundError):  # a verb that ends removes lock files
            names[path.stat().st_ino] = path.name.removesuffix(".lock")
    holders = []
    for line in Path("/proc/locks").read_text(encoding="utf-8").splitlines():
        words = line.split()  # such as 1: FLOCK ADVISORY WRITE 123 fe:00:456 0 EOF
        if words[1:4] != ["FLOCK", "ADVISORY", "WRITE"]:  # a process that waits has -> there
            continue
        name = names.get(int(words[5].rpartition(":")[2]), "")
        stage, _, unit = name.partition(".")
        if unit and unit not in ("join", "shards"):
            holders.append((stage, name, int(words[4])))
    return holders


def ancestors(process: int) -> list[int]:
    """Return the processes that started a process, its parent first."""
    found = []
    while process > 1:
        try:
            status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
        except OSError:  # it has just ended
            break
        process = int(status.partition("PPid:")[2].split()[0])
        found.append(process)
    return found


@contextlib.contextmanager
def kills(run: Path, hit: Callable[[str, int], bool], delay: float) -> Iterator[Hits]:
    """Kill processes that do units, one in each stage, until the block ends.

    hit: called with the stage and a process that does a unit of it for `delay` seconds, until it
    returns True. Yields the units that were hit.
    """
    hits: Hits = {}
    over = threading.Event()

    def watch() -> None:
        since: dict[tuple[str, int], float] = {}
        while not over.wait(POLL):
            now, holders = time.monotonic(), unit_holders(run)
            since = {(unit, pid): since.get((unit, pid), now) for _, unit, pid in holders}
            for stage, unit, pid in holders:
                if stage not in hits and now - since[unit, pid] >= delay and hit(stage, pid):
                    hits[stage] = unit

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield hits
    finally:
        over.set()
        thread.join()


def kill(process: int) -> bool:
    """Kill a process. Returns whether it was still there."""
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def with_workers_killed(delay: float) -> Callable[[Path], Hits]:
    """Return a function that runs all stages in two places, and kills a worker in each stage.

    What runs in the process of the command itself is not hit. delay: as in `kills`
    """

    def run_all(run: Path) -> Hits:
        process = start("all", f"--run={run}", "--workers=2", "--gpus=cpu,cpu")

        def hit(_: str, pid: int) -> bool:
            return pid != process.pid and kill(pid)

        with kills(run, hit, delay) as hits:
            finish(process)
        return hits

    return run_all


def with_shards_killed(delay: float) -> Callable[[Path], Hits]:
    """Return a function that runs each stage by four shards at once, of which one is killed.

    It is called again. What no shard divides is done by one process.
    """

    def run_all(run: Path) -> Hits:
        all_hits: Hits = {}
        for name, stage in STAGES.items():
            if stage.units:
                all_hits |= _kill_shard(run, name, delay)
            else:
                command(name, f"--run={run}")
        return all_hits

    return run_all


def _kill_shard(run: Path, stage: str, delay: float) -> Hits:
    """Run a stage by four shards, kill one while it does a unit, and call that one again."""
    parts = [f"--shard={number}/{SHARDS}" for number in range(1, SHARDS + 1)]
    shards = {part: start(stage, f"--run={run}", part) for part in parts}
    killed: list[str] = []

    def hit(_: str, pid: int) -> bool:
        processes = {pid, *ancestors(pid)}  # a unit's process, and those that it works for
        for part, shard in shards.items():
            if shard.pid in processes and kill(shard.pid):
                killed.append(part)
                return True
        return False

    with kills(run, hit, delay) as hits:
        outputs = {part: shard.communicate()[0] for part, shard in shards.items()}
    for part, shard in shards.items():
        if shard.returncode and part not in killed:
            output = outputs[part][-2000:]
            raise RuntimeError(f"{stage} {part} ended with {shard.returncode}: {output}")
    for part in killed:
        command(stage, f"--run={run}", part)
    return hits


def with_ray_killed(nodes: Nodes, delay: float) -> Callable[[Path], Hits]:
    """Return a function that runs all stages on two nodes, and kills a worker in each stage.

    While the second node trains, all of it is removed instead.
    """

    def run_all(run: Path) -> Hits:
        words = ("all", f"--run={run}", "--engine=ray", f"--address={nodes.address}")
        process = start(*words, env=CPU | nodes.env)

        def hit(stage: str, pid: int) -> bool:
            if stage != "train":
                return kill(pid)
            if nodes.processes[1].pid not in ancestors(pid):
                return False
            nodes.remove()
            return True

        with kills(run, hit, delay) as hits:
            finish(process)
        return hits

    return run_all
