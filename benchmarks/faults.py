"""Faults of the machine during a run: no work is lost, nothing hangs, no traceback.

    python -m benchmarks.faults [--quick] [--kind=NAME] [--count=N] [--seed=N] [--folder=DIR]

Each kind hits a small run again and again. After each fault the same command is called once more,
and its files are compared with those of an unbroken run, byte for byte. A fault is `lost` if they
differ or the command does not end well, `loud` if there is a traceback or more than one line of
error, `hung` if the process lives for more than SECONDS after an interrupt. Any of these makes the
exit status 1. --folder: where the runs are written; the system's temporary folder if not given.
"""

import collections
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.command_line import ROOT, RUN, flag_parser, module_command
from benchmarks.fault_injection.fault_places import (
    GIVEN,
    STAGES,
    WORK,
    before_stage,
    flip,
    kinds_of_files,
    room,
)

COUNTS = {
    "renames": (50, 3),
    "moments": (30, 2),
    "damage": (30, 2),
    "workers": (10, 1),
    "disk": (20, 2),
    "ctrl-c": (40, 3),
    "bytes": (40, 3),
}
KILLED_AT_RENAME = "benchmarks.fault_injection.signal_at_rename"
NO_END = 124  # the status of a command that did not end in time
# after Ctrl-C; for a command to end; of tune where it is interrupted
SECONDS, PATIENCE, TRIALS = 15, 600, 20
MICRO = {"studies": 8, "seed": 6, "size": 64, "slices": (5, 5)}


class Home:
    """An unbroken run, copies of it for the faults to hit, and the outcome of each fault."""

    def __init__(self, folder, seed):
        from ct.synthetic.example_competition import write_competition

        self.folder, self.rng, self.outcomes = (
            Path(folder),
            random.Random(seed),
            collections.Counter(),
        )
        write_competition(self.folder / "data", **MICRO)
        self.whole = self.new("whole")
        self.must(["all", f"--run={self.whole}", "--workers=1"])

    def new(self, name="r"):
        """Return a new run."""
        run = self.folder / name
        shutil.rmtree(run, ignore_errors=True)
        self.must(["new", f"--run={run}", "--recipe=micro", f"--data={self.folder / 'data'}"])
        return run

    def copy(self, run=None):
        """Return a copy of the unbroken run, or of `run`, with the files' times."""
        shutil.rmtree(self.folder / "copy", ignore_errors=True)
        return shutil.copytree(run or self.whole, self.folder / "copy")

    def must(self, words):
        """Run a command that no fault hits; it has to end well."""
        done = self.call(words)
        assert done.returncode == 0, done.stderr[-2000:]

    def call(self, words, program=RUN):
        """Run a command to its end; program: the words that start the command line."""
        words = [*program, *map(str, words)]
        try:
            return subprocess.run(
                words, capture_output=True, text=True, check=False, timeout=PATIENCE, cwd=ROOT
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(
                words, NO_END, "", f"error: no end within {PATIENCE} s"
            )

    def strike(self, words, wait, how, target=lambda process: process.pid):
        """Run a command and send it the signal `how` after `wait` seconds.

        Returns (the finished process, seconds until it ended).
        """
        words = [*RUN, *map(str, words)]
        pipes = {
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            "start_new_session": True,
        }
        process = subprocess.Popen(words, **pipes)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(wait)
        start = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            os.kill(target(process), how)
        out, err = process.communicate(timeout=PATIENCE)
        return subprocess.CompletedProcess(
            words, process.returncode, out, err
        ), time.monotonic() - start

    def judge(self, what, done, statuses, seconds=0.0):
        """Note the outcome of a fault."""
        errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
        quiet = "Traceback" not in done.stderr and len(errors) == (
            done.returncode not in (0, -9, -15)
        )
        good = quiet and done.returncode in statuses and seconds <= SECONDS
        self.note(
            what,
            "good" if good else "hung" if quiet and done.returncode in statuses else "loud",
            done,
        )

    def note(self, what, outcome, done=None):
        """Count an outcome, and print what is not good."""
        self.outcomes[outcome] += 1
        if outcome != "good":
            print(
                f"  {outcome}: {what}: "
                f"{f'{done.returncode} {done.stderr[-1500:]}' if done else ''}",
                flush=True,
            )

    def same(self, what, run, file="submission.csv", verb="all"):
        """Finish a run by the same command, and compare its files with the unbroken run."""
        more = [f"--trials={TRIALS}"] if verb == "tune" else []
        done = self.call([verb, f"--run={run}", "--workers=1", *more])
        expected = self.whole if verb == "all" else self.folder / "tuned"
        same = done.returncode == 0 and (run / file).read_bytes() == (expected / file).read_bytes()
        left = [p for p in run.rglob("*") if p.name.endswith((".part", ".old", ".now"))]
        if not same or left:
            self.note(f"{what}, afterwards {[str(p) for p in left]}", "lost", done)


def renames(home, count, damage=False):
    """Kill a run before or after a rename, again and again until it is done.

    damage: a byte of unfinished work is flipped, too
    """
    run = home.new()
    for _ in range(count):
        number, moment = home.rng.randint(1, 12), home.rng.choice(["before", "after"])
        name = home.rng.choice(["SIGKILL", "SIGKILL", "SIGTERM", "SIGINT"])
        words = ["all", f"--run={run}", "--workers=1"]
        done = home.call(words, module_command(KILLED_AT_RENAME, number, name, moment))
        what = f"{name} {moment} rename {number} (seed {home.rng.getstate()[1][0]})"
        home.judge(what, done, (0, 130, -9, -15))
        if damage and (
            files := [p for pattern in WORK for p in sorted(run.rglob(pattern)) if p.is_file()]
        ):
            flip(home.rng.choice(files), home.rng)
        if done.returncode == 0:
            home.same(what, run)
            run = home.new()
    home.same("the last of the kills", run)


def moments(home, count):
    """Killed at a random moment, the process alone or with its workers, until the run is done."""
    run = home.new()
    for _ in range(count):
        how, wait = (
            home.rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]),
            home.rng.uniform(1, 12),
        )
        target = home.rng.choice([lambda process: process.pid, lambda process: -process.pid])
        done, seconds = home.strike(["all", f"--run={run}", "--workers=2"], wait, how, target)
        home.judge(
            f"{how.name} after {wait:.1f} s",
            done,
            (0, 130, -9, -15),
            seconds if how == signal.SIGINT else 0,
        )
        if done.returncode == 0:
            home.same(f"{how.name} after {wait:.1f} s", run)
            run = home.new()
    home.same("the last of the kills", run)


def workers(home, count):
    """One of two workers of `tune` is killed, as the system does where memory runs out."""
    for number in range(count):
        run, wait = before_stage(home.copy(), "tune"), home.rng.uniform(2, 9)
        words = ["tune", f"--run={run}", "--workers=2", f"--trials={TRIALS}"]
        done, _ = home.strike(
            words,
            wait,
            signal.SIGKILL,
            lambda process: home.rng.choice(_children(process.pid) or [2**22]),
        )
        home.judge(f"worker {number} killed after {wait:.1f} s", done, (0, 1))
        home.same(f"worker {number} killed after {wait:.1f} s", run, "stage2/configs.json", "tune")


def ctrl_c(home, count):
    """Ctrl-C in `tune`, at random moments, until it is done."""
    run = before_stage(home.copy(), "tune")
    for number in range(count):
        wait, many = home.rng.uniform(0.1, 10), home.rng.choice([1, 1, 2])
        words = ["tune", f"--run={run}", f"--workers={many}", f"--trials={TRIALS}"]
        done, seconds = home.strike(words, wait, signal.SIGINT, lambda process: -process.pid)
        if done.returncode == 130 and not done.stderr:  # while Python itself was starting
            done.stderr = "error: interrupted"
        home.judge(f"Ctrl-C {number} after {wait:.1f} s", done, (0, 130), seconds)
        if done.returncode == 0:
            home.same(f"Ctrl-C {number}", run, "stage2/configs.json", "tune")
            run = before_stage(home.copy(), "tune")
    home.same("the last Ctrl-C", run, "stage2/configs.json", "tune")


def disk(home, count):
    """The disk of the run is full in each stage in turn; afterwards there is room again."""
    with room(home.folder / "disk") as small:
        if small is None:
            print("  skipped: no right to mount a small file system")
            return
        for number in range(count):
            stage, free = STAGES[number % len(STAGES)], home.rng.choice([0, 4, 16, 50, 150, 400])
            shutil.rmtree(small / "r", ignore_errors=True)
            run = before_stage(shutil.copytree(home.whole, small / "r"), stage)
            left = os.statvfs(small).f_bavail * os.statvfs(small).f_frsize
            (small / "ballast").write_bytes(bytes(max(0, left - free * 1024)))
            done = home.call(["all", f"--run={run}", "--workers=1"])
            if done.returncode == 1 and "no space left" not in done.stderr:
                done.stderr += "Traceback: an error, but not that of a full disk"
            home.judge(f"{stage} with {free} kB", done, (0, 1))
            (small / "ballast").unlink()
            home.same(f"{stage} with {free} kB", run)


def one_byte(home, count):
    """Flip one bit of a finished file: `status --verify` names it, and `all` makes it again."""
    names = [path.relative_to(home.whole) for path in kinds_of_files(home.whole)]
    for number in range(count):
        run = home.copy()
        path = run / names[number % len(names)]
        flip(path, home.rng)
        done, name = (
            home.call(["status", f"--run={run}", "--verify"]),
            path.relative_to(run).as_posix(),
        )
        named = (
            done.returncode == 1
            and name in done.stdout + done.stderr
            and "Traceback" not in done.stderr
        )
        home.note(name, "good" if named else "lost", done)
        if named and name not in GIVEN:
            home.same(name, run)


KINDS = {
    "renames": renames,
    "moments": moments,
    "damage": lambda home, count: renames(home, count, damage=True),
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
        home = Home(folder, options.seed)
        if {"workers", "ctrl-c"} & set(kinds):
            tuned = shutil.copytree(home.whole, home.folder / "tuned")
            home.must(
                [
                    "tune",
                    f"--run={before_stage(tuned, 'tune')}",
                    "--workers=1",
                    f"--trials={TRIALS}",
                ]
            )
        print(f"{'kind':10}{'faults':>8}{'good':>8}{'lost':>8}{'loud':>8}{'hung':>8}{'seconds':>9}")
        for kind in kinds:
            home.outcomes, start = collections.Counter(), time.monotonic()
            try:
                KINDS[kind](home, options.count or COUNTS[kind][options.quick])
            finally:  # also where somebody ends it early
                row = home.outcomes
                bad += sum(row.values()) - row["good"]
                print(
                    f"{kind:10}{sum(row.values()):8}{row['good']:8}{row['lost']:8}{row['loud']:8}{row['hung']:8}"
                    f"{time.monotonic() - start:9.0f}",
                    flush=True,
                )
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
