"""Untrusted tables: compressed, in other encodings, damaged, or of unusual types.

They are read, or refused in one line.
"""

import bz2
import datetime
import decimal
import errno
import gzip
import io
import lzma
import os
import re
import tarfile
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ct.errors import InputError, MachineFault
from ct.kaggle_layout import find_competition
from ct.label_tables.own_labels import read_own_labels, read_probabilities
from ct.labels import LABELS, read_id_csv, read_labels
from ct.slices import ORIENTATION, POSITION
from ct.submission import read_sample
from ct.tables import untrusted_table
from ct.tables.prediction_table import read_predictions
from ct.tables.slice_list import read_slice_list
from ct.tables.untrusted_table import read_csv_file, read_table_file

TEXT = "ID,Label\n" + "".join(
    f"ID_{number:03x}_{label},0\n" for number in range(3) for label in LABELS
)


def zipped(text, *names):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, text)
    return out.getvalue()


PACKED = {
    "l.csv.zip": zipped(TEXT, "stage_2_train.csv", "__MACOSX/x"),
    "zip_called.csv": zipped(TEXT, "stage_2_train.csv"),
    "l.csv.gz": gzip.compress(TEXT.encode()),
    "bom.csv": TEXT.encode("utf-8-sig"),
    "utf16.csv": TEXT.encode("utf-16"),
    "utf16be.csv": b"\xfe\xff" + TEXT.encode("utf-16-be"),
    "windows.csv": TEXT.replace("\n", "\r\n").encode(),
}


@pytest.mark.parametrize("name", PACKED)
def test_csv_files_are_read_plain_and_compressed(name, tmp_path):
    (tmp_path / name).write_bytes(PACKED[name])
    assert len(read_labels(tmp_path / name)[0]) == 3 and len(read_sample(tmp_path / name)[0]) == 18
    assert len(read_table_file(tmp_path / name, "oof")) == 18


@pytest.mark.parametrize("packing", ["", ".zip", ".gz"])
def test_csv_files_of_the_data_folder_may_be_compressed(packing, tmp_path):
    for part in ("stage_2_train", "stage_2_test"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "x.dcm").touch()
    pack = {
        "": str.encode,
        ".zip": lambda text: zipped(text, "x.csv"),
        ".gz": lambda text: gzip.compress(text.encode()),
    }
    for name in ("stage_2_train.csv", "stage_2_sample_submission.csv"):
        (tmp_path / (name + packing)).write_bytes(pack[packing](TEXT))
    competition = find_competition(tmp_path)
    assert len(read_labels(competition.labels_csv)[0]) == 3
    assert len(read_sample(competition.sample_csv)[0]) == 18


BAD_CSV = {
    "two.csv.zip": (zipped(TEXT, "a.csv", "b.csv"), "zip archive of 2 files"),
    "none.csv.zip": (zipped(TEXT), "zip archive of 0 files"),
    "cut.csv.zip": (zipped(TEXT, "a.csv")[:60], "cannot be unpacked"),
    "cut.csv.gz": (gzip.compress(TEXT.encode())[:20], "cannot be unpacked"),
    "magic.csv.gz": (b"\x1f\x8b", "cannot be unpacked"),
    "named.csv.gz": (b"x", "lacks the column ID"),
    "bomb.csv.gz": (gzip.compress(bytes(70 << 20)), "unpacks to more than 64 MB"),
    "bomb.csv.zip": (zipped(bytes(70 << 20), "a.csv"), "unpacks to more than 64 MB"),
    "latin.csv": ("ID,Label\nÄ,0\n".encode("latin-1"), "save it as UTF-8"),
    "odd16.csv": (TEXT.encode("utf-16")[:-1], "save it as UTF-8|is no csv"),
    "bom.csv": (b"\xff\xfe", "is no csv"),
    "twice.csv": (b"ID,Label,ID\na,0,b\n", "the column ID twice"),
    "wide.csv": (b"a," * 5000 + b"b\n", "more than 4096 columns"),
    "endless.csv": (b"a" * (1 << 20), "no end"),
    "ragged.csv": (b"ID,Label\na,0\nb,0,1,2\n", "is no csv"),
    "open.csv": (b'ID,Label\n"a,0\n', "is no csv"),
    "lines.csv": (b'"I\nD\x1b[2J",Label\na,0\n', "lacks the column ID"),
    "empty.csv": (b"", "is no csv"),
    "zero.csv": (b"\0" * 1000, "lacks the column|is no csv"),
}


@pytest.mark.parametrize("name", BAD_CSV)
def test_a_file_that_is_no_csv_is_one_printable_line(name, tmp_path):
    raw, expected = BAD_CSV[name]
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(InputError, match=expected) as caught:
        read_id_csv(tmp_path / name)
    assert str(caught.value).isprintable()
    assert name in str(caught.value)
    assert len(str(caught.value)) < 400


READERS = {  # of every csv that a user brings
    "labels": read_labels,
    "own labels": lambda path: read_own_labels(path, {}),
    "slices": lambda path: read_slice_list(path, b"k"),
    "oof": lambda path: read_predictions(path, "oof"),
    "predictions": read_probabilities,
    "sample": read_sample,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("mark", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")]
)
@pytest.mark.parametrize("first", ["", "sep=MARK\n", '\ufeff"SEP=MARK"\r\n'])
def test_a_csv_without_commas_is_named_by_its_separator(reader, mark, name, first, tmp_path):
    text = first.replace("MARK", mark) + TEXT.replace(",", mark).replace("0\n", '"0,0"\n')
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(InputError, match=f"l.csv is separated by {name}; save it with commas"):
        READERS[reader](tmp_path / "l.csv")


@pytest.mark.parametrize("first", ["sep=,\n", '"SEP=,"\r\n', "sep=,\n\n", "\n\n"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["", ","])
def test_a_line_above_the_header_is_no_row(first, encoding, end, tmp_path):
    (tmp_path / "l.csv").write_bytes((first + TEXT.replace("0\n", f"0{end}\n")).encode(encoding))
    (tmp_path / "plain.csv").write_text(TEXT)
    read, plain = (read_table_file(tmp_path / name, "oof") for name in ("l.csv", "plain.csv"))
    pd.testing.assert_frame_equal(read, plain)


def test_a_separator_without_a_name_is_shown(tmp_path):
    (tmp_path / "l.csv").write_text("sep=^\n" + TEXT.replace(",", "^"))
    with pytest.raises(InputError, match=r"l.csv is separated by '\^'; save it with commas"):
        read_labels(tmp_path / "l.csv")


WIDE = ["id,SOPInstanceUID,any,epidural,intraparenchymal,intraventricular,subarachnoid,subdural"]
WIDE += ["01,ID_a,1,0,1,0,0,0", "02,ID_b,0,0,0,0,0,0"]


@pytest.mark.parametrize("surplus", [",", ",,", ",,,,,,,,"])
@pytest.mark.parametrize("rows", [(1,), (1, 2)])
@pytest.mark.filterwarnings("error")
def test_separators_at_the_end_of_rows_move_no_name_to_another_column(surplus, rows, tmp_path):
    (tmp_path / "plain.csv").write_text("\n".join(WIDE))
    lines = [line + surplus * (number in rows) for number, line in enumerate(WIDE)]
    (tmp_path / "ends.csv").write_text("\n".join(lines))
    plain, ends = (read_table_file(tmp_path / f"{name}.csv", "oof") for name in ("plain", "ends"))
    pd.testing.assert_frame_equal(ends, plain)
    assert ends["id"].tolist() == ["01", "02"] and ends["any"].tolist() == ["1", "0"]


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_label_csv_with_separators_at_the_end_of_rows_is_read(pack, tmp_path):
    (tmp_path / "plain.csv").write_text(TEXT.replace("2_any,0", "2_any,1"))
    ends = TEXT.replace("2_any,0", "2_any,1").replace("0\n", "0,\n").replace("1\n", "1,\n")
    (tmp_path / "ends.csv").write_bytes(pack(ends.encode("utf-16")))
    labels, dropped = read_labels(tmp_path / "ends.csv")
    pd.testing.assert_frame_equal(labels, read_labels(tmp_path / "plain.csv")[0])
    assert dropped == 0 and labels["any"].tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("ends", "cells"),
    [((",5", ",6"), 9), ((",", ",6"), 9), ((",,", ",,6"), 10), ((",1" * 9, ""), 17)],
)
def test_rows_with_cells_that_have_no_name_are_refused(ends, cells, tmp_path):
    """Such as the fracture of each slice, or R's row names, which would be an index."""
    rows = [line + end for line, end in zip(WIDE[1:], ends, strict=True)]
    (tmp_path / "o.csv").write_text("\n".join([WIDE[0], *rows]))
    with pytest.raises(InputError, match=f"rows have {cells} cells, the header 8; give each col"):
        read_table_file(tmp_path / "o.csv", "oof")


@pytest.mark.parametrize("end", ["", ",0"])
def test_numbered_rows_with_one_cell_more_than_the_header_are_refused(end, tmp_path):
    """Row names of R and an empty last column, or numbers and a separator at the end."""
    (tmp_path / "o.csv").write_text(f"id,any,note\n1,a,1,{end}\n2,b,0,{end}\n")
    with pytest.raises(InputError, match="cells, the header 3; give each column a name"):
        read_table_file(tmp_path / "o.csv", "oof")


PARQUET = pd.DataFrame({"ID": ["ID_1_any"], "Label": [0.25]}).to_parquet()


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("up.PARQUET", PARQUET),
        ("parquet.csv", PARQUET),
        ("no-suffix", PARQUET),
        ("p.parquet.gz", gzip.compress(PARQUET)),
        ("p.zip", zipped(PARQUET, "oof.parquet")),
    ],
)
def test_a_file_that_begins_as_parquet_is_parquet_whatever_its_name(name, raw, tmp_path):
    (tmp_path / name).write_bytes(raw)
    table = read_table_file(tmp_path / name, "oof")
    assert table["ID"].tolist() == ["ID_1_any"] and table["Label"].astype(float).tolist() == [0.25]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_csv_that_is_named_parquet_is_refused(encoding, tmp_path):
    (tmp_path / "l.Parquet").write_bytes(TEXT.encode(encoding))
    with pytest.raises(InputError, match="by its name it is parquet, by its first bytes not"):
        read_table_file(tmp_path / "l.Parquet", "oof")


def tarred(text):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        member = tarfile.TarInfo("labels.csv")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text.encode()))
    return out.getvalue()


OFFICE = ("[Content_Types].xml", "_rels/.rels", "xl/workbook.xml", "xl/worksheets/sheet1.xml")
OTHER_KINDS = {
    "l.xlsx": (zipped("<x/>", *OFFICE), "is a spreadsheet; save it as csv"),
    "l.ods": (zipped("x", "mimetype", "content.xml"), "is a spreadsheet; save it as csv"),
    "l.numbers": (zipped("x", "Index/Document.iwa", "a"), "is a spreadsheet; save it as csv"),
    "l.xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "is a spreadsheet; save it"),
    "l.csv.bz2": (bz2.compress(TEXT.encode()), "is a file packed by bzip2; unpack it"),
    "l.csv.xz": (lzma.compress(TEXT.encode()), "is a file packed by xz; unpack it"),
    "l.csv.zst": (b"\x28\xb5\x2f\xfd$\0", "is a file packed by zstd; unpack it"),
    "l.7z": (b"7z\xbc\xaf\x27\x1c\0\4", "is a 7z archive; unpack it, and name the table"),
    "l.rar": (b"Rar!\x1a\x07\x01\0", "is a rar archive; unpack it, and name the table"),
    "l.tar.gz": (tarred(TEXT), "is a tar archive; unpack it, and name the table"),
    "l.csv.gz.zip": (
        zipped(gzip.compress(TEXT.encode()), "l.csv.gz"),
        "is a file packed by gzip; unpack",
    ),
    "l.feather": (b"ARROW1\0\0", "is an Arrow or Feather file; save it as csv or parquet"),
    "page.csv": (
        b"\r\n <!DOCTYPE html>\n<html>",
        "is a web page or XML; download the table itself",
    ),
    "marked.csv": (b"\xef\xbb\xbf<?xml version='1.0'?>\n", "is a web page or XML"),
    "rows.json": (b'[\n  {"ID": "a", "Label": 0}\n]\n', "is JSON; save it as csv"),
    "lines.json": (b'{"ID": "a", "Label": 0}\n', "is JSON; save it as csv"),
    "lfs.parquet": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12\n",
        "is a pointer of Git LFS; fetch the file by `git lfs pull`",
    ),
    "le.csv": (TEXT.encode("utf-16-le"), "is UTF-16 text without a byte order mark; save it as"),
    "be.csv": (TEXT.encode("utf-16-be"), "is UTF-16 text without a byte order mark; save it as"),
    "db.csv": (b"SQLite format 3\0\x10\0", "is no csv, its first line holds NUL bytes; save the"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", OTHER_KINDS)
def test_a_file_of_another_kind_is_called_what_it_is(reader, name, tmp_path):
    raw, line = OTHER_KINDS[name]
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(InputError, match=re.escape(f"{name} {line}")):
        READERS[reader](tmp_path / name)


def test_where_csv_alone_is_taken_parquet_is_named(tmp_path):
    (tmp_path / "l.csv").write_bytes(PARQUET)
    with pytest.raises(InputError, match="l.csv is a parquet table; save it as csv"):
        read_id_csv(tmp_path / "l.csv")


def test_a_nul_byte_in_a_cell_makes_no_other_kind_of_a_csv(tmp_path):
    (tmp_path / "l.csv").write_text("ID,Label\na,\0\n")
    assert len(read_table_file(tmp_path / "l.csv", "oof")) == 1


@pytest.mark.parametrize("name", ["l.csv.gz", "zip_called.csv"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
def test_a_disk_that_goes_while_a_packed_csv_is_read_is_the_machines_fault(name, code):
    class Failing(io.BytesIO):
        def read(self, count=-1):
            if self.tell() > 3:  # after the bytes that identify the compression
                raise OSError(code, os.strerror(code))
            return super().read(count)

    with pytest.raises(
        MachineFault, match=f"{os.strerror(code).lower()}: is the disk of --oof=x.csv still there"
    ) as fault:
        read_csv_file(Failing(PACKED[name]), "--oof=x.csv")
    assert "damaged" not in str(fault.value)


def test_a_member_that_is_encrypted_is_one_line(tmp_path):
    raw = bytearray(PACKED["zip_called.csv"])
    raw[6] |= 1
    raw[raw.rindex(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "l.csv").write_bytes(raw)
    with pytest.raises(InputError, match="l.csv is damaged, it cannot be unpacked"):
        read_id_csv(tmp_path / "l.csv")


def predictions(**columns):
    return {"SOPInstanceUID": ["a", "b"], **{label: [0.25, 0.5] for label in LABELS}} | columns


def parquet(tmp_path, table):
    pq.write_table(
        table if isinstance(table, pa.Table) else pa.table(table), tmp_path / "o.parquet"
    )
    return tmp_path / "o.parquet"


TYPES = {  # of columns that hold the same numbers
    "dictionary": pa.array([0.25, 0.5]).dictionary_encode(),
    "decimal": pa.array([decimal.Decimal("0.25"), decimal.Decimal("0.50")]),
    "text": pa.array(["0.25", "0.5"]),
    "float": pa.array([0.25, 0.5], pa.float32()),
}


@pytest.mark.parametrize("kind", TYPES)
def test_probabilities_of_any_type_are_the_same(kind, tmp_path):
    table = read_predictions(parquet(tmp_path, predictions(any=TYPES[kind])), "oof")
    assert table["any"].tolist() == [0.25, 0.5] and table["slice_id"].tolist() == ["a", "b"]


@pytest.mark.parametrize(
    "ids", [pa.array(["a", "b"]).dictionary_encode(), pa.array(["a", "b"], pa.large_string())]
)
def test_slice_ids_of_any_type_are_the_same(ids, tmp_path):
    assert read_predictions(parquet(tmp_path, predictions(SOPInstanceUID=ids)), "oof")[
        "slice_id"
    ].tolist() == ["a", "b"]


BAD_PARQUET = {
    "no name": (predictions(SOPInstanceUID=["a", None]), "row 2 has no SOPInstanceUID"),
    "a blank name": (predictions(SOPInstanceUID=["a", " "]), "row 2 has no SOPInstanceUID"),
    "only none": (predictions(any=pa.nulls(2)), "any of slice a is"),
    "a date": (predictions(any=[datetime.date(2020, 1, 1)] * 2), "any of slice a is '2020-01-01'"),
    "a list": (predictions(any=[[0.5], [1]]), "any of slice a is"),
    "a mapping": (predictions(any=[{"x": 1}, {"x": 2}]), "any of slice a is"),
    "bytes": (predictions(any=[b"\xff", b"\0"]), "any of slice a is"),
    "an infinity": (predictions(any=[np.inf, 0.5]), "any of slice a is"),
    "a column twice": (
        pa.Table.from_arrays([pa.array(["a"])] * 2, names=["ID", "ID"]),
        "the column ID twice",
    ),
    "no columns": (pa.table({}), "lacks the column"),
    "many columns": (pa.table({f"c{number}": [1] for number in range(5000)}), "damaged"),
    "broken text": (
        pa.Table.from_arrays(
            [
                pa.Array.from_buffers(
                    pa.string(),
                    1,
                    [None, pa.array([0, 1], pa.int32()).buffers()[1], pa.py_buffer(b"\xff")],
                )
            ],
            names=["SOPInstanceUID"],
        ),
        "is no csv or parquet",
    ),
}


@pytest.mark.parametrize("kind", BAD_PARQUET)
def test_parquet_that_cannot_be_predictions_is_one_line(kind, tmp_path):
    table, expected = BAD_PARQUET[kind]
    with pytest.raises(InputError, match=f"^--oof=.*{expected}") as caught:
        read_predictions(parquet(tmp_path, table), "oof")
    assert "\n" not in str(caught.value)


def test_vectors_may_be_lists_of_numbers_and_labels_true_or_false(tmp_path):
    row = {
        name: ["x"]
        for name in ("SOPInstanceUID", "PatientID", "StudyInstanceUID", "SeriesInstanceUID")
    }
    row |= {
        "ImagePositionPatient": [[1.0, 2.0, 3.5]],
        "ImageOrientationPatient": [[1.0, 0, 0, 0, 1, 0]],
    }
    slices = read_slice_list(
        parquet(tmp_path, row | {label: [label == "any"] for label in LABELS}), b"k"
    )
    assert slices[list(POSITION)].to_numpy().tolist() == [[1, 2, 3.5]]
    assert slices[list(ORIENTATION)].to_numpy().tolist() == [[1, 0, 0, 0, 1, 0]]
    assert slices[list(LABELS)].to_numpy().tolist() == [[1, 0, 0, 0, 0, 0]]


def test_rows_that_need_no_bytes_are_refused_before_they_need_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(untrusted_table, "FEW_CELLS", 1000)
    path = parquet(tmp_path, {"ID": pa.array(np.zeros(1_000_000, np.int8))})
    assert path.stat().st_size < 20_000
    with pytest.raises(InputError, match="claims 1000000 rows of 1 columns"):
        read_table_file(path, "test")


def test_damaged_parquet_is_one_line_that_names_the_flag(tmp_path):
    frame = pd.DataFrame(predictions()).set_index("SOPInstanceUID")
    frame.to_parquet(tmp_path / "o.parquet")
    raw, rng, kinds = (tmp_path / "o.parquet").read_bytes(), np.random.default_rng(0), set()
    assert len(read_predictions(tmp_path / "o.parquet", "oof")) == 2  # its named index is a column
    for number in range(150):
        spoilt = bytearray(raw)
        for at in rng.integers(len(raw) // 3, len(raw), 1 + number % 3):
            spoilt[at] = rng.integers(256)
        (tmp_path / "o.parquet").write_bytes(spoilt)
        try:
            read_predictions(tmp_path / "o.parquet", "oof")
        except InputError as error:
            assert str(error).startswith("--oof=") and "\n" not in str(error)
            kinds.add(str(error).split(":")[-1])
    assert len(kinds) > 3


def test_a_device_or_folder_is_no_table(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    for path in (tmp_path, "/dev/zero", tmp_path / "pipe.csv"):
        with pytest.raises(InputError, match="is no file"):
            read_table_file(path, "slices")
