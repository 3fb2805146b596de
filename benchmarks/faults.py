"""Faults of the machine during a run: no work is lost, nothing hangs, no traceback.

    python -m benchmarks.faults [--quick] [--kind=NAME] [--count=N] [--seed=N] [--folder=DIR]

Each kind hits a small run again and again. After each fault the same command is called once more,
and its files are compared with those of an unbroken run, byte for byte. A fault is `lost` if they
differ or the command does not end well, `loud` if there is a traceback or more than one line of
error, `hung` if the process lives for more than SECONDS after an interrupt. Any of these makes the
exit status 1. --folder: where the runs are written; the system's temporary folder if not given.
"""

import collections
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.command_line import flag_parser, module_command
from benchmarks.fault_injection.fault_places import (
    GIVEN,
    STAGES,
    WORK,
    before_stage,
    flip,
    kinds_of_files,
    room,
)
from benchmarks.fault_injection.faulted_runs import TRIALS, FaultedRuns

COUNTS = {
    "renames": (50, 3),
    "moments": (30, 2),
    "damage": (30, 2),
    "workers": (10, 1),
    "disk": (20, 2),
    "ctrl-c": (40, 3),
    "bytes": (40, 3),
}
OUTCOMES = ("good", "lost", "loud", "hung")
KILLED_AT_RENAME = "benchmarks.fault_injection.signal_at_rename"


def renames(runs, count, damage=False):
    """Kill a run before or after a rename, again and again until it is done.

    damage: a byte of unfinished work is flipped, too
    """
    run = runs.new()
    for _ in range(count):
        number, moment = runs.rng.randint(1, 12), runs.rng.choice(["before", "after"])
        name = runs.rng.choice(["SIGKILL", "SIGKILL", "SIGTERM", "SIGINT"])
        words = ["all", f"--run={run}", "--workers=1"]
        done = runs.call(words, module_command(KILLED_AT_RENAME, number, name, moment))
        what = f"{name} {moment} rename {number} (seed {runs.rng.getstate()[1][0]})"
        runs.judge(what, done, (0, 130, -9, -15))
        if damage and (
            files := [p for pattern in WORK for p in sorted(run.rglob(pattern)) if p.is_file()]
        ):
            flip(runs.rng.choice(files), runs.rng)
        if done.returncode == 0:
            runs.same(what, run)
            run = runs.new()
    runs.same("the last of the kills", run)


def moments(runs, count):
    """Killed at a random moment, the process alone or with its workers, until the run is done."""
    run = runs.new()
    for _ in range(count):
        how, wait = (
            runs.rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]),
            runs.rng.uniform(1, 12),
        )
        target = runs.rng.choice([lambda process: process.pid, lambda process: -process.pid])
        done, seconds = runs.strike(["all", f"--run={run}", "--workers=2"], wait, how, target)
        runs.judge(
            f"{how.name} after {wait:.1f} s",
            done,
            (0, 130, -9, -15),
            seconds if how == signal.SIGINT else 0,
        )
        if done.returncode == 0:
            runs.same(f"{how.name} after {wait:.1f} s", run)
            run = runs.new()
    runs.same("the last of the kills", run)


def workers(runs, count):
    """One of two workers of `tune` is killed, as the system does where memory runs out."""
    for number in range(count):
        run, wait = before_stage(runs.copy(), "tune"), runs.rng.uniform(2, 9)
        words = ["tune", f"--run={run}", "--workers=2", f"--trials={TRIALS}"]
        done, _ = runs.strike(
            words,
            wait,
            signal.SIGKILL,
            lambda process: runs.rng.choice(_children(process.pid) or [2**22]),
        )
        runs.judge(f"worker {number} killed after {wait:.1f} s", done, (0, 1))
        runs.same(f"worker {number} killed after {wait:.1f} s", run, "stage2/configs.json", "tune")


def ctrl_c(runs, count):
    """Ctrl-C in `tune`, at random moments, until it is done."""
    run = before_stage(runs.copy(), "tune")
    for number in range(count):
        wait, many = runs.rng.uniform(0.1, 10), runs.rng.choice([1, 1, 2])
        words = ["tune", f"--run={run}", f"--workers={many}", f"--trials={TRIALS}"]
        done, seconds = runs.strike(words, wait, signal.SIGINT, lambda process: -process.pid)
        if done.returncode == 130 and not done.stderr:  # while Python itself was starting
            done.stderr = "error: interrupted"
        runs.judge(f"Ctrl-C {number} after {wait:.1f} s", done, (0, 130), seconds)
        if done.returncode == 0:
            runs.same(f"Ctrl-C {number}", run, "stage2/configs.json", "tune")
            run = before_stage(runs.copy(), "tune")
    runs.same("the last Ctrl-C", run, "stage2/configs.json", "tune")


def disk(runs, count):
    """The disk of the run is full in each stage in turn; afterwards there is room again."""
    with room(runs.folder / "disk") as small:
        if small is None:
            print("  skipped: no right to mount a small file system")
            return
        for number in range(count):
            stage, free = STAGES[number % len(STAGES)], runs.rng.choice([0, 4, 16, 50, 150, 400])
            shutil.rmtree(small / "r", ignore_errors=True)
            run = before_stage(shutil.copytree(runs.whole, small / "r"), stage)
            left = os.statvfs(small).f_bavail * os.statvfs(small).f_frsize
            (small / "ballast").write_bytes(bytes(max(0, left - free * 1024)))
            done = runs.call(["all", f"--run={run}", "--workers=1"])
            if done.returncode == 1 and "no space left" not in done.stderr:
                done.stderr += "Traceback: an error, but not that of a full disk"
            runs.judge(f"{stage} with {free} kB", done, (0, 1))
            (small / "ballast").unlink()
            runs.same(f"{stage} with {free} kB", run)


def one_byte(runs, count):
    """Flip one bit of a finished file: `status --verify` names it, and `all` makes it again."""
    names = [path.relative_to(runs.whole) for path in kinds_of_files(runs.whole)]
    for number in range(count):
        run = runs.copy()
        path = run / names[number % len(names)]
        flip(path, runs.rng)
        done, name = (
            runs.call(["status", f"--run={run}", "--verify"]),
            path.relative_to(run).as_posix(),
        )
        named = (
            done.returncode == 1
            and name in done.stdout + done.stderr
            and "Traceback" not in done.stderr
        )
        runs.note(name, "good" if named else "lost", done)
        if named and name not in GIVEN:
            runs.same(name, run)


KINDS = {
    "renames": renames,
    "moments": moments,
    "damage": lambda runs, count: renames(runs, count, damage=True),
    "workers": workers,
    "disk": disk,
    "ctrl-c": ctrl_c,
    "bytes": one_byte,
}


def _children(pid):
    listed = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(pid)], capture_output=True, text=True, check=False
    ).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if "spawn_main" in line]


def main(argv=None):
    options = flag_parser(__doc__)
    options.add_argument("--kind", choices=KINDS)
    options.add_argument("--count", type=int)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--folder", type=Path)
    options = options.parse_args(argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    bad, kinds = 0, [options.kind] if options.kind else list(KINDS)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        runs = FaultedRuns(folder, options.seed)
        if {"workers", "ctrl-c"} & set(kinds):
            tuned = shutil.copytree(runs.whole, runs.folder / "tuned")
            runs.must(
                [
                    "tune",
                    f"--run={before_stage(tuned, 'tune')}",
                    "--workers=1",
                    f"--trials={TRIALS}",
                ]
            )
        outcomes = "".join(f"{name:>8}" for name in OUTCOMES)
        print(f"{'kind':10}{'faults':>8}{outcomes}{'seconds':>9}")
        for kind in kinds:
            runs.outcomes, start = collections.Counter(), time.monotonic()
            try:
                KINDS[kind](runs, options.count or COUNTS[kind][options.quick])
            finally:  # also where somebody ends it early
                row = runs.outcomes
                bad += sum(row.values()) - row["good"]
                outcomes = "".join(f"{row[name]:8}" for name in OUTCOMES)
                seconds = time.monotonic() - start
                print(f"{kind:10}{sum(row.values()):8}{outcomes}{seconds:9.0f}", flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
