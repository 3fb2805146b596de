"""Several files of one SOPInstanceUID: the first whose pixels decode is the slice."""

import errno
import os

import pytest
from tiny_dicom import write_slice
from tiny_zip import pack

from ct.dicom import header_table as header_index
from ct.dicom import hounsfield as dicom
from ct.dicom.header_table import read_headers
from ct.errors import MachineFault
from ct.sources.folder import DiskFile, Folder, list_files
from ct.sources.zip_archive import open_zip

KEY = b"key"
SLICE = "ID_000000001"
# damaged copies, and the one taken
CASES = [("", "a"), ("a", "b"), ("b", "a"), ("ab", "c"), ("bc", "a"), ("abc", "a")]


def truncated(path):
    """Cut a file's last bytes off: of its pixels, so that its header still reads."""
    path.write_bytes(path.read_bytes()[:-20])


def three_copies(root, damaged):
    """Three copies of a slice, known by their heights, and around them two other slices and two
    files that are none.
    """
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


def check(table, bad, taken):
    assert table["path"].tolist() == ["0.dcm", f"{taken}.dcm", "d.dcm"]
    assert table.loc[SLICE, "ipp_z"] == ord(taken)  # the header is that file's, too
    reasons = {
        f"{copy}.dcm": f"same SOPInstanceUID as {taken}.dcm" for copy in "abc" if copy != taken
    }
    reasons |= {"e.dcm": "same SOPInstanceUID as d.dcm"} | dict.fromkeys(
        ["f.dcm", "g.dcm"], "not a DICOM file"
    )
    assert list(zip(bad["path"], bad["reason"], strict=True)) == sorted(reasons.items())


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(("damaged", "taken"), CASES)
def test_the_first_copy_that_decodes_is_taken(tmp_path, damaged, taken, zipped):
    root = three_copies(tmp_path / "in", damaged)
    source = open_zip(pack(root, tmp_path / "a.zip")) if zipped else root
    check(*read_headers(source, list_files(root), KEY, workers=1), taken)


def test_it_does_not_depend_on_chunks_workers_and_what_was_read_before(tmp_path, monkeypatch):
    root = three_copies(tmp_path / "in", "ab")
    monkeypatch.setattr(header_index, "CHUNK_FILES", 2)  # the copies lie in several
    monkeypatch.setattr(header_index, "COPIED_SLICES", 1)
    check(
        *read_headers(root, list_files(root), KEY, workers=1, chunk_folder=tmp_path / "parts"), "c"
    )
    kept = {path: path.read_bytes() for path in (tmp_path / "parts").glob("*.parquet")}
    assert len(kept) == 4
    check(
        *read_headers(root, list_files(root), KEY, workers=2, chunk_folder=tmp_path / "parts"), "c"
    )
    assert {path: path.read_bytes() for path in kept} == kept


def test_only_copies_are_decoded_and_none_after_the_one_that_is_taken(tmp_path, monkeypatch):
    root, decoded = three_copies(tmp_path / "in", "a"), []
    real = dicom.read_hu
    monkeypatch.setattr(
        header_index,
        "read_hu",
        lambda file: decoded.append(os.path.basename(file.path)) or real(file),
    )
    read_headers(root, list_files(root), KEY, workers=1)
    assert decoded == ["a.dcm", "b.dcm", "d.dcm"]


def test_a_copy_that_the_machine_does_not_hand_over_stops_or_is_passed_over(tmp_path, monkeypatch):
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
