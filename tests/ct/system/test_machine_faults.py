"""The machine's faults stop a stage and count as no file's; one unreadable file may be left out."""

import errno
import os
import shutil
import socket
import zipfile

import pandas as pd
import pytest
from tiny_dicom import write_slice
from tiny_zip import pack

import run
from ct.dicom import header_table
from ct.dicom.acquisition import read_acquisition
from ct.dicom.header_table import read_header_chunk, read_headers
from ct.dicom.hounsfield import read_hu
from ct.errors import MachineFault
from ct.pixel_cache import writer
from ct.pixel_cache.writer import shard_parts, write_cache, write_shard
from ct.sources.folder import DiskFile, Folder, list_files
from ct.sources.source import Unreadable
from ct.sources.zip_archive import ZipMember, open_zip
from pipeline.freshness import tree_digest
from pipeline.ingestion import file_listing

KEY = b"key"
NAMES = [f"{number}.dcm" for number in range(6)]
FLAG = "--quarantine-unreadable"


@pytest.fixture
def source(tmp_path):
    for number, name in enumerate(NAMES):
        write_slice(
            tmp_path / "in" / name, name=f"ID_{number}", ImagePositionPatient=[0, 0, number]
        )
    (tmp_path / "in" / "2.dcm").write_bytes(b"no DICOM")
    return Folder(tmp_path / "in")


@pytest.fixture
def failing(monkeypatch):
    """`failing(code, names, times)`: the next `times` reads of these files fail with this errno."""
    left = {}
    head, open_ = DiskFile.head, DiskFile.open

    def check(file):
        name = os.path.basename(file.path)
        if left.get(name, (0, 0))[1] > 0:
            code, times = left[name]
            left[name] = code, times - 1
            raise MemoryError if code is None else OSError(code, os.strerror(code), file.path)

    monkeypatch.setattr(DiskFile, "head", lambda self, count: check(self) or head(self, count))
    monkeypatch.setattr(DiskFile, "open", lambda self, mode="rb": check(self) or open_(self, mode))
    return lambda code, names=NAMES, times=10**9: left.update(dict.fromkeys(names, (code, times)))


def headers(source):
    return read_headers(source, NAMES, KEY, workers=1)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.EMFILE, "too many open files: raise the limit .ulimit -n"),
        (errno.ENFILE, "too many open files in system"),
        (errno.ENODEV, "no such device: mount it again"),
        (errno.ENOTCONN, "not connected: mount it again"),
        (errno.ENOMEM, "cannot allocate memory"),
        (None, "out of memory: take fewer processes .--workers=1"),
        (errno.ENOENT, "no such file or directory: is its disk still there"),
        (errno.EIO, "input/output error: is its disk still there"),
        (errno.ESTALE, "stale file handle: is its disk still there"),
        (errno.EACCES, "permission denied: is its disk still there, and may you read it"),
    ],
)
@pytest.mark.parametrize("quarantine", [False, True])
def test_a_fault_of_all_files_stops_and_is_no_files(
    source, failing, tmp_path, code, message, quarantine
):
    failing(code)
    source.quarantine_unreadable = quarantine
    with pytest.raises(MachineFault, match=message) as error:
        headers(source)
    assert "\n" not in str(error.value)
    assert str(tmp_path) not in str(error.value)
    assert "dcm" not in str(error.value)
    assert "the same command continues" in str(error.value)


def test_a_fault_that_passes_leaves_no_trace(source, failing):
    expected = headers(source)
    failing(errno.EIO, ["3.dcm"], times=1)
    for a, b in zip(headers(source), expected, strict=True):
        pd.testing.assert_frame_equal(a, b)
    assert expected[1]["reason"].tolist() == ["not a DICOM file"]


def test_one_file_that_fails_again_names_the_flag_that_leaves_it_out(source, failing):
    failing(errno.EACCES, ["3.dcm"])
    with pytest.raises(
        MachineFault, match=f"^a file of the data cannot be read, permission denied, .*{FLAG}"
    ):
        headers(source)
    source.quarantine_unreadable = True
    table, refused = headers(source)
    assert refused["reason"].tolist() == ["not a DICOM file", "cannot be read: permission denied"]
    chunk = read_header_chunk(source.select(NAMES), NAMES, KEY)
    assert len(table) == 4 and not chunk.lasting  # so the next run tries it again
    failing(0, times=0)
    source.quarantine_unreadable = False
    assert len(headers(source)[0]) == 5
    assert read_header_chunk(source.select(NAMES), NAMES, KEY).lasting


@pytest.mark.parametrize("bad", [range(2, 11), range(9), range(3, 12)])
@pytest.mark.parametrize("zipped", [False, True])
def test_many_in_a_row_that_fail_may_be_left_out_where_others_read(
    tmp_path, monkeypatch, failing, bad, zipped
):
    """For any chunks: all files of a chunk may fail."""
    names = [f"{number:02d}.dcm" for number in range(12)]
    for number, name in enumerate(names):
        write_slice(
            tmp_path / "in" / name, name=f"ID_{number}", ImagePositionPatient=[0, 0, number]
        )
    source = (
        open_zip(pack(tmp_path / "in", tmp_path / "a.zip")) if zipped else Folder(tmp_path / "in")
    )
    names = source.all_files()
    table, _ = read_headers(source, names, KEY, workers=1)
    monkeypatch.setattr(header_table, "CHUNK_FILES", 3)
    monkeypatch.setattr(writer, "SHARD_SLICES", 3)
    if zipped:
        failing_names, packed_bytes = {names[number] for number in bad}, ZipMember._packed_bytes

        def fail_or_read(file, count):
            if file.name in failing_names:
                raise OSError(errno.EIO, "no")
            return packed_bytes(file, count)

        monkeypatch.setattr(ZipMember, "_packed_bytes", fail_or_read)
    else:
        failing(errno.EIO, [names[number] for number in bad])
    with pytest.raises(MachineFault, match=FLAG):
        read_headers(source, names, KEY, workers=1)
    source.quarantine_unreadable = True
    assert len(read_headers(source, names, KEY, workers=1)[0]) == 3
    facts = write_cache(tmp_path / "c", source, table, 16, 1)
    assert facts["readable"].tolist() == [number not in bad for number in range(12)]


def test_a_file_without_neighbours_may_be_left_out(source, failing):
    failing(errno.EACCES)
    with pytest.raises(MachineFault, match="permission denied"):
        read_headers(source, NAMES[:1], KEY, workers=1)
    source.quarantine_unreadable = True
    table, refused = read_headers(source, NAMES[:1], KEY, workers=1)
    assert table.empty and refused["reason"].tolist() == ["cannot be read: permission denied"]


def test_the_pixel_cache_and_acquisition_follow_the_same_rule(source, failing, tmp_path):
    table, _ = headers(source)

    def cache():
        return write_cache(tmp_path / "c", source, table, 16, 1)

    def shard():
        files = source.select(table["path"].tolist())
        return write_shard(tmp_path / "s" / "shard", files, shard_parts(table)[0], 16)

    for code in (errno.EMFILE, errno.EIO, None):
        failing(code)
        with pytest.raises(MachineFault):
            cache()
        with pytest.raises(MachineFault):
            read_acquisition(source, table["path"].tolist())
    failing(0, times=0)
    failing(errno.EIO, ["3.dcm"])
    with pytest.raises(MachineFault, match=FLAG):
        cache()
    with pytest.raises(MachineFault, match=FLAG):
        read_acquisition(source, table["path"].tolist())
    with pytest.raises(MachineFault, match=FLAG):
        shard()
    assert not list(tmp_path.glob("s/*")) and not list(tmp_path.glob("c/*.blosc2"))
    source.quarantine_unreadable = True
    assert cache()["reason"].tolist() == ["", "", "cannot be read: input/output error", "", ""]
    assert not shard().lasting  # so the next call tries it again
    assert read_acquisition(source, table["path"].tolist())["sop_uid"].tolist() == [
        "ID_0",
        "ID_1",
        "",
        "ID_4",
        "ID_5",
    ]
    failing(0, times=0)
    assert cache()["readable"].all() and shard().lasting


def test_a_zip_whose_disk_goes_is_the_machines_fault(source, tmp_path):
    archive = pack(tmp_path / "in", tmp_path / "a.zip")
    packed = open_zip(archive)
    table, _ = headers(packed)
    archive.rename(tmp_path / "b.zip")
    with pytest.raises(MachineFault, match="no such file or directory: is its disk still there"):
        headers(packed)
    with pytest.raises(MachineFault, match="is its disk still there"):
        write_cache(tmp_path / "c", packed, table, 16, workers=1)


def test_a_zip_whose_directory_cannot_be_read_is_not_called_damaged(source, tmp_path, monkeypatch):
    archive = pack(tmp_path / "in", tmp_path / "a.zip")

    def fail(file):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(zipfile, "_EndRecData", fail)
    with pytest.raises(
        MachineFault, match="input/output error: is the disk of .*a.zip still there"
    ):
        open_zip(archive)


def test_a_folder_that_cannot_be_listed_is_the_machines_fault(tmp_path, monkeypatch):
    (tmp_path / "DOE JANE").mkdir()
    real = os.scandir

    def scandir(folder):
        if "DOE" in str(folder):
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(MachineFault, match="permission denied") as error:
        list_files(tmp_path)
    assert "DOE" not in str(error.value)


def test_a_file_that_vanishes_before_its_digest_is_the_machines_fault(tmp_path):
    with pytest.raises(MachineFault, match="no such file or directory") as error:
        tree_digest(tmp_path, ["DOE JANE/1.dcm"])
    assert "DOE" not in str(error.value)


def test_a_source_that_is_unmounted_in_mid_ingest(competition, tmp_path, monkeypatch, capsys):
    """One line; with the source mounted again, the same command continues, with the same result."""
    data = shutil.copytree(competition, tmp_path / "data")
    for name in ("a", "b"):
        assert (
            run.main(["new", f"--run={tmp_path / name}", "--recipe=micro", f"--data={data}"]) == 0
        )
    assert run.main(["ingest", f"--run={tmp_path / 'b'}", "--workers=1"]) == 0
    facts, count = header_table.read_slice_headers, [0]

    def unmounting(*arguments):
        count[0] += 1
        if count[0] == 15:
            data.rename(tmp_path / "unmounted")
        return facts(*arguments)

    monkeypatch.setattr(header_table, "read_slice_headers", unmounting)
    monkeypatch.setattr(file_listing, "CHUNK_FILES", 8)
    capsys.readouterr()
    assert run.main(["ingest", f"--run={tmp_path / 'a'}", "--workers=1"]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert [line for line in errors if line.startswith("error:")][0].startswith(
        "error: the data cannot be read, no such file"
    )
    (tmp_path / "unmounted").rename(data)
    assert run.main(["ingest", f"--run={tmp_path / 'a'}", "--workers=1"]) == 0
    for name in ("slices.parquet", "quarantine.csv", "ingest.json", "pixels/index.parquet"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_the_flag_reaches_ingest_and_score(competition, finished, tmp_path, failing, capsys):
    data = shutil.copytree(competition, tmp_path / "data")
    name = sorted(path.name for path in (data / "stage_2_test").iterdir())[1]
    failing(errno.EACCES, [name])
    assert (
        run.main(
            [
                "new",
                f"--run={tmp_path / 'r'}",
                "--recipe=micro",
                f"--data={data}",
                "--missing=prior",
            ]
        )
        == 0
    )
    words = ["ingest", f"--run={tmp_path / 'r'}", "--workers=1"]
    assert run.main(words) == 1 and FLAG in capsys.readouterr().err
    assert run.main([*words, FLAG]) == 0
    assert "cannot be read: permission denied" in (tmp_path / "r" / "quarantine.csv").read_text()
    words = [
        "score",
        f"--run={finished}",
        f"--data={data / 'stage_2_test'}",
        f"--to={tmp_path / 's'}",
        "--workers=1",
    ]
    assert run.main(words) == 1 and FLAG in capsys.readouterr().err
    assert run.main([*words, FLAG]) == 0
    assert "cannot be read: permission denied" in (tmp_path / "s" / "quarantine.csv").read_text()


def test_memory_and_open_files_outside_of_reading_are_one_line(monkeypatch, capsys):
    for error, message in (
        (MemoryError(), "out of memory; "),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
    ):
        monkeypatch.setattr(
            "pipeline.commands.dispatch.execute",
            lambda verb, options, error=error: (_ for _ in ()).throw(error),
        )
        assert run.main(["folds", "--run=r"]) == 1
        printed = capsys.readouterr().err
        assert printed.count("\n") == 1 and message in printed and "--workers=1" in printed


def test_links_to_a_disk_that_is_gone_are_files_that_cannot_be_read(source, tmp_path):
    """Left out without a message, the links to an unmounted disk would leave part of the data."""
    links = tmp_path / "links"
    links.mkdir()
    for name in ("0.dcm", "1.dcm", "4.dcm"):
        (links / name).symlink_to(tmp_path / "in" / name)
    (tmp_path / "in" / "1.dcm").unlink()
    names = list_files(links)
    assert names == ["0.dcm", "1.dcm", "4.dcm"] and tree_digest(links, names)
    with pytest.raises(MachineFault, match=f"no such file or directory, while others can.*{FLAG}"):
        read_headers(Folder(links), names, KEY, workers=1)
    shutil.rmtree(tmp_path / "in")
    with pytest.raises(MachineFault, match="is its disk still there"):
        read_headers(Folder(links), names, KEY, workers=1)


def test_a_link_to_itself_costs_itself(source, tmp_path):
    os.symlink("self", tmp_path / "in" / "self")
    names = list_files(tmp_path / "in")
    assert "self" in names
    assert Folder(tmp_path).folders() == ["in"]
    assert Folder(tmp_path / "in").folders() == []
    table, quarantine = read_headers(Folder(tmp_path / "in"), names, KEY, workers=1)
    assert len(table) == 5
    assert quarantine["reason"].tolist() == ["not a DICOM file", "a link that leads to itself"]


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_pipes_sockets_and_devices_are_quarantined_and_never_opened(
    source, tmp_path, monkeypatch, kind
):
    other = tmp_path / "in" / "x.dcm"
    if kind == "pipe":
        os.mkfifo(other)
    elif kind == "socket":
        monkeypatch.chdir(other.parent)  # a socket's path may have a hundred letters at most
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(other.name)
    else:
        other.symlink_to(os.devnull)
    names = list_files(tmp_path / "in")
    assert names == [*NAMES, "x.dcm"] and tree_digest(tmp_path / "in", names)
    assert Folder(tmp_path / "in").folders() == []
    table, quarantine = read_headers(source, names, KEY, workers=1)
    assert len(table) == 5
    assert dict(zip(quarantine["path"], quarantine["reason"], strict=True)) == {
        "2.dcm": "not a DICOM file",
        "x.dcm": "no ordinary file",
    }
    with pytest.raises(Unreadable, match="no ordinary file"):
        read_hu(other)


def test_a_pipe_does_not_show_that_the_disk_reads(source, failing, tmp_path):
    os.mkfifo(tmp_path / "in" / "x.dcm")
    failing(errno.EIO)
    source.quarantine_unreadable = True
    with pytest.raises(MachineFault, match="is its disk still there"):
        read_headers(source, [*NAMES, "x.dcm"], KEY, workers=1)
