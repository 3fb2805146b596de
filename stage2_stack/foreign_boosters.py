"""XGBoost's and CatBoost's files, tried in a process of their own before they are used: a crash
there is one line here.

Their formats are other projects' and change with their versions, so that their structure is not
checked line by line, as LightGBM's is in booster_text.py: the child reads each file and predicts a
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

SECONDS, MEMORY = 60, 8 << 30  # of the child, for all files
# values of the rows that are predicted, each in all columns
ROWS = (np.nan, 0.0, 1e30, -1e30, 3.0, -3.0)
WHERE_IN_XGBOOST = re.compile(r"^\[[\d:]+\] \S+ ?")  # the time, and a line of its source
BEYOND = 1e6  # logits of no booster


def first_fault(files: list[tuple[str, str, int]]) -> tuple[str, str] | None:
    """Return (path, what is wrong) of the first file that does not read and predict in a child
    process; None where all do.

    files: (path, component, number of the columns that it sees) each
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
    answers = [line for line in done.stdout.splitlines() if line.startswith("{")]
    faults = [json.loads(line)["fault"] for line in answers]
    wrong = next((number for number, fault in enumerate(faults) if fault), len(faults))
    if wrong < len(faults):
        return files[wrong][0], faults[wrong]
    return (files[wrong][0], f"{files[wrong][1]} crashes on it") if wrong < len(files) else None


def fault_of(path: str, component: str, columns: int) -> str:
    """Return what is wrong with a booster that should see so many columns, or "". A native crash
    ends the process.
    """
    learner, values = (
        _learner(component),
        np.repeat(np.array(ROWS, np.float32)[:, None], columns, axis=1),
    )
    try:
        model = learner.load(Path(path).read_bytes())
        if component == "xgboost" and model.num_features() != columns:
            return f"it sees {model.num_features()} columns, not {columns}"
        if component == "catboost" and model is not None and len(model.feature_names_) != columns:
            return f"it sees {len(model.feature_names_)} columns, not {columns}"
        logits = np.asarray(learner.added(model, values, 1))
    except Exception as error:  # the kinds are XGBoost's and CatBoost's own
        lines = str(error).strip().splitlines()
        why = WHERE_IN_XGBOOST.sub("", lines[0]) if lines else type(error).__name__
        return f"{component} does not read it ({printable(why)})"
    if logits.shape != (len(ROWS),) or not (np.abs(logits) < BEYOND).all():
        return "it predicts no logits"
    return ""


def _learner(component):
    """Return the Learner as `learners.learner_of` does, without LightGBM, whose import takes
    seconds.
    """
    if component == "xgboost":
        from stage2_stack.xgboost_trees import XGBoost

        return XGBoost()
    from stage2_stack.catboost_trees import CatBoost

    return CatBoost()


def _main():
    limit_memory(MEMORY)
    for path, component, columns in json.load(sys.stdin):
        print(json.dumps({"fault": fault_of(path, component, columns)}), flush=True)


if __name__ == "__main__":
    _main()
