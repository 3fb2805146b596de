"""Stands for Slurm's sbatch: runs a job at once, its tasks side by side, and prints its number.

The first task of an array is killed a moment after it has begun to work, as on a node that dies,
and is then queued again. Files in the folder SIMULATED_SLURM: <job>.ok of a job that has ended
well, <job>.log with what it printed, <job>.killed where a task was killed.
"""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

FOLDER = Path(os.environ["SIMULATED_SLURM"])
MOMENT = 0.5  # seconds of work before a task is killed


def start(words, task):
    """Start a task in a session of its own."""
    return subprocess.Popen(
        ["bash", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        env={**os.environ, "SLURM_ARRAY_TASK_ID": str(task)} if task else None,
    )


def end_of(process, log, kill=False):
    """Wait for a task, and kill all its processes at work if `kill`. Returns its status."""
    for line in process.stdout:
        log.append(line)
        if kill and line.startswith("  reads"):
            threading.Timer(MOMENT, os.killpg, (process.pid, signal.SIGKILL)).start()
            kill = False
    return process.wait()


def run_job(job, words, last_task):
    """Run a job and write its files."""
    log = []
    tasks = range(1, last_task + 1) if last_task else [0]
    processes = {task: start(words, task) for task in tasks}
    statuses = {}
    threads = []
    for task, process in processes.items():

        def wait(task=task, process=process):
            statuses[task] = end_of(process, log, kill=task == 1)

        threads.append(threading.Thread(target=wait))
        threads[-1].start()
    for thread in threads:
        thread.join()
    if statuses.get(1) == -signal.SIGKILL:
        (FOLDER / f"{job}.killed").touch()
        statuses[1] = end_of(start(words, 1), log)
    (FOLDER / f"{job}.log").write_text("".join(log), encoding="utf-8")
    if not any(statuses.values()):
        (FOLDER / f"{job}.ok").touch()


def main():
    options = [word for word in sys.argv[1:] if word.startswith("--")]
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    text = " ".join(options)
    after = re.search(r"--dependency=afterok:(\d+)", text)
    array = re.search(r"--array=1-(\d+)", text)
    job = len(list(FOLDER.glob("*.log"))) + 1
    if after and not (FOLDER / f"{after[1]}.ok").exists():
        (FOLDER / f"{job}.log").write_text("cancelled", encoding="utf-8")
    else:
        run_job(job, words, int(array[1]) if array else 0)
    print(job)


if __name__ == "__main__":
    main()
