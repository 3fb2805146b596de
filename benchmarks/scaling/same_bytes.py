"""The same run on every engine: the files that must be the same, byte for byte.

No GPU is visible, so that a machine with GPUs does what one without them does.
"""

import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks.command_line import REAL_SLICES, ROOT, RUN
from benchmarks.fault_injection.faulted_runs import MICRO, stacking_recipe
from benchmarks.scaling.ray_nodes import Nodes
from ct.synthetic.example_competition import write_competition
from pipeline.registry import STAGES

SAME = ("submission.csv", "stage2/scores.json", "stage2/oof.parquet")
SHARDS = 4
PATIENCE = 3600  # seconds until a command counts as hung
# otherwise threads that wait keep the cores busy that other processes need
CPU = {"CUDA_VISIBLE_DEVICES": "", "OMP_WAIT_POLICY": "PASSIVE"}


class Competition(NamedTuple):
    """Data and the recipe that a run is made with."""

    name: str
    data: Path
    recipe: str


def competitions(folder: Path, quick: bool) -> list[Competition]:
    """Return a micro competition, or the demo's and real slices where they are there.

    Writes the data that an earlier call has not written.
    """
    if quick:
        if not (folder / "micro").is_dir():
            write_competition(folder / "micro", **MICRO)
        return [Competition("micro", folder / "micro", str(stacking_recipe(folder)))]
    if not (folder / "demo").is_dir():
        command("synth", f"--out={folder / 'demo'}")
    chosen = [Competition("demo", folder / "demo", "demo")]
    if REAL_SLICES.is_file():
        if not (folder / "mini").is_dir():
            with tarfile.open(REAL_SLICES) as archive:
                archive.extractall(folder / "mini", filter="data")
        chosen.append(Competition("rsna_mini", folder / "mini", "small"))
    return chosen


def command(*words: object, env: Mapping[str, str] = CPU) -> str:
    """Run a verb and return what it printed.

    Raises RuntimeError with its last lines where it does not end well.
    """
    return finish(start(*words, env=env))


def start(*words: object, env: Mapping[str, str] = CPU) -> "subprocess.Popen[str]":
    """Start a verb in a session of its own, so that all its processes can be killed together."""
    return subprocess.Popen(
        [*RUN, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        cwd=ROOT,
        env={**os.environ, **env},
        start_new_session=True,
    )


def finish(process: "subprocess.Popen[str]") -> str:
    """Wait for a verb to end, and return what it printed. Raises RuntimeError as `command`."""
    out, _ = process.communicate(timeout=PATIENCE)
    if process.returncode:
        raise RuntimeError(f"{process.args} ended with {process.returncode}: {out[-2000:]}")
    return out


def new_run(competition: Competition, folder: Path) -> Path:
    """Make a run folder anew. Returns its path."""
    shutil.rmtree(folder, ignore_errors=True)
    recipe, data = f"--recipe={competition.recipe}", f"--data={competition.data}"
    command("new", f"--run={folder}", recipe, data)
    return folder


def one_at_a_time(run: Path) -> None:
    """Run one unit after the other."""
    command("all", f"--run={run}", "--workers=1")


def two_slots(run: Path) -> None:
    """Run units side by side, those of CNNs in two places on the CPU that stand for GPUs."""
    command("all", f"--run={run}", "--workers=2", "--gpus=cpu,cpu")


def shards_at_once(run: Path) -> None:
    """Run each stage that has units by four shards that start together."""
    for name, stage in STAGES.items():
        parts = [f"--shard={number}/{SHARDS}" for number in range(1, SHARDS + 1)]
        processes = [start(name, f"--run={run}", part) for part in (parts if stage.units else [])]
        for process in processes or [start(name, f"--run={run}")]:
            finish(process)


def on_ray(nodes: Nodes) -> Callable[[Path], None]:
    """Return a function that runs all stages on a Ray cluster."""

    def run_all(run: Path) -> None:
        words = ("all", f"--run={run}", "--engine=ray", f"--address={nodes.address}")
        command(*words, env=CPU | nodes.env)

    return run_all


def different_files(run: Path, expected: Path, names: Iterable[str] = SAME) -> list[str]:
    """Return the files of two runs that differ, or are missing in one of them."""
    different = []
    for name in names:
        pair = [folder / name for folder in (run, expected)]
        contents = [path.read_bytes() if path.is_file() else None for path in pair]
        if contents[0] is None or contents[0] != contents[1]:
            different.append(name)
    return different
