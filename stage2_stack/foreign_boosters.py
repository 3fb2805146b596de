"""Tries XGBoost's and CatBoost's files in a child process: a crash there is one line here.

These formats are other projects' and change with their versions, so that their structure is not
checked line by line, as LightGBM's is in lightgbm_text.py. The child reads each file and predicts a
few rows with it, under limits of time and memory.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from ct.errors import printable
from ct.system.child_process import limit_memory
from stage2_stack.components import load_component
from stage2_stack.components.label_booster import LabelBooster

SECONDS, MEMORY = 60, 8 << 30  # of the child, for all files
# each row that is predicted has one of these values in all columns
ROW_VALUES = (np.nan, 0.0, 1e30, -1e30, 3.0, -3.0)
WHERE_IN_XGBOOST = re.compile(r"^\[[\d:]+\] \S+ ?")  # the time, and a line of its source
IMPLAUSIBLE = 1e6  # logits of no sound booster


def first_fault(files: list[tuple[str, str, int]]) -> tuple[str, str] | None:
    """Return (path, what is wrong) of the first file that fails in a child process; None if none.

    files: (path, component, number of columns that its model reads) each
    """
    if not files:
        return None
    words = [sys.executable, "-m", "stage2_stack.foreign_boosters"]
    root = Path(__file__).resolve().parent.parent
    try:
        done = subprocess.run(
            words,
            input=json.dumps(files),
            cwd=root,
            timeout=SECONDS,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except subprocess.TimeoutExpired:
        return files[0][0], f"these boosters take more than {SECONDS} s to read"
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    faults = [json.loads(line)["fault"] for line in lines]
    for (path, _, _), fault in zip(files, faults, strict=False):
        if fault:
            return path, fault
    if len(faults) < len(files):  # the child ended at this file
        path, component, _ = files[len(faults)]
        return path, f"{component} crashes on it"
    return None


def fault_of(path: str, component: str, columns: int) -> str:
    """Return what is wrong with a booster that should read so many columns, or "".

    A native crash ends the process.
    """
    booster = load_component(component)
    assert isinstance(booster, LabelBooster)
    values = np.repeat(np.array(ROW_VALUES, np.float32)[:, None], columns, axis=1)
    try:
        model = booster.load(Path(path).read_bytes())
        count = booster.learner.column_count(model)
        if count not in (columns, None):
            return f"it reads {count} columns, not {columns}"
        logits = np.asarray(booster.learner.added_logits(model, values, 1))
    except Exception as error:  # the kinds are XGBoost's and CatBoost's own
        lines = str(error).strip().splitlines()
        why = WHERE_IN_XGBOOST.sub("", lines[0]) if lines else type(error).__name__
        return f"{component} does not read it ({printable(why)})"
    if logits.shape != (len(ROW_VALUES),) or not (np.abs(logits) < IMPLAUSIBLE).all():
        return "it predicts no logits"
    return ""


def main() -> None:
    """Print one line of JSON, {"fault": text}, for each file that standard input lists."""
    limit_memory(MEMORY)
    for path, component, columns in json.load(sys.stdin):
        print(json.dumps({"fault": fault_of(path, component, columns)}), flush=True)


if __name__ == "__main__":
    main()
