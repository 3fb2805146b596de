"""`all` where torch and LightGBM crash in one process, on macOS (pytorch#191933, LightGBM#6595): a
process for each stage.
"""

import os
import subprocess
import sys
from pathlib import Path

from ct.config import Config
from pipeline.options import OPTIONS
from pipeline.registry import STAGES
from pipeline.run_context import Run
from pipeline.stage_runner import stage_states

APART = sys.platform == "darwin"
COMMAND = Path(__file__).resolve().parent.parent / "run.py"


def run_all_apart(options: Config) -> list[str]:
    """Bring every stage up to date, in order, each that has to work in a process of its own.

    options: of a verb that does all; the stages get those that they have, too. Returns the names of
    the stages that had to work. Raises SystemExit with the status of one that failed, which has
    said why. Nobody else may hold the run's lock.
    """
    made, quiet = [], getattr(sys.stdout, "name", "") == os.devnull
    for name in STAGES:
        if stage_states(Run(options.run))[name][0] == "fresh":
            print(f"{name}: fresh, nothing to do")
            continue
        status = subprocess.run(
            [*_command(name, options), *["--quiet"] * quiet], check=False
        ).returncode
        if status:
            raise SystemExit(status)
        made.append(name)
    return made


def _command(stage, options):
    """Return the words that run a stage with the options that it has."""
    fields = OPTIONS[stage].model_fields if stage in OPTIONS else {}
    given = {
        name: getattr(options, name, None)
        for name in ("workers", "quarantine_unreadable")
        if name in fields
    }
    flags = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in given.items()
        if value not in (None, False)
    ]
    return [sys.executable, str(COMMAND), stage, f"--run={options.run}", *flags]
