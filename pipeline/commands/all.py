"""The verb `all`: bring every stage up to date; on macOS each in a process of its own."""

import os
import subprocess
import sys
import time
from pathlib import Path

from pipeline.checked_options import OPTIONS, RunOptions
from pipeline.commands.new import check_trial_store
from pipeline.registry import STAGES
from pipeline.run_context import Run
from pipeline.run_lock import opened
from pipeline.stage_runner import run_all, stage_states

# on macOS torch and LightGBM crash in one process (pytorch#191933, LightGBM#6595)
PROCESS_PER_STAGE = sys.platform == "darwin"
PROGRAM = Path(__file__).resolve().parents[2] / "run.py"


def run_all_stages(options: RunOptions) -> None:
    """Bring every stage up to date, and print which ones ran and the files for the user."""
    start = time.perf_counter()
    with opened(options) as run:
        if run.recipe.stage2.storage and stage_states(run)["tune"][0] != "fresh":
            check_trial_store(run.recipe)  # a fault stops before the CNNs are trained
        ran = [] if PROCESS_PER_STAGE else run_all(run)
    if PROCESS_PER_STAGE:
        ran = run_all_in_processes(options)
    seconds = f"in {time.perf_counter() - start:.0f} s"
    if ran:
        print(f"all: {', '.join(ran)} made {seconds}")
    else:
        print(f"all: everything is fresh, checked {seconds}")
    for path in (run.dir.submission, run.dir.report):
        if path.exists():
            print(f"  {path}")


def run_all_in_processes(options: RunOptions) -> list[str]:
    """Bring every stage up to date, in order; each stage that must run gets its own process.

    The caller must not hold the run's lock. Returns the names of the stages that ran. Raises
    SystemExit with the status of a stage that failed; it has printed its error.
    """
    ran = []
    quiet = ["--quiet"] if getattr(sys.stdout, "name", "") == os.devnull else []
    for name in STAGES:
        if stage_states(Run(options.run))[name][0] == "fresh":
            print(f"{name}: fresh, nothing to do")
            continue
        status = subprocess.run([*stage_command(name, options), *quiet], check=False).returncode
        if status:
            raise SystemExit(status)
        ran.append(name)
    return ran


def stage_command(stage: str, options: RunOptions) -> list[str]:
    """Return the words that run a stage with those of the options that it takes."""
    fields = OPTIONS[stage].model_fields if stage in OPTIONS else {}
    flags = []
    for name in ("workers", "quarantine_unreadable", "gpus", "engine", "address"):
        value = getattr(options, name, None)
        if name in fields and value != fields[name].default:
            flags.append(f"--{name.replace('_', '-')}={value}")
    return [sys.executable, str(PROGRAM), stage, f"--run={options.run}", *flags]
