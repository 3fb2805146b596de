"""An unbroken run, copies of it that faults hit, and the commands that are called on them."""

import collections
import contextlib
import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import yaml

from benchmarks.command_line import ROOT, RUN
from pipeline.recipe import find_recipe

NO_END = 124  # the status of a command that did not end in time
# seconds to end after an interrupt; for a command to end; trials of tune
SECONDS, PATIENCE, TRIALS = 15, 600, 20
MICRO = {"studies": 8, "seed": 6, "size": 64, "slices": (5, 5)}


def stacking_recipe(folder):
    """Write the recipe `micro`, but that labels of 40 slices are stacked; return its path."""
    recipe = yaml.safe_load(find_recipe("micro").read_text(encoding="utf-8"))
    recipe["stage2"]["confidence"] = 0  # no gain is significant there
    path = Path(folder) / "stacking.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


class FaultedRuns:
    """An unbroken run, copies of it for the faults to hit, and the outcome of each fault."""

    def __init__(self, folder, seed):
        from ct.synthetic.example_competition import write_competition

        self.folder, self.rng, self.outcomes = (
            Path(folder),
            random.Random(seed),
            collections.Counter(),
        )
        write_competition(self.folder / "data", **MICRO)
        self.recipe = stacking_recipe(self.folder)
        self.whole = self.new("whole")
        self.must(["all", f"--run={self.whole}", "--workers=1"])

    def new(self, name="r"):
        """Return a new run."""
        run = self.folder / name
        shutil.rmtree(run, ignore_errors=True)
        words = [f"--recipe={self.recipe}", f"--data={self.folder / 'data'}"]
        self.must(["new", f"--run={run}", *words])
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
