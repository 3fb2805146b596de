"""Progress: a bar on a terminal, readable lines in a log file."""

import contextlib
import io
import os
import pty
import re
import subprocess
import sys
import termios

import pytest
from conftest import ROOT

from pipeline.progress import Bar, LogLines, duration, no_bar

SCRIPT = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pipeline import progress as bars
bars.DELAY = bars.PAUSE = 0.2
bars.PAUSE_IN_FILE = 0.25
print("train:", file=sys.stderr)
with bars.progress_bar(12000, "headers", "file") as bar:
    for done in range(1500, 12001, 1500):
        time.sleep(0.1)
        bar.reach(done)
with bars.progress_bar(None, "resnet fold 0", "study") as bar:
    time.sleep(0.3)
    bar.set_postfix(epoch=1, loss="0.5", refresh=False)
    bar.update()
with bars.progress_bar(10, "quick", "step") as bar:
    bar.update(10)
"""


@pytest.fixture
def bar():
    """LogLines of 1,000 slices, begun 30 seconds ago with 40 done; its file is in memory."""
    with LogLines(
        total=1000,
        desc="  pixels",
        unit="slice",
        file=io.StringIO(),
        gui=True,
        delay=2,
        mininterval=20,
    ) as made:
        made.reach(40, kept=True)
        made.start_t -= 30
        made.last_print_t -= 30
        yield made


def written(bar):
    return bar.fp.getvalue().splitlines()


def test_in_a_file_each_update_is_a_line(tmp_path):
    """Also where stdout is a terminal."""
    master, terminal = pty.openpty()
    with open(tmp_path / "log", "w", encoding="utf-8") as log:
        subprocess.run(
            [sys.executable, "-c", SCRIPT, str(ROOT)], stdout=terminal, stderr=log, check=True
        )
    os.close(terminal)
    os.close(master)
    output = (tmp_path / "log").read_bytes().decode()
    assert output.endswith("\n") and not {"\r", "\x1b", "\x08"} & set(output)
    first, *among, last, study = output.splitlines()
    assert first == "train:" and 1 <= len(among) < 8
    assert all(re.fullmatch(r"  headers: [\d,]+/12,000 files, \d+ s left", line) for line in among)
    assert re.fullmatch(r"  headers: 12,000 files in \d+ s", last)  # the quick task prints nothing
    assert re.fullmatch(r"  resnet fold 0: 1 study in \d+ s, epoch=1, loss=0.5", study)


def on_a_terminal(script, **streams):
    """Run a script on a terminal of 80 columns; return what it writes there. streams: of Popen"""
    master, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    with subprocess.Popen(
        [sys.executable, "-c", script, str(ROOT)],
        **{"stdout": terminal, "stderr": terminal} | streams,
    ):
        os.close(terminal)
        output = b""
        with contextlib.suppress(OSError):  # the other end is closed
            while read := os.read(master, 10_000):
                output += read
    os.close(master)
    return output


def test_on_a_terminal_it_is_a_bar():
    output = on_a_terminal(SCRIPT, stdout=subprocess.DEVNULL)
    assert b"headers:" in output and b"%|" in output and output.endswith(b"\r")


def test_a_line_printed_beside_the_bar_is_a_line_of_its_own():
    output = on_a_terminal(
        SCRIPT.replace(
            "        bar.reach(done)\n", "        bar.reach(done)\n    bars.log('batch halved')\n"
        )
    )
    assert re.search(rb"\|.*\r *\rbatch halved\r\n", output)


def test_a_line_gives_the_time_left_at_the_pace_of_this_process(bar):
    bar.reach(160)
    assert written(bar) == ["  pixels: 160/1,000 slices, 4 min left"]  # 120 in 30 s


def test_lines_are_rare_and_the_last_gives_the_total(bar):
    for done in (160, 170, 900, 1000):
        bar.reach(done)
    assert len(written(bar)) == 1
    bar.close()
    bar.close()
    assert written(bar)[1:] == ["  pixels: 1,000 slices in 30 s"]


def test_a_bar_that_ends_early_gives_how_much_was_done(bar):
    bar.last_print_t += 30
    bar.reach(50)
    bar.close()
    assert written(bar) == ["  pixels: 50/1,000 slices in 30 s"]


def test_the_text_of_a_long_search_is_printed_before_its_end(bar):
    bar.show_text("trial 1 of 25")
    bar.show_text("trial 2 of 25")  # within the pause
    bar.last_print_t -= 20
    bar.show_text("trial 3 of 25")
    assert written(bar) == [
        "  pixels: 40/1,000 slices, trial 1 of 25",
        "  pixels: 40/1,000 slices, trial 3 of 25",
    ]
    no_bar(100, "", "slice").show_text("trial 1 of 25")


def test_a_short_task_prints_nothing():
    with LogLines(total=10, desc="  quick", file=io.StringIO(), gui=True, delay=2) as bar:
        bar.reach(10)
    assert written(bar) == []


def test_kept_work_does_not_count_for_the_pace():
    with Bar(total=100, disable=False, file=io.StringIO()) as bar:
        bar.reach(40, kept=True)
        bar.reach(50)
        assert (bar.n, bar.initial) == (50, 40) and bar.format_dict["initial"] == 40
    no_bar(100, "", "slice").reach(40, kept=True)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (12600, "3.5 h")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
