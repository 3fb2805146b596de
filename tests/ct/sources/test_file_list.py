"""Lists of files: a process reads its part of a source in place, without the source."""

import json
from pathlib import Path

import pandas as pd
import pytest
from tiny_zip import pack

from ct.sources.file_list import (
    chosen_files,
    file_note,
    file_table,
    listed_source,
    noted_file,
    source_note,
)
from ct.sources.file_reader import probe_names
from ct.sources.folder import Folder
from ct.sources.zip_archive import open_zip

NAMES = ["a/2.dcm", "a/b/1.dcm", "a/ä.dcm", "z.dcm"]


@pytest.fixture(params=["folder", "zip", "inside a zip"])
def source(request, tmp_path):
    for name in NAMES:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 50)
    if request.param == "folder":
        return Folder(tmp_path / "in")
    around = "" if request.param == "zip" else "rsna/"
    whole = open_zip(pack(tmp_path / "in", tmp_path / "a.zip", around))
    return whole.subfolder("rsna") if around else whole


def test_listed_files_are_read_without_the_source(source, tmp_path, monkeypatch):
    note = json.loads(json.dumps(source_note(source)))
    file_table(source, NAMES[1:][::-1]).to_parquet(tmp_path / "list.parquet")
    monkeypatch.setattr("ct.sources.zip_archive.zipfile.ZipFile", None)  # it cannot be opened
    files = pd.read_parquet(tmp_path / "list.parquet")
    listed = listed_source(note, pd.concat([files, files[:1]]))  # a probe may be twice in a list
    chosen = chosen_files(listed, [NAMES[2], NAMES[1]], [NAMES[3]])
    assert [file.open().read() for file in chosen] == [
        name.encode() * 50 for name in (NAMES[2], NAMES[1])
    ]
    assert [file.open().read() for file in chosen.probes] == [NAMES[3].encode() * 50]
    expected = source.select([NAMES[1]])
    assert list(listed.select([NAMES[1]])) == list(expected)


def test_a_file_of_a_note_is_the_same_file(source, tmp_path):
    file = source.file(NAMES[0])
    assert noted_file(json.loads(json.dumps(file_note(file)))) == file
    assert noted_file(file_note(Path("relative/a.csv"))) == Path("relative/a.csv")


def test_probes_are_the_first_the_middle_and_the_last_name():
    assert probe_names(["a", "b", "c", "d", "e"]) == ["a", "c", "e"]
    assert probe_names(["a"]) == ["a"] and probe_names([]) == []
