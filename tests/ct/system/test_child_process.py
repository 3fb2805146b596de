"""A child process answers messages, ends with its parent, and can be replaced when it ends."""

import atexit
import os
import resource
import time

import pytest

from ct.system.child_process import (
    ChildEnded,
    ChildProcess,
    message_pipes,
    read_message,
    write_message,
)


def serve(greeting="ready"):
    """Run in the child: answer each message with the same bytes, and end at "end"."""
    requests, answers = message_pipes()
    write_message(answers, greeting.encode())
    while (message := read_message(requests)) not in (None, b"end"):
        if message == b"wait":
            time.sleep(60)
        print("not an answer", flush=True)
        write_message(answers, message)


@pytest.fixture
def echo(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__), prepend=os.pathsep)
    child = ChildProcess("test_child_process")
    yield child
    child.close()


def test_a_child_that_restarts_is_registered_for_the_end_of_this_process_once(echo, monkeypatch):
    registered = []
    monkeypatch.setattr(atexit, "register", registered.append)
    for _ in range(2):
        assert echo.request(b"a", 20) == b"a"
        echo.close()
    assert not registered
    child = ChildProcess("test_child_process")
    assert registered == [child.close]


def test_a_child_answers_where_a_thousand_files_are_open(echo):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1200:
        pytest.skip("this system allows no more than 1200 open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (1200, hard))
    opened = []
    try:
        while not opened or opened[-1] < 1030:
            opened.append(os.open(os.devnull, os.O_RDONLY))
        assert echo.request(b"a", 20) == b"a" and echo.process.stdout.fileno() > 1023
    finally:
        echo.close()
        for descriptor in opened:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_child_that_ends_or_is_late_is_reported_and_the_next_request_starts_another(echo):
    with pytest.raises(ChildEnded) as ended:
        echo.request(b"end", 20)
    assert (ended.value.status, ended.value.started) == (0, True)
    assert echo.request(b"a", 20) == b"a" and echo.answered == 1
    with pytest.raises(ChildEnded) as ended:
        echo.request(b"wait", 0.1)
    assert ended.value.status is None and echo.process is None


def test_the_arguments_reach_the_child(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__), prepend=os.pathsep)
    child = ChildProcess("test_child_process", "it's ready")
    child.request(b"a", 20)
    assert child.greeting == b"it's ready"
    child.close()
