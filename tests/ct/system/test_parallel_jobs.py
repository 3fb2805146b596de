"""Jobs on worker processes and threads: the same results and order with any number of workers."""

import os
import threading
import time

import pytest

from ct.errors import InputError
from ct.system.parallel_jobs import AHEAD, cores, run_jobs, run_threads


def work(number, seconds=0.0):
    time.sleep(seconds)
    return number * number, os.getpid()


def fail(number):
    if number == 1:
        raise KeyError(f"job {number}")
    return number


def test_order_and_results_do_not_depend_on_the_workers():
    jobs = [(n, 0.1 if n == 0 else 0.0) for n in range(6)]  # the first ends last
    alone, together = (list(run_jobs(work, jobs, workers)) for workers in (1, 2))
    assert [value for value, _ in alone] == [value for value, _ in together] == [0, 1, 4, 9, 16, 25]
    assert {pid for _, pid in alone} == {os.getpid()}
    assert os.getpid() not in {pid for _, pid in together}


def test_an_error_of_a_job_is_raised_and_ends_the_rest():
    for workers in (1, 2):
        results = run_jobs(fail, [(n,) for n in range(4)], workers)
        assert next(results) == 0
        with pytest.raises(KeyError, match="job 1"):
            next(results)
        assert list(results) == []


def test_one_worker_takes_jobs_lazily():
    results = run_jobs(work, iter([(1,), ("not a number", None)]), workers=1)
    assert next(results)[0] == 1


def test_jobs_are_taken_only_a_few_ahead():
    jobs_taken = []
    results = run_jobs(work, ((jobs_taken.append(n) or n,) for n in range(50)), workers=2)
    assert next(results)[0] == 0 and len(jobs_taken) <= 2 * AHEAD
    assert [value for value, _ in results] == [n * n for n in range(1, 50)]


def test_no_jobs_give_no_results():
    assert list(run_jobs(work, [], 4)) == []
    assert list(run_jobs(work, [], None)) == []


def test_cores_are_at_least_one_and_no_more_than_the_machine_has():
    assert 1 <= cores() <= os.cpu_count()


def die(n):
    os._exit(9)


def test_a_killed_worker_is_one_line_of_error():
    with pytest.raises(InputError, match="a worker process was killed.*--workers=1"):
        list(run_jobs(die, [(0,), (1,)], 2))


def test_threads_run_together_and_keep_the_order():
    together = threading.Barrier(2, timeout=10)  # passed only by two that run at the same time

    def square(number):
        together.wait()
        return number * number

    assert run_threads(square, range(6), 2) == [0, 1, 4, 9, 16, 25]
    assert run_threads(lambda number: -number, [1, 2], 1) == [-1, -2]
    assert run_threads(square, []) == []


def test_an_error_in_a_thread_is_raised_and_waiting_jobs_do_not_start():
    started = []

    def note(number):
        started.append(number)
        time.sleep(0.01)
        return fail(number)

    with pytest.raises(KeyError, match="job 1"):
        run_threads(note, range(1000), 1)
    assert started[:2] == [0, 1] and len(started) < 1000
