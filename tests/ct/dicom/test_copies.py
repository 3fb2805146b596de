"""Several files of one SOPInstanceUID: the table holds the first whose pixels decode."""

import errno
import os

import pytest
from tiny_dicom import write_slice
from tiny_zip import pack

from ct.dicom import header_table, hounsfield
from ct.dicom.header_table import read_headers
from ct.errors import MachineFault
from ct.sources.folder import DiskFile, Folder, list_files
from ct.sources.zip_archive import open_zip

KEY = b"key"
SLICE = "ID_000000001"
# damaged copies, and the one in the table
CASES = [("", "a"), ("a", "b"), ("b", "a"), ("ab", "c"), ("bc", "a"), ("abc", "a")]


def truncated(path):
    """Cut a file's last bytes off: of its pixels, so that its header still reads."""
    path.write_bytes(path.read_bytes()[:-20])


def three_copies(root, damaged):
    """Three copies of a slice, each at a height of its own, two other slices, two text files."""
    for copy in "abc":
        path = write_slice(root / f"{copy}.dcm", name=SLICE, ImagePositionPatient=[0, 0, ord(copy)])
        if copy in damaged:
            truncated(path)
    write_slice(root / "0.dcm", name="ID_000000002")
    for name in ("d.dcm", "e.dcm"):
        write_slice(root / name, name="ID_000000003")
    for name in ("f.dcm", "g.dcm"):
        (root / name).write_bytes(b"no")
    return root


def check(table, bad, used):
    assert table["path"].tolist() == ["0.dcm", f"{used}.dcm", "d.dcm"]
    assert table.loc[SLICE, "ipp_z"] == ord(used)  # the header is that file's, too
    reasons = {
        f"{copy}.dcm": f"same SOPInstanceUID as {used}.dcm" for copy in "abc" if copy != used
    }
    reasons |= {"e.dcm": "same SOPInstanceUID as d.dcm"} | dict.fromkeys(
        ["f.dcm", "g.dcm"], "not a DICOM file"
    )
    assert list(zip(bad["path"], bad["reason"], strict=True)) == sorted(reasons.items())


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(("damaged", "used"), CASES)
def test_the_first_copy_that_decodes_is_in_the_table(tmp_path, damaged, used, zipped):
    root = three_copies(tmp_path / "in", damaged)
    source = open_zip(pack(root, tmp_path / "a.zip")) if zipped else root
    check(*read_headers(source, list_files(root), KEY, workers=1), used)


def test_the_choice_does_not_depend_on_chunks_and_workers(tmp_path, monkeypatch):
    root = three_copies(tmp_path / "in", "ab")
    monkeypatch.setattr(header_table, "CHUNK_FILES", 2)  # the copies lie in several
    monkeypatch.setattr(header_table, "COPIED_SLICES", 1)
    for workers in (1, 2):
        check(*read_headers(root, list_files(root), KEY, workers), "c")


def test_only_copies_are_decoded_and_none_after_the_first_that_decodes(tmp_path, monkeypatch):
    root, decoded = three_copies(tmp_path / "in", "a"), []
    real = hounsfield.read_hu
    monkeypatch.setattr(
        header_table,
        "read_hu",
        lambda file: decoded.append(os.path.basename(file.path)) or real(file),
    )
    read_headers(root, list_files(root), KEY, workers=1)
    assert decoded == ["a.dcm", "b.dcm", "d.dcm"]


def test_a_copy_that_cannot_be_read_stops_ingest_or_is_left_out(tmp_path, monkeypatch):
    root, real = three_copies(tmp_path / "in", ""), DiskFile.open

    def failing(file, mode="rb"):
        if file.path.endswith("a.dcm"):
            raise OSError(errno.EIO, "no")
        return real(file, mode)

    monkeypatch.setattr(DiskFile, "open", failing)
    source = Folder(root)
    with pytest.raises(MachineFault, match="--quarantine-unreadable"):
        read_headers(source, list_files(root), KEY, workers=1)
    source.quarantine_unreadable = True
    check(*read_headers(source, list_files(root), KEY, workers=1), "b")
