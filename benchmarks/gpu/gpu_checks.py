"""Everything that needs a GPU, in nine minutes: checks of stage one, and its speed.

    python -m benchmarks.gpu.gpu_checks [--out=FILE] [--only=PART,...] [--seconds=N]

Each part runs in a process of its own. Prints one table, and writes it to FILE (gpu-checks.md) as
Markdown for RESULTS.md. Without a GPU the parts run on the CPU where that makes sense; the table
lists the others as not run. Exits with 1 where a part fails, or where time is up on a GPU.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.command_line import ROOT, module_command
from benchmarks.gpu import run_checks, step_share, training_checks

SECONDS = 535  # of all parts; `make gpu` ends within nine minutes
GREEN, RED, NOT_RUN = "green", "RED", "not run"


def gpu_tests(folder: Path) -> list[str]:
    """Run the tests that need a GPU; without one, those of devices that need none."""
    tests = ["tests/stage1_cnn/test_fake_cuda.py", "tests/stage1_cnn/test_distributed.py"]
    chosen = ["-m", "gpu", "tests/stage1_cnn"] if torch.cuda.is_available() else tests
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    last = (done.stdout.strip().splitlines() or [done.stderr.strip()[-300:]])[-1].strip("= ")
    assert done.returncode == 0, last
    return [last]


class Part(NamedTuple):
    """A part of the checks: what it does, where it runs, and its share of the time."""

    function: Callable[[Path], list[str]]
    title: str
    on_cpu: bool  # whether it makes sense without a GPU
    seconds: int  # at most


PARTS = {
    "memory": Part(training_checks.exhausted_memory, "memory runs out", True, 120),
    "run": Part(run_checks.whole_run, "train, kill, resume, explain, score", True, 300),
    "tests": Part(gpu_tests, "tests", True, 150),
    "precision": Part(training_checks.precisions, "bf16, fp16, fp32", True, 120),
    "ranks": Part(run_checks.ranks_on_one_device, "two ranks on one device", True, 150),
    "compile": Part(training_checks.compiled, "torch.compile", False, 180),
    "speed": Part(step_share.step_shares, "speed of a training step", False, 240),
}


def main() -> int:
    options = parsed()
    if options.part:
        return run_part(options.part, Path(options.folder))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads of the parts' processes
    start, rows = time.monotonic(), []
    for name in options.only.split(",") if options.only else PARTS:
        left = options.seconds - (time.monotonic() - start)
        rows.append((PARTS[name].title, *outcome_of(name, left)))
        print(row_text(rows[-1]), flush=True)
    text = table_text(rows, time.monotonic() - start)
    Path(options.out).write_text(text, encoding="utf-8")
    print(text)
    return 1 if any(outcome == RED for _, outcome, _, _ in rows) else 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="gpu-checks.md")
    parser.add_argument("--only", default="", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all parts")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(filter(None, options.only.split(","))) - set(PARTS):
        parser.error(f"--only={min(unknown)}: there are {', '.join(PARTS)}")
    return options


def run_part(name: str, folder: Path) -> int:
    """Run one part in this process, and print its figures."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        lines = PARTS[name].function(folder)
    except AssertionError as error:
        print(f"failed: {error}")
        return 1
    print("\n".join(lines))
    return 0


def outcome_of(name: str, left: float) -> tuple[str, str, float]:
    """Run a part in a process of its own. Returns (outcome, figures, seconds)."""
    part, has_gpu = PARTS[name], torch.cuda.is_available()
    if not has_gpu and not part.on_cpu:
        return NOT_RUN, "no GPU", 0.0
    if left < 10:
        return (RED if has_gpu else NOT_RUN), "the time is up", 0.0
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ich-gpu-") as folder:
        words = module_command(__spec__.name, f"--part={name}", f"--folder={folder}")
        limit = min(left, part.seconds if has_gpu else left)
        process = subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            start_new_session=True,  # its own processes end with it
        )
        try:
            out, err = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return (RED if has_gpu else NOT_RUN), f"not done in {limit:.0f} s", limit
    lines = [line for line in out.splitlines() if line.strip()]
    if process.returncode:
        lines = [line for line in lines if line.startswith("failed: ")] or err.splitlines()[-1:]
        return RED, " ".join(lines), time.monotonic() - start
    return GREEN, "; ".join(dict.fromkeys(lines)), time.monotonic() - start


def row_text(row: tuple[str, str, str, float]) -> str:
    title, outcome, figures, seconds = row
    return f"| {title} | {outcome} | {figures.replace('|', '/')} | {seconds:.0f} |"


def table_text(rows: list[tuple[str, str, str, float]], seconds: float) -> str:
    """Return the table as Markdown, with the machine above it."""
    machine = f"CPU ({os.cpu_count()} cores), no GPU: what needs one was not run"
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        machine = f"{card.name}, {card.total_memory / 2**30:.0f} GB, CUDA {torch.version.cuda}"
    head = (
        f"`python -m {__spec__.name}`, {date.today()}, {machine}, torch {torch.__version__}, "
        f"{seconds:.0f} s:"
    )
    lines = ["| part | outcome | figures | seconds |", "|---|---|---|---|", *map(row_text, rows)]
    return "\n".join([head, "", *lines, ""])


if __name__ == "__main__":
    sys.exit(main())
