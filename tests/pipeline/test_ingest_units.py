"""The units of ingest: in any order and process, damaged or interrupted, the same bytes."""

import errno
import os
import shutil

import pytest
from tiny_dicom import write_slice
from tiny_zip import pack

import run
from ct.dicom.header_table import read_header_chunk
from ct.errors import InputError, MachineFault
from ct.pixel_cache import writer
from ct.sources.folder import DiskFile
from ct.storage.file_formats import read_json, read_table, write_table
from ct.storage.sealed_files import seal
from pipeline.ingestion import file_listing, header_units, pixel_units
from pipeline.ingestion.ingest_work import IngestWork, pieces_of_units
from pipeline.input_digests import input_digests
from pipeline.registry import STAGES
from pipeline.run_context import Run
from pipeline.stage_runner import units_of
from pipeline.units.unit_runner import run_unit

# files in the work folder that an older version did not write
NEW_FILES = ("files.json", "source.json", "labels.parquet", "files", "selection.json")
NEW_FILES += ("slices.parquet", "header-quarantine.parquet", "counts.json", "pixel-files")


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """35 train and 5 test slices: 5 + 1 chunks, 5 shards, a unit for each two of them."""
    monkeypatch.setattr(file_listing, "CHUNK_FILES", 8)
    monkeypatch.setattr(writer, "SHARD_SLICES", 8)
    monkeypatch.setattr("pipeline.ingestion.ingest_work.FEW_UNITS", 4)
    monkeypatch.setattr(pixel_units, "UNIT_SHARDS", 2)
    monkeypatch.setattr(file_listing, "UNIT_CHUNKS", 2)


@pytest.fixture(scope="module")
def data(competition, tmp_path_factory):
    """The competition with a copy of a slice, a stray file and one without pixels, and its zip."""
    folder = shutil.copytree(competition, tmp_path_factory.mktemp("data") / "data")
    train = sorted((folder / "stage_2_train").iterdir())
    shutil.copy(train[3], folder / "stage_2_train" / "copy.dcm")
    (folder / "stage_2_train" / "notes.txt").write_text("hello")
    train[9].write_bytes(train[9].read_bytes()[:-100])
    return {"folder": folder, "zip": pack(folder, folder.with_name("data.zip"))}


@pytest.fixture
def new_run(tmp_path, data):
    """A function that makes a run folder of the data."""

    def make(name, kind="folder", source=None):
        flags = [f"--run={tmp_path / name}", f"--data={source or data[kind]}"]
        assert run.main(["new", "--recipe=micro", *flags]) == 0
        (tmp_path / name / "key").write_bytes(b"one key in all runs".ljust(32))
        return tmp_path / name

    return make


def planned(root, **values):
    """The units of ingest that are known so far, by name."""
    opened = Run(root)
    for name, value in values.items():
        setattr(opened, name, value)
    units = units_of(opened, STAGES["ingest"], input_digests(opened, STAGES["ingest"]))
    return {unit.name: unit for unit in units}


def run_names(root, names):
    """Run the units whose names begin so, the last one first."""
    units = [unit for name, unit in planned(root).items() if name.startswith(f"ingest/{names}")]
    for unit in reversed(units):
        run_unit(unit, log=print)
        assert not unit.why_not_done() and not unit.why_not_done(verify=True)
    return len(units)


def made(root):
    """{name: bytes} of what ingest makes; nothing else may be left."""
    assert not (root / "ingest.part").exists()
    files = ["slices.parquet", "quarantine.csv", "ingest.json"]
    files += sorted(f"pixels/{path.name}" for path in (root / "pixels").iterdir())
    return {name: (root / name).read_bytes() for name in files}


@pytest.fixture
def expected(new_run):
    """What ingest makes in one process."""
    root = new_run("expected")
    assert run.main(["ingest", f"--run={root}", "--workers=1"]) == 0
    return made(root)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_units_in_any_order_make_the_same_bytes(new_run, expected, kind, monkeypatch):
    root = new_run("r", kind)
    assert list(planned(root)) == ["ingest/files"] and not (root / "ingest.part").exists()
    assert run_names(root, "files") == 1
    assert list(planned(root))[1:] == [*(f"ingest/headers/{n}" for n in range(3)), "ingest/slices"]
    assert planned(root)["ingest/slices"].needs == tuple(f"ingest/headers/{n}" for n in range(3))
    if kind == "zip":  # the directory of a zip is read once
        monkeypatch.setattr("ct.sources.zip_archive.zipfile.ZipFile", None)
    assert run_names(root, "headers") == 3
    assert run_names(root, "slices") == 1
    assert run_names(root, "pixels") == 3
    assert run.main(["ingest", f"--run={root}", "--workers=1"]) == 0
    assert made(root) == expected
    assert expected["quarantine.csv"].count(b"\n") == 4  # title, copy, stray file, no pixels


def test_each_piece_is_made_by_one_unit(monkeypatch):
    monkeypatch.setattr("pipeline.ingestion.ingest_work.FEW_UNITS", 16)
    for count in (0, 1, 5, 15, 16, 100, 2000, 50_000):
        pieces = pieces_of_units(count, 4)
        assert [number for some in pieces for number in some] == list(range(count))
        assert len(pieces) <= 2000 and all(pieces)
    assert len(pieces_of_units(15, 4)) == 15  # few pieces: a core each
    assert len(pieces_of_units(1708, 4)) == 427
    assert len(pieces_of_units(150_000, 4)) == 2000


def test_a_unit_stopped_in_between_goes_on_with_its_next_piece(new_run, monkeypatch):
    root, chunks, real = new_run("r"), [], read_header_chunk
    run_names(root, "files")

    def stop_at_the_second(*arguments):
        chunks.append(arguments)
        if len(chunks) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(header_units, "read_header_chunk", stop_at_the_second)
    unit = planned(root)["ingest/headers/0"]
    with pytest.raises(KeyboardInterrupt):
        run_unit(unit, log=print)
    assert unit.why_not_done() and IngestWork(root).header_chunk("train", 0).exists()
    run_unit(unit, log=print)
    assert not unit.why_not_done(verify=True) and len(chunks) == 3


def test_the_work_of_an_older_version_is_continued(new_run, expected, monkeypatch):
    """It left chunks, records and shards, and no lists of files."""
    root = new_run("r")
    for names in ("files", "headers", "slices", "pixels"):
        run_names(root, names)
    work = IngestWork(root)
    for name in NEW_FILES:
        path = work.folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_table(work.shard_record(1), read_table(work.shard_record(1)).drop(columns="crc32"))
    seal(work.shard_record(1))
    for module, name in ((header_units, "read_header_chunk"), (pixel_units, "write_shard")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("it was there"))
    assert run.main(["ingest", f"--run={root}", "--workers=1"]) == 0
    assert made(root) == expected


@pytest.fixture
def failing(monkeypatch):
    """A set of names of files that the system cannot read."""
    names, head = set(), DiskFile.head

    def fail_or_read(file, count):
        if os.path.basename(file.path) in names:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), file.path)
        return head(file, count)

    monkeypatch.setattr(DiskFile, "head", fail_or_read)
    return names


def test_a_file_that_may_become_readable_is_tried_again_by_the_next_ingest(
    new_run, expected, failing
):
    root = new_run("r")
    run_names(root, "files")
    work = IngestWork(root)
    name = read_table(work.header_list(0))["name"].iloc[2]
    failing.add(os.path.basename(name))
    with pytest.raises(MachineFault, match="--quarantine-unreadable"):
        run_unit(planned(root)["ingest/headers/0"], log=print)
    assert not list(work.folder.glob("train-headers/*"))
    now = {"quarantine_unreadable": True, "started": 0.0}
    run_unit(planned(root, **now)["ingest/headers/0"], log=print)
    table = read_table(work.header_chunk("train", 0))
    assert (table["reason"] == "cannot be read: permission denied").sum() == 1
    assert not planned(root, **now)["ingest/headers/0"].why_not_done(verify=True)
    # a call that begins later, with the flag or without it
    assert planned(root, quarantine_unreadable=True)["ingest/headers/0"].why_not_done()
    failing.clear()
    assert run.main(["ingest", f"--run={root}", "--workers=1"]) == 0
    assert made(root) == expected


def test_work_on_other_files_is_not_removed_while_a_unit_runs(new_run, tmp_path, data, capsys):
    source = shutil.copytree(data["folder"], tmp_path / "changed")
    root = new_run("r", source=source)
    run_names(root, "files")
    before, work = planned(root), IngestWork(root)
    write_slice(source / "stage_2_test" / "new.dcm", name="ID_abcdef012")
    words = ["ingest", f"--run={root}", "--workers=1"]
    with work.held(before["ingest/headers/0"].inputs):
        assert run.main(words) == 1
    assert "another process reads the files of this run as they were" in capsys.readouterr().err
    run_unit(before["ingest/headers/0"], log=print)
    chunk = work.header_chunk("train", 0)
    assert chunk.exists()
    run_unit(planned(root)["ingest/files"], log=print)  # nobody holds it
    assert not chunk.exists() and planned(root)["ingest/headers/0"].why_not_done()
    with pytest.raises(InputError, match="the files of the ingest have changed"):
        run_unit(before["ingest/headers/1"], log=print)
    assert not list(work.folder.glob("*-headers/*"))


def test_a_late_shard_does_not_begin_a_finished_ingest_again(new_run, expected):
    root = new_run("r")
    files = planned(root)["ingest/files"]
    assert files.why_not_done() == "not made yet"
    assert run.main(["ingest", f"--run={root}", "--workers=1"]) == 0
    files.run(print, None)
    assert not files.why_not_done() and made(root) == expected
    assert list(planned(root)) == ["ingest/files"]


def test_a_unit_of_pixels_has_a_list_of_its_own_files(new_run):
    root = new_run("r")
    for names in ("files", "headers", "slices"):
        run_names(root, names)
    work = IngestWork(root)
    assert work.folder.stat().st_mode & 0o777 == 0o700
    lists = [read_table(path) for path in sorted(work.pixel_lists.iterdir())]
    own = [set(files.loc[files["shard"] >= 0, "name"]) for files in lists]
    assert sum(map(len, own)) == len(set().union(*own)) == read_json(work.counts)["slices"] == 40
