"""Names of files in tables: what is not printable is escaped, and leads back; ingest and score."""

import os
import shutil
import subprocess

import pandas as pd
import pytest
from tiny_dicom import write_slice
from tiny_zip import pack

import run
from ct.dicom.header_table import read_headers
from ct.dicom.hounsfield import read_hu
from ct.privacy.escaped_names import escaped_name, unescaped_name
from ct.privacy.pseudonyms import pseudonym
from ct.sources.folder import Folder, list_files
from ct.sources.zip_archive import open_zip
from ct.storage.file_formats import read_table

ESCAPED = {
    "a.dcm": "a.dcm",
    "Doe\u00a0Jane/CT 9.41\u202fAM.dcm": "Doe\u00a0Jane/CT 9.41\u202fAM.dcm",
    "CT\uf022Kopf": "CT\uf022Kopf",
    "Kopf\u00adCT": "Kopf\u00adCT",
    "line\nbreak\r\t.dcm": r"line\x0abreak\x0d\x09.dcm",
    "\x7f\x85\u2028": r"\x7f\xc2\x85\xe2\x80\xa8",
    "gr\udcf6sse.dcm": r"gr\xf6sse.dcm",
    "scan#3": r"scan\x233",
    "scan#10.dcm": "scan#10.dcm",
    "CT#03": "CT#03",  # no number of a frame
    "#3/a": "#3/a",
    r"back\slash\x0aend\x": r"back\slash\x5cx0aend\x",
    "\udcc3\udcc3\x85\n": r"\xc3\xc3\xc2\x85\x0a",
}


@pytest.mark.parametrize("name", ESCAPED)
def test_names_are_escaped_and_lead_back(name):
    escaped = escaped_name(name)
    assert escaped == ESCAPED[name] and unescaped_name(escaped) == name
    escaped.encode()
    assert len(escaped.splitlines()) == 1


def test_any_bytes_lead_back():
    names = {os.fsdecode(bytes([a, b])) for a in range(1, 256) for b in range(1, 256, 7)}
    assert {unescaped_name(escaped_name(name)) for name in names} == names
    assert len({escaped_name(name) for name in names}) == len(names)


@pytest.fixture
def odd_folder(tmp_path):
    """One slice under each of the names, and a text in Latin-1."""
    root = tmp_path / "in"
    for number, name in enumerate(ESCAPED):
        path = write_slice(
            tmp_path / "one.dcm", name=f"ID_{number}", ImagePositionPatient=[0, 0, number]
        )
        target = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copy(path, target)
    with open(os.fsencode(root) + b"/Gr\xfc\xdfe.txt", "wb") as file:
        file.write(b"hello")
    return root


def test_a_folder_with_such_names_is_read(odd_folder):
    names = list_files(odd_folder)
    assert names == sorted([*ESCAPED.values(), r"Gr\xfc\xdfe.txt"])
    table, refused = read_headers(odd_folder, names, b"key", workers=1)
    assert set(table["path"]) == set(ESCAPED.values()) and len(table) == len(ESCAPED)
    assert refused["path"].tolist() == [r"Gr\xfc\xdfe.txt"]
    assert refused["reason"].tolist() == ["not a DICOM file"]
    assert refused["slice_id"].tolist() == [pseudonym(r"Gr\xfc\xdfe", b"key", "slice")]
    for file in Folder(odd_folder).select(table["path"]):
        assert read_hu(file)[0].shape == (3, 4)


def test_a_zip_with_such_names_gives_the_same(odd_folder, tmp_path):
    for path in (tmp_path / "in").rglob("*"):
        if (
            path.is_file()
            and not str(path).isprintable()
            and any(0xDC80 <= ord(c) <= 0xDCFF for c in str(path))
        ):
            path.unlink()  # zipfile writes none of these
    source = open_zip(pack(tmp_path / "in", tmp_path / "a.zip"))
    assert source.all_files() == list_files(odd_folder)
    for a, b in zip(
        read_headers(source, source.all_files(), b"key", workers=1),
        read_headers(odd_folder, list_files(odd_folder), b"key", workers=1),
        strict=True,
    ):
        pd.testing.assert_frame_equal(a, b)


def test_a_break_in_a_slices_file_name_through_ingest(competition, tmp_path, capsys):
    """As in a public copy of the competition: the slice is read, a stray file is quarantined."""
    data = shutil.copytree(competition, tmp_path / "data")
    train = sorted((data / "stage_2_train").iterdir())
    train[0].rename(train[0].with_name(f"{train[0].stem}\n.dcm"))
    os.rename(train[1], os.fsencode(data / "stage_2_train") + b"/\xff.dcm")
    (data / "stage_2_test" / "notes\nof DOE.txt").write_text("no DICOM")
    tables = []
    for name, folder in (("a", competition), ("b", data)):
        assert (
            run.main(["new", f"--run={tmp_path / name}", "--recipe=micro", f"--data={folder}"]) == 0
        )
        (tmp_path / name / "key").write_bytes(bytes(32))
        assert run.main(["ingest", f"--run={tmp_path / name}", "--workers=1"]) == 0
        tables.append(read_table(tmp_path / name / "slices.parquet"))
    pd.testing.assert_frame_equal(tables[0].drop(columns="path"), tables[1].drop(columns="path"))
    changed = tables[1].loc[tables[0]["path"] != tables[1]["path"]]
    # nothing of their names is left
    assert len(changed) == 2 and changed["path"].str.fullmatch(r"stage_2_train/ID_[0-9a-f]+").all()
    # beside the truncated file of every competition
    bad = pd.read_csv(tmp_path / "b" / "quarantine.csv").query("kind == 'header'")
    assert bad["path"].tolist() == [r"stage_2_test/notes\x0aof DOE.txt"]
    assert bad["reason"].tolist() == ["not a DICOM file"]
    assert run.main(["status", f"--run={tmp_path / 'b'}"]) == 0
    assert "fresh" in capsys.readouterr().out
    # the digest of the folder changes
    os.utime(os.fsencode(data / "stage_2_train") + b"/\xff.dcm", (1, 1))
    assert run.main(["status", f"--run={tmp_path / 'b'}"]) == 0
    assert "train files changed" in capsys.readouterr().out


def test_score_reads_them(finished, odd_folder, tmp_path):
    words = [
        f"--run={finished}",
        f"--data={odd_folder}",
        f"--to={tmp_path / 's'}",
        "--workers=1",
        "--anyway",
    ]
    assert run.main(["score", *words]) == 0
    names = pd.read_csv(tmp_path / "s" / "names.csv")
    assert set(names["path"]) >= {"CT\uf022Kopf", r"line\x0abreak\x0d\x09.dcm", r"gr\xf6sse.dcm"}
    assert (
        len(
            subprocess.run(
                ["wc", "-l", tmp_path / "s" / "names.csv"], capture_output=True
            ).stdout.split()
        )
        == 2
    )
