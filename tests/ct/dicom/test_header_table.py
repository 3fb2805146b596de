"""The headers of many files: order, chunks, pseudonyms, the quarantine."""

import pandas as pd
import pytest
from tiny_dicom import (
    NAME,
    RETIRED,
    ZOO,
    needs_zoo,
    write_slice,
)

from ct.dicom import header_table
from ct.dicom.header_table import is_header_chunk, read_header_chunk, read_headers
from ct.privacy.pseudonyms import pseudonym
from ct.slices import HEADER_COLUMNS, ORIENTATION, POSITION
from ct.sources.folder import Folder, list_files
from ct.storage.file_formats import write_table

KEY = b"key"


@pytest.mark.parametrize("patient", ["", None])
def test_without_a_patient_id_the_study_may_count_as_the_patient(tmp_path, patient):
    write_slice(tmp_path / "a.dcm", PatientID=patient)
    _, refused = read_headers(tmp_path, ["a.dcm"], KEY)
    assert refused["reason"].tolist() == ["PatientID is missing or empty"]
    table, refused = read_headers(tmp_path, ["a.dcm"], KEY, patient_id_optional=True)
    assert refused.empty and table["study_id"].tolist() == ["ID_000000000c"]
    assert table["patient_id"].tolist() == [pseudonym("ID_000000000c", KEY, "patient")]
    write_slice(tmp_path / "a.dcm")
    assert read_headers(tmp_path, ["a.dcm"], KEY, patient_id_optional=True)[0][
        "patient_id"
    ].tolist() == ["ID_0000000b"]


@pytest.fixture
def folder(tmp_path):
    """Five slices, one of them twice, and two files that are no DICOM."""
    root = tmp_path / "root"
    for i in range(5):
        tags = {"PatientID": f"MRN-{i}", "ImagePositionPatient": [1, 2, i]}
        write_slice(root / f"s/ID_{4 - i:09}.dcm", name=f"ID_{4 - i:09}", **tags)
    write_slice(root / "s/a copy.dcm", name="ID_000000003")  # sorts after ID_000000003.dcm
    (root / "s/ID_900000000.dcm").write_bytes(b"no")
    (root / "notes DOE^JANE.txt").write_text("about JANE")
    return root


def test_read_headers(folder):
    done = []
    table, bad = read_headers(
        folder, list_files(folder)[::-1], KEY, workers=1, progress=done.append
    )
    assert table.index.tolist() == [f"ID_{i:09}" for i in range(5)]
    assert table.index.name == "slice_id"
    assert table["path"].tolist() == [f"s/ID_{i:09}.dcm" for i in range(5)]
    assert table["ipp_z"].tolist() == [4, 3, 2, 1, 0]
    assert set(table.columns) == set(HEADER_COLUMNS) - {"split"} | {*POSITION, *ORIENTATION}
    assert bad.to_dict("list") == {
        "path": ["notes DOE^JANE.txt", "s/ID_900000000.dcm", "s/a copy.dcm"],
        "slice_id": [
            pseudonym("notes DOE^JANE", KEY, "slice"),
            "ID_900000000",
            pseudonym("a copy", KEY, "slice"),
        ],
        "kind": ["header"] * 3,
        "reason": [
            "not a DICOM file",
            "not a DICOM file",
            "same SOPInstanceUID as s/ID_000000003.dcm",
        ],
    }
    assert done == [8]


def test_no_name_and_no_foreign_identifier_enters_a_table(folder):
    table, bad = read_headers(folder, list_files(folder), KEY, workers=1)
    text = table.to_csv() + bad.drop(columns="path").to_csv()
    for secret in (NAME, "DOE", "1961", "MRN"):
        assert secret not in text
    assert table["patient_id"].nunique() == 5


def test_read_headers_does_not_depend_on_chunks_and_workers(folder, monkeypatch):
    whole = read_headers(folder, list_files(folder), KEY, workers=1)
    monkeypatch.setattr(header_table, "CHUNK_FILES", 3)
    done = []
    in_chunks = read_headers(folder, list_files(folder), KEY, workers=2, progress=done.append)
    for a, b in zip(whole, in_chunks, strict=True):
        pd.testing.assert_frame_equal(a, b)
    assert done == [3, 6, 8]


def test_a_chunk_of_other_files_or_columns_is_not_taken(folder, tmp_path):
    names = list_files(folder)[:3]
    table = read_header_chunk(Folder(folder).select(names), names, KEY).table
    path = tmp_path / "chunk.parquet"
    write_table(path, table)
    assert is_header_chunk(path, names) and not is_header_chunk(path, names[:2])
    write_table(path, table.drop(columns="slope"))
    assert not is_header_chunk(path, names)
    path.write_bytes(b"half a chunk")
    assert not is_header_chunk(path, names)


def test_read_headers_of_nothing(tmp_path):
    table, bad = read_headers(tmp_path, [], KEY)
    assert len(table) == 0
    assert len(bad) == 0
    assert "ipp_x" in table
    assert list(bad) == ["path", "slice_id", "kind", "reason"]


@needs_zoo
def test_the_zoos_headers():
    table, bad = read_headers(ZOO, list_files(ZOO), KEY, workers=1)
    reasons = dict(zip(bad["path"], bad["reason"], strict=True))
    enhanced = {"eCT_Supplemental.dcm", "CT0012.fragmented_no_bot_jpeg_baseline.51.dcm"}
    frames = {f"{name}#{number}" for name in enhanced for number in (1, 2)}
    assert reasons["CT_Explicit_Little.dcm"] == "PatientID is missing or empty"
    assert (
        reasons["CT_Implicit_Little_Headless_Retired.dcm"] == "SOPInstanceUID is missing or empty"
    )
    # only its pixels fail
    assert f"CTImage.dcm_JPEGProcess6_8TransferSyntax_{RETIRED}.dcm" not in reasons
    assert table["path"].is_monotonic_increasing
    rsna = table.loc["ID_000000e27"]
    assert (rsna["patient_id"], rsna["intercept"], rsna["window_center"]) == (
        "ID_52c1ab5a",
        -1024,
        40,
    )
    assert set(table["path"]) | set(bad["path"]) == set(list_files(ZOO)) - enhanced | frames
