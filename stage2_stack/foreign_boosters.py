"""Try XGBoost's and CatBoost's files in a child process, whose crash is an error message here.

Their formats change with their versions. Therefore the structure of these files is not checked line
by line, as that of LightGBM's files is in lightgbm_text.py. The child reads each file and predicts
a few rows with it, under limits of time and memory.
"""

import json
import re
import time
from pathlib import Path

import numpy as np

from ct.errors import printable
from ct.system.child_process import (
    ChildEnded,
    ChildProcess,
    limit_memory,
    message_pipes,
    read_message,
    write_message,
)
from stage2_stack.components.component import load_component
from stage2_stack.components.label_booster import LabelBooster

SECONDS, MEMORY = 60, 8 << 30  # of the child, for all files
# each row that is predicted has one of these values in all columns
ROW_VALUES = (np.nan, 0.0, 1e30, -1e30, 3.0, -3.0)
WHERE_IN_XGBOOST = re.compile(r"^\[[\d:]+\] \S+ ?")  # the time, and a line of its source
IMPLAUSIBLE = 1e6  # no sound booster predicts such large logits


def first_fault(files: list[tuple[str, str, int]]) -> tuple[str, str] | None:
    """Return (path, what is wrong) of the first file that fails in a child process; None if none.

    files: (path, component, number of columns that its model reads) each
    """
    if not files:
        return None
    child, deadline = ChildProcess(__name__), time.monotonic() + SECONDS
    try:
        for path, component, columns in files:
            request = json.dumps([path, component, columns]).encode()
            fault = child.request(request, max(deadline - time.monotonic(), 0)).decode()
            if fault:
                return path, fault
    except ChildEnded as ended:
        if ended.status is None:
            return path, f"these boosters take more than {SECONDS} s to read"
        return path, f"{component} crashes on it"
    finally:
        child.close()
    return None


def fault_of(path: str, component: str, columns: int) -> str:
    """Return what is wrong with a booster's file, or ""; the model should read `columns` columns.

    A crash of the library ends the process.
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


def serve() -> None:
    """Run in the child: reply to each (path, component, columns) with its fault, or ""."""
    requests, replies = message_pipes()
    limit_memory(MEMORY)
    write_message(replies, b"ready")
    while (message := read_message(requests)) is not None:
        write_message(replies, fault_of(*json.loads(message)).encode())
