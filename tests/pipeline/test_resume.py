"""Killed in the middle of any stage, and run again: the same submission, byte for byte."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from tiny_zip import pack

import ct.dicom.header_table
import ct.pixel_cache.writer
import ct.storage.atomic_write
import pipeline.ingestion.file_listing
import pipeline.stages.ingest
import run
from pipeline.registry import STAGES


def kill_in(folder, stage, wait):
    """Run `all` and kill it `wait` seconds after `stage` begins; return whether it was killed."""
    words = [sys.executable, "-u", str(ROOT / "run.py"), "all", f"--run={folder}", "--workers=2"]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        for line in process.stdout:
            if line.startswith(f"{stage}:"):
                time.sleep(wait)
                process.send_signal(
                    signal.SIGKILL
                )  # of the parent alone; its workers must end without it
                break
    return process.returncode == -signal.SIGKILL


@pytest.fixture
def fresh(tmp_path, competition, stacking, finished):
    """A run folder like `finished`, before its first stage."""
    folder = tmp_path / "r"
    assert (
        run.main(["new", f"--run={folder}", f"--recipe={stacking}", f"--data={competition}"]) == 0
    )
    return folder


def test_killed_while_training(fresh, finished):
    assert kill_in(fresh, "train", 2.5)
    assert not (fresh / "receipts/train.json").exists()
    assert run.main(["all", f"--run={fresh}", "--workers=1"]) == 0
    assert (fresh / "submission.csv").read_bytes() == (finished / "submission.csv").read_bytes()


class Watch:
    """Counts the headers and slices that are read, and interrupts the reading at one of them."""

    def __init__(self, monkeypatch):
        self.stop = {"header": None, "pixels": None}
        self.read = {"header": 0, "pixels": 0}
        for kind, module, name in (
            ("header", ct.dicom.header_table, "read_slice_headers"),
            ("pixels", ct.pixel_cache.writer, "read_hu"),
        ):
            monkeypatch.setattr(module, name, self.watched(kind, getattr(module, name)))

    def watched(self, kind, function):
        def call(*arguments):
            if self.read[kind] == self.stop[kind]:
                raise KeyboardInterrupt
            self.read[kind] += 1
            return function(*arguments)

        return call

    def run(self, words, **stop):
        """Run the command line. Returns (its status, headers read, slices read)."""
        self.read, self.stop = {"header": 0, "pixels": 0}, {"header": None, "pixels": None} | stop
        return run.main(words), *self.read.values()


def tables(folder):
    """{name: bytes} of the files of `ingest`; no partial file may be left."""
    made = [
        "slices.parquet",
        "quarantine.csv",
        "ingest.json",
        *(f"pixels/{p.name}" for p in (folder / "pixels").iterdir()),
    ]
    assert not [path for path in folder.rglob("*") if ".part" in path.name]
    return {name: (folder / name).read_bytes() for name in made}


@pytest.mark.parametrize("source", ["folder", "zip"])
def test_an_interrupted_ingest_does_only_what_is_missing(
    competition, tmp_path, monkeypatch, capsys, source
):
    """35 train and 5 test slices, one of them without pixels, in chunks and shards of 8."""
    monkeypatch.setattr(pipeline.ingestion.file_listing, "CHUNK_FILES", 8)
    monkeypatch.setattr(ct.pixel_cache.writer, "SHARD_SLICES", 8)
    data = (
        shutil.copytree(competition, tmp_path / "data")
        if source == "folder"
        else pack(competition, tmp_path / "data.zip")
    )
    for name in "ab":
        assert (
            run.main(["new", f"--run={tmp_path / name}", "--recipe=micro", f"--data={data}"]) == 0
        )
    watch, words = Watch(monkeypatch), ["ingest", f"--run={tmp_path / 'b'}", "--workers=1"]
    assert watch.run(["ingest", f"--run={tmp_path / 'a'}", "--workers=1"]) == (0, 40, 40)
    want = tables(tmp_path / "a")
    assert len(list((tmp_path / "a" / "pixels").glob("shard-*"))) == 5
    assert watch.run(words, header=20) == (130, 20, 0)
    assert watch.run(words, header=10) == (130, 10, 0)  # two chunks of 8 were kept, and now three
    assert watch.run(words, pixels=17) == (130, 40 - 24, 17)
    assert "the same command continues" in capsys.readouterr().err
    assert not (tmp_path / "b" / "slices.parquet").exists()
    if source == "folder":
        assert watch.run(words) == (0, 0, 40 - 16)
        assert tables(tmp_path / "b") == want
        return
    os.utime(data, (1, 1))  # another source: nothing of the old one is used
    assert watch.run(words, pixels=9) == (130, 40, 9)
    recipe = tmp_path / "b" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("size: 32", "size: 48"))
    assert watch.run(words, pixels=39) == (130, 0, 39)  # the headers stay, the pixels don't
    recipe.write_text(recipe.read_text().replace("size: 48", "size: 32"))
    assert watch.run(words) == (0, 0, 40)
    assert tables(tmp_path / "b") == want
    assert watch.run(words) == (0, 0, 0) and "ingest: fresh" in capsys.readouterr().out


def flip(path):
    """Flip a bit in the middle of a file."""
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 0x10
    path.write_bytes(whole)


def test_damaged_pieces_of_an_interrupted_ingest_are_read_again(
    competition, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(pipeline.ingestion.file_listing, "CHUNK_FILES", 8)
    monkeypatch.setattr(ct.pixel_cache.writer, "SHARD_SLICES", 8)
    for name in "ab":
        assert (
            run.main(["new", f"--run={tmp_path / name}", "--recipe=micro", f"--data={competition}"])
            == 0
        )
    watch, words = Watch(monkeypatch), ["ingest", f"--run={tmp_path / 'b'}", "--workers=1"]
    assert watch.run(["ingest", f"--run={tmp_path / 'a'}", "--workers=1"]) == (0, 40, 40)
    assert watch.run(words, pixels=39) == (130, 40, 39)
    work = tmp_path / "b" / "ingest.part"
    flip(work / "train-headers" / "00001.parquet")
    flip(work / "shards" / "shard-00000.parquet")
    flip(work / "pixels" / "shard-00002.blosc2")
    capsys.readouterr()
    assert watch.run(words, pixels=20) == (130, 8, 20)  # the chunk; two shards, and a third begun
    out = capsys.readouterr().out
    for name in ("train-headers/00001", "shards/shard-00000"):
        assert f"{name}.parquet is damaged; it is made anew" in out
    assert "shard-00002.blosc2 is damaged; it is made anew" in out
    assert watch.run(words) == (0, 0, 8)
    assert tables(tmp_path / "b") == tables(tmp_path / "a")


def test_an_ingest_killed_before_its_receipt_reads_nothing_twice(
    competition, tmp_path, monkeypatch
):
    assert (
        run.main(["new", f"--run={tmp_path / 'r'}", "--recipe=micro", f"--data={competition}"]) == 0
    )
    watch, words = Watch(monkeypatch), ["ingest", f"--run={tmp_path / 'r'}", "--workers=1"]

    def cut(root, paths):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline.stages.ingest, "stamp_files", cut)
    assert watch.run(words) == (130, 40, 40) and (tmp_path / "r" / "pixels").is_dir()
    monkeypatch.undo()
    assert Watch(monkeypatch).run(words) == (0, 0, 0)


def test_a_refused_label_does_not_cost_the_headers_twice(competition, tmp_path, monkeypatch):
    data = shutil.copytree(competition, tmp_path / "data")
    labels = (data / "stage_2_train.csv").read_text()
    (data / "stage_2_train.csv").write_text(labels[: labels.rindex("ID_")])  # the last row is lost
    watch = Watch(monkeypatch)
    assert run.main(["new", f"--run={tmp_path / 'r'}", "--recipe=micro", f"--data={data}"]) == 0
    assert watch.run(["ingest", f"--run={tmp_path / 'r'}", "--workers=1"]) == (1, 40, 0)
    (data / "stage_2_train.csv").write_text(labels)
    assert watch.run(["ingest", f"--run={tmp_path / 'r'}", "--workers=1"]) == (0, 0, 40)


@pytest.mark.slow
def test_killed_in_the_middle_of_every_stage(fresh, finished):
    killed = [stage for stage in STAGES for wait in (0.0, 0.4, 1.5) if kill_in(fresh, stage, wait)]
    # the others may be too quick to hit
    assert set(killed) >= {"ingest", "train", "predict", "tune", "stack"}
    assert run.main(["all", f"--run={fresh}", "--workers=2"]) == 0
    assert (fresh / "submission.csv").read_bytes() == (finished / "submission.csv").read_bytes()
    assert not [path for path in fresh.rglob("*") if path.name.endswith(".part")]


@pytest.mark.slow
def test_killed_tuning_at_many_moments(fresh, finished, tmp_path):
    """The trials of a killed search are continued: a begun one is failed and run again."""
    shutil.copytree(finished, tmp_path / "copy")
    for name in ("tune", "stack", "submit", "report"):
        (tmp_path / "copy" / "receipts" / f"{name}.json").unlink()
    shutil.rmtree(tmp_path / "copy" / "stage2" / "tune")
    killed = [kill_in(tmp_path / "copy", "tune", wait) for wait in (2.0, 2.3, 2.6, 2.9, 3.2)]
    assert any(killed)
    assert run.main(["all", f"--run={tmp_path / 'copy'}", "--workers=2"]) == 0
    assert (tmp_path / "copy" / "submission.csv").read_bytes() == (
        finished / "submission.csv"
    ).read_bytes()


WORKERS_SCRIPT = """import sys, time; sys.path.insert(0, sys.argv[1])
from ct.system.parallel_jobs import run_jobs
if __name__ == '__main__':
"""


def test_workers_end_with_their_parent():
    """A worker that outlives its killed parent would write beside the process that resumes."""
    script = f"{WORKERS_SCRIPT}    list(run_jobs(time.sleep, [(60,), (60,)], 2))\n"
    path = os.path.join(os.environ.get("TMPDIR", "/tmp"), f"ich_engine_{os.getpid()}.py")
    with open(path, "w", encoding="utf-8") as file:
        file.write(script)
    try:
        parent = subprocess.Popen([sys.executable, path, str(ROOT)])
        children = []
        for _ in range(100):
            time.sleep(0.1)
            children = _children(parent.pid)
            if len(children) >= 3:  # two workers, and the tracker of shared resources
                break
        time.sleep(1.5)
        parent.kill()
        parent.wait()
        for _ in range(100):  # within seconds; on a busy machine not within one
            if not any(map(_alive, children)):
                break
            time.sleep(0.1)
        assert len(children) >= 2
        assert [pid for pid in children if _alive(pid)] == []
    finally:
        os.unlink(path)


def test_ctrl_c_is_handled_by_the_parent_alone(tmp_path):
    """A worker that is interrupted while it starts would print a traceback of its own."""
    (tmp_path / "jobs.py").write_text(
        f"{WORKERS_SCRIPT}    list(run_jobs(time.sleep, [(0.5,)] * 50, 2))\n"
    )
    words = [sys.executable, str(tmp_path / "jobs.py"), str(ROOT)]
    with subprocess.Popen(
        words, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as parent:
        # two workers, and the tracker of shared resources
        while parent.poll() is None and len(_children(parent.pid)) < 3:
            time.sleep(0.01)
        os.killpg(parent.pid, signal.SIGINT)
        stderr = parent.communicate()[1]
    assert stderr.count("Traceback") == 1 and stderr.rstrip().endswith("KeyboardInterrupt"), stderr


def _children(pid):
    """Read from /proc, as `ps` is not installed everywhere."""
    listed = {
        int(entry.name): _stat(entry) for entry in Path("/proc").iterdir() if entry.name.isdigit()
    }
    return [child for child, fields in listed.items() if fields and int(fields[1]) == pid]


def _alive(pid):
    return (_stat(Path("/proc") / str(pid)) or "Z")[0] != "Z"


def _stat(process):
    """Fields after the name in a process' stat: state, parent, ...; [] if it has ended."""
    try:
        return (process / "stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def test_an_ingest_interrupted_while_moving_its_pixels_decodes_nothing_twice(
    competition, tmp_path, monkeypatch
):
    """A second ingest at another size, cut at each rename of a pixel folder and later flush."""
    assert (
        run.main(["new", f"--run={tmp_path / 'r'}", "--recipe=micro", f"--data={competition}"]) == 0
    )
    words, recipe, size = (
        ["ingest", f"--run={tmp_path / 'r'}", "--workers=1"],
        tmp_path / "r" / "recipe.yaml",
        32,
    )
    assert run.main(words) == 0
    for moment in range(8):
        size, seen = size + 1, []
        recipe.write_text(recipe.read_text().replace(f"size: {size - 1}\n", f"size: {size}\n"))

        def cut(function, calls=seen, moment=moment):
            def call(path, *more):
                if {"pixels", "pixels.part"} & {
                    Path(path).name,
                    *(Path(name).name for name in more),
                }:
                    calls.append(path)
                    if len(calls) == moment + 2:
                        raise KeyboardInterrupt
                return function(path, *more)

            return call

        for module, name in (
            (os, "rename"),
            (os, "replace"),
            (ct.storage.atomic_write, "flush"),
            (pipeline.stages.ingest, "flush"),
        ):
            monkeypatch.setattr(module, name, cut(getattr(module, name)))
        status = run.main(words)
        monkeypatch.undo()
        if status == 0:
            break
        assert status == 130
        assert Watch(monkeypatch).run(words) == (0, 0, 0), seen
        monkeypatch.undo()
    assert moment == 2
