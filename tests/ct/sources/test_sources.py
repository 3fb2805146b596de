"""Folders and zip archives as sources: the same files and bytes; damage is named."""

import bz2
import gzip
import io
import lzma
import os
import tarfile
import warnings
import zipfile

import numpy as np
import pandas as pd
import pytest
from pydicom.dataset import Dataset
from tiny_dicom import header_of, make_dataset, slice_bytes, write_slice
from tiny_zip import edit_entry, pack

from ct.dicom import dataset_parser, fast_parser
from ct.dicom.dataset_parser import quiet_pydicom
from ct.dicom.header_table import read_headers
from ct.dicom.hounsfield import read_hu
from ct.errors import InputError
from ct.kaggle_layout import ARCHIVE, find_competition
from ct.labels import read_labels
from ct.pixel_cache import writer
from ct.pixel_cache.writer import write_cache
from ct.slices import order_slices
from ct.sources.file_list import file_table, listed_source, source_note
from ct.sources.folder import DiskFile, Folder, list_files
from ct.sources.source import Unreadable
from ct.sources.zip_archive import ZipMember, open_zip
from ct.submission import read_sample

KEY = b"key"
TRAIN = "stage_2_train"


@pytest.fixture
def data(tmp_path):
    """7 train and 2 test slices of noise; in train also a text file, and one slice twice."""
    root, rng = tmp_path / "data", np.random.default_rng(0)
    for number in range(9):
        folder = TRAIN if number < 7 else "stage_2_test"
        where = "deep/er/" if number == 3 else ""
        stored = rng.integers(0, 2500, (32, 32))
        tags = {"ImagePositionPatient": [0, 0, number], "StudyInstanceUID": f"ID_{number // 4}"}
        write_slice(root / folder / where / f"ID_{number}.dcm", stored, name=f"ID_{number}", **tags)
    (root / TRAIN / "notes.txt").write_text("no DICOM")
    (root / TRAIN / "twice.dcm").write_bytes((root / TRAIN / "ID_1.dcm").read_bytes())
    rows = [f"ID_{number}_{label},0" for number in range(7) for label in ("any", "epidural")]
    (root / "stage_2_train.csv").write_text("\n".join(["ID,Label", *rows]) + "\n")
    (root / "stage_2_sample_submission.csv").write_text("ID,Label\n")
    return root


# the same as a folder


@pytest.mark.parametrize("around", ["", "rsna/", "a/b/"])
@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_a_zip_and_a_folder_give_the_same(data, tmp_path, around, method, monkeypatch):
    monkeypatch.setattr(writer, "SHARD_SLICES", 4)
    competitions = [
        find_competition(data),
        find_competition(pack(data, tmp_path / "data.zip", around, method)),
    ]
    assert str(competitions[1].train_dir) == f"{tmp_path}/data.zip/{around}stage_2_train"
    assert str(competitions[1].labels_csv) == f"{tmp_path}/data.zip/{around}stage_2_train.csv"
    results = []
    for competition in competitions:
        names = competition.source.files(TRAIN)
        table, bad = read_headers(competition.source, names, KEY, workers=1)
        cache = tmp_path / f"cache{len(results)}"
        facts = write_cache(
            cache, competition.source, order_slices(table.assign(split="train")), 16, workers=1
        )
        files = {path.name: path.read_bytes() for path in cache.iterdir()}
        results.append((names, table, bad, facts, files, read_labels(competition.labels_csv)[0]))
    (names, table, bad, facts, files, labels), other = results
    assert names == other[0] and f"{TRAIN}/deep/er/ID_3.dcm" in names and len(names) == 9
    for one, two in ((table, other[1]), (bad, other[2]), (facts, other[3]), (labels, other[5])):
        pd.testing.assert_frame_equal(one, two)
    assert bad["reason"].tolist() == [
        "not a DICOM file",
        f"same SOPInstanceUID as {TRAIN}/ID_1.dcm",
    ]
    assert files == other[4] and len(files) == 5  # two shards, index, checksums, pixels.json


def test_workers_read_the_zip_by_themselves(data, tmp_path):
    source = find_competition(pack(data, tmp_path / "data.zip")).source
    names = source.files(TRAIN)
    table, _ = read_headers(source, names, KEY, workers=1)
    again, _ = read_headers(source, names[::-1], KEY, workers=2)
    pd.testing.assert_frame_equal(table, again)
    one, two = (write_cache(tmp_path / f"c{n}", source, table, 16, workers=n) for n in (1, 2))
    pd.testing.assert_frame_equal(one, two)


def test_files_of_archivers_are_left_out(data, tmp_path):
    expected = Folder(data).files(TRAIN)
    (data / TRAIN / ".hidden").write_text("x")
    (data / "__MACOSX" / TRAIN).mkdir(parents=True)
    (data / "__MACOSX" / TRAIN / "._ID_0.dcm").write_text("x")
    pack(data, tmp_path / "data.zip")
    everything = Folder(data).all_files()
    assert set(expected) < set(everything)
    assert "stage_2_train.csv" in everything
    assert "__MACOSX" not in "".join(everything)
    assert open_zip(tmp_path / "data.zip").all_files() == everything
    competition = find_competition(tmp_path / "data.zip")
    assert competition.root == tmp_path / "data.zip"
    assert competition.source.files(TRAIN) == expected


def archive_of(path, members):
    """Write a zip archive of (name, text); a name may come twice."""
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore", UserWarning)  # of the name that comes twice
        for name, text in members:
            info = zipfile.ZipInfo("x")
            info.filename = name  # as it is: the constructor cleans it
            archive.writestr(info, text)
    return path


@pytest.mark.parametrize(
    ("name", "read_as"),
    [
        ("s/a.dcm", "s/a.dcm"),
        ("./a.dcm", "a.dcm"),
        ("./s/./a.dcm", "s/a.dcm"),
        ("s//a.dcm", "s/a.dcm"),
        ("/s/a.dcm", "s/a.dcm"),
        ("../s/a.dcm", "s/a.dcm"),
        ("s/../a.dcm", "s/a.dcm"),
        (".s/a.dcm", None),
        ("s/.a.dcm", None),
        ("./__MACOSX/a.dcm", None),
        ("s/", None),
        ("s/.", None),
        ("..", None),
    ],
)
def test_a_zip_has_the_names_that_unpacking_it_gives(tmp_path, name, read_as):
    archive = archive_of(tmp_path / "a.zip", [("x/other.dcm", "other"), (name, "text")])
    source = open_zip(archive)
    assert source.all_files() == sorted(["x/other.dcm", *filter(None, [read_as])])
    if read_as:
        assert source.file(read_as).open().read() == b"text"
        with zipfile.ZipFile(archive) as unpacked:
            unpacked.extractall(tmp_path / "out")
        assert list_files(tmp_path / "out") == source.all_files()


def test_backslashes_separate_folders_where_no_name_has_a_slash(tmp_path):
    windows = [("s\\t\\x41.dcm", "1"), ("b.dcm", "2"), ("s\\.hidden", "3"), ("s\\t\\", "")]
    source = open_zip(archive_of(tmp_path / "a.zip", windows))
    assert source.all_files() == ["b.dcm", "s/t/x41.dcm"] and source.folders() == ["s"]
    assert source.file("s/t/x41.dcm").open().read() == b"1"
    source = open_zip(archive_of(tmp_path / "b.zip", [*windows[:2], ("s/c.dcm", "4")]))
    assert source.all_files() == ["b.dcm", "s/c.dcm", r"s\t\x5cx41.dcm"]


def test_every_member_is_read_or_quarantined(tmp_path):
    names = [f"ID_{number}.dcm" for number in range(6)]
    raws = [slice_bytes(name=f"ID_{number:09x}") for number in range(6)]
    prefixes = ["", "./", "/", "s//", "../", "./s/./"]
    members = [
        (prefix + name, raw) for prefix, name, raw in zip(prefixes, names, raws, strict=True)
    ]
    source = open_zip(archive_of(tmp_path / "a.zip", members))
    table, bad = read_headers(source, source.all_files(), KEY, workers=1)
    assert len(table) == 6 and bad.empty


def test_of_members_of_one_name_the_last_is_read_and_the_others_quarantined(tmp_path):
    first, second, last = (slice_bytes(name=f"ID_{number:09x}") for number in range(3))
    members = [("a", first), ("./a", second), ("a (1)", b"text"), ("a", last)]
    source = open_zip(archive_of(tmp_path / "a.zip", members))
    assert source.all_files() == ["a", "a (1)", "a (2)", "a (3)"]
    assert source.file("a").open().read() == last
    listed = listed_source(source_note(source), file_table(source, source.all_files()))
    for files in (source, listed):
        table, bad = read_headers(files, source.all_files(), KEY, workers=1)
        assert table.index.tolist() == ["ID_000000002"]
        replaced = "another member of the zip archive has the same name, and is read"
        assert dict(zip(bad["path"], bad["reason"], strict=True)) == {
            "a (1)": "not a DICOM file",
            "a (2)": replaced,
            "a (3)": replaced,
        }


def test_of_two_members_of_one_name_the_last_counts(tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "a.zip", "w") as archive,
        pytest.warns(UserWarning, match="Duplicate"),
    ):
        for text in ("one", "two"):
            archive.writestr("a", text)
    assert open_zip(tmp_path / "a.zip").file("a").open().read() == b"two"


def test_a_zip_beyond_4_gb_and_behind_other_bytes(tmp_path):
    with open(tmp_path / "a.zip", "wb") as file:
        file.truncate(5 << 30)  # a hole: takes no disk
    with zipfile.ZipFile(tmp_path / "a.zip", "a", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("s/a.dcm", "w", force_zip64=True) as member:
            member.write(slice_bytes())
        archive.write(write_slice(tmp_path / "b.dcm", name="ID_00000000b"), "s/b.dcm")
    source = open_zip(tmp_path / "a.zip")
    assert min(file.offset for file in source.select(["s/a.dcm", "s/b.dcm"])) >= 5 << 30
    table, bad = read_headers(source, source.files("s"), KEY, workers=1)
    assert table.index.tolist() == ["ID_00000000a", "ID_00000000b"] and bad.empty
    assert (read_hu(source.file("s/a.dcm"))[0] == np.arange(12).reshape(3, 4) - 1024).all()


# how much is read


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_headers_are_read_from_the_first_bytes_and_long_ones_from_more(tmp_path, monkeypatch, kind):
    noise = np.random.default_rng(0).bytes
    lengths = {
        "ID_000000000": 0,
        "ID_000000001": 9_000,
        "ID_000000002": 200_000,
    }  # bytes: the header ends in the first read, in the second, in neither
    for name, length in lengths.items():
        # between the identifiers and the geometry
        tags = {"ImageComments": noise(length).hex()[:length]} if length else {}
        write_slice(
            tmp_path / "in" / TRAIN / f"{name}.dcm",
            np.zeros((512, 512)),
            name=name,
            PatientComments="x",
            **tags,
        )
    source = (
        Folder(tmp_path / "in")
        if kind == "folder"
        else open_zip(pack(tmp_path / "in", tmp_path / "a.zip"))
    )
    whole, counts, head = [], [], (DiskFile if kind == "folder" else ZipMember).head
    for kind_of in (DiskFile, ZipMember):
        monkeypatch.setattr(
            kind_of, "head", lambda self, count: counts.append(count) or head(self, count)
        )
        open_ = kind_of.open
        monkeypatch.setattr(
            kind_of,
            "open",
            lambda self, mode="rb", open_=open_: whole.append(self) or open_(self, mode),
        )
    table, bad = read_headers(source, source.files(TRAIN), KEY, workers=1)
    assert table.index.tolist() == list(lengths) and bad.empty and (table["rows"] == 512).all()
    assert counts == [4096, 4096, 65536, 4096, 65536, dataset_parser.MAX_HEADER_BYTES]
    assert whole == []  # no file is read with its pixels


def test_a_header_that_is_cut_inside_a_sequence_is_read_from_more(tmp_path, monkeypatch):
    dataset = make_dataset()
    with quiet_pydicom():
        dataset.ReferencedImageSequence = [Dataset() for _ in range(300)]
        for number, item in enumerate(dataset.ReferencedImageSequence):
            item.ReferencedSOPInstanceUID = f"1.2.{number:020d}"
            item.is_undefined_length_sequence_item = True
        dataset["ReferencedImageSequence"].is_undefined_length = True
        dataset.save_as(tmp_path / "a", enforce_file_format=True)
    assert os.path.getsize(tmp_path / "a") > 3 * 4096
    monkeypatch.setattr(
        DiskFile, "open", lambda self, mode="rb": pytest.fail("the whole file was opened")
    )
    for shift in range(130):  # wherever the first read ends
        monkeypatch.setattr(fast_parser, "FIRST_READS", (4096 + shift, 65536))
        assert header_of(tmp_path / "a", KEY)["slice_id"] == "ID_00000000a"


def test_head_returns_whether_it_is_the_whole_file(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(bytes(range(100)))
    (tmp_path / "in" / "empty").touch()
    files = [[DiskFile(str(tmp_path / "in" / name)) for name in ("a", "empty")]]
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED):
        source = open_zip(pack(tmp_path / "in", tmp_path / f"{method}.zip", method=method))
        files.append([source.file(name) for name in ("a", "empty")])
    for file, empty in files:
        head, whole = file.head(10)  # of a zip, that many packed bytes
        assert bytes(range(5)) == head[:5] and len(head) <= 10 and not whole
        assert file.head(101) == (bytes(range(100)), True)
        assert file.open().read() == bytes(range(100))
        assert empty.head(10) == (b"", True) and empty.open().read() == b""


# damage


def refused(file):
    with pytest.raises(Unreadable) as error:
        read_hu(file)
    assert "\n" not in str(error.value) and "/" not in str(error.value)
    return str(error.value)


def one_slice(tmp_path, method=zipfile.ZIP_DEFLATED):
    """(path of an archive with one slice, the slice's name)."""
    stored = np.random.default_rng(0).integers(-1000, 1000, (64, 64))
    write_slice(tmp_path / "in" / TRAIN / "ID_0.dcm", stored)
    return pack(tmp_path / "in", tmp_path / "a.zip", method=method), f"{TRAIN}/ID_0.dcm"


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_damage_behind_the_header_costs_the_pixels_alone(tmp_path, method):
    archive, name = one_slice(tmp_path, method)
    raw = bytearray(archive.read_bytes())
    raw[5500] ^= 255
    archive.write_bytes(raw)
    source = open_zip(archive)
    table, bad = read_headers(source, [name], KEY, workers=1)
    assert len(table) == 1 and bad.empty
    assert refused(source.file(name)).startswith("damaged in the zip archive: ")
    facts = write_cache(tmp_path / "cache", source, table, 16, workers=1)
    assert not facts["readable"].iloc[0]
    assert facts["reason"].iloc[0].startswith("damaged in the zip archive: ")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"flags": 1}, "encrypted in the zip archive"),
        (
            {"method": 12},
            "compressed in the zip archive by method 12; only stored and deflated files are read",
        ),
        ({"crc": 1}, "damaged in the zip archive: its checksum is another"),
        ({"size": 9999}, "damaged in the zip archive: 8856 of 9999 bytes"),
        ({"size": 99}, "damaged in the zip archive: 100 of 99 bytes"),
        ({"packed": 3000}, "damaged in the zip archive: "),
    ],
)
def test_the_reason_for_an_unreadable_member(tmp_path, fields, reason):
    archive, name = one_slice(tmp_path)
    size = os.path.getsize(tmp_path / "in" / name)
    edit_entry(archive, name, **fields)
    assert refused(open_zip(archive).file(name)).startswith(reason.replace("8856", str(size)))
    if "flags" in fields or "method" in fields:  # not even the header
        _, bad = read_headers(open_zip(archive), [name], KEY, workers=1)
        assert bad["reason"].tolist() == [reason]


def test_a_header_that_does_not_inflate_is_refused(tmp_path):
    archive, name = one_slice(tmp_path)
    raw = bytearray(archive.read_bytes())
    begin = raw.index(name.encode()) + len(name)
    raw[begin : begin + 200] = b"\xff" * 200
    archive.write_bytes(raw)
    _, bad = read_headers(open_zip(archive), [name], KEY, workers=1)
    assert bad["reason"].tolist() == ["damaged in the zip archive: cannot be inflated"]
    raw[begin - len(name) - 30] = 0
    archive.write_bytes(raw)
    assert (
        refused(open_zip(archive).file(name))
        == "damaged in the zip archive: no header where it should begin"
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[:-30], "no whole zip archive .*download it again"),
        (lambda raw: raw[: len(raw) // 2], "no whole zip archive .*download it again"),
        (lambda raw: raw[len(raw) // 2 :], "no whole zip archive|damaged"),
        (lambda raw: b"", "is a file, but no whole zip archive"),
    ],
)
def test_half_a_zip_is_one_line(data, tmp_path, damage, message):
    archive = pack(data, tmp_path / "data.zip")
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(InputError, match=message) as error:
        source = find_competition(archive).source
        for file in source.select(source.files(TRAIN)):
            try:
                file.open()
            except Unreadable as reason:
                raise InputError(str(reason)) from None
    assert "\n" not in str(error.value)


def test_what_a_zip_lacks_is_named_in_one_line(data, tmp_path):
    (data / "stage_2_train.csv").rename(tmp_path / "labels.csv")
    with pytest.raises(InputError, match=r"data\.zip: stage_2_train\.csv does not exist.*--labels"):
        find_competition(pack(data, tmp_path / "data.zip", "rsna/"))
    assert (
        find_competition(tmp_path / "data.zip", labels=str(tmp_path / "labels.csv")).labels_csv
        == tmp_path / "labels.csv"
    )
    with pytest.raises(InputError, match="has no folder stage_2_test"):
        with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
            archive.writestr(f"{TRAIN}/a", "x")
        find_competition(tmp_path / "b.zip")
    with pytest.raises(InputError, match="is empty"):
        zipfile.ZipFile(tmp_path / "c.zip", "w").close()
        find_competition(tmp_path / "c.zip")
    (tmp_path / "download").mkdir()
    archive = (tmp_path / "b.zip").rename(tmp_path / "download" / "Jane Doe.zip")
    with pytest.raises(
        InputError, match=r"the zip needs no unpacking: --data=.*/download/NAME\.zip"
    ):
        find_competition(tmp_path / "download")
    archive.rename(tmp_path / "download" / ARCHIVE)
    with pytest.raises(
        InputError, match=f"the zip needs no unpacking: --data=.*/download/{ARCHIVE}"
    ):
        find_competition(tmp_path / "download")


def test_a_csv_in_a_zip_that_is_damaged_is_one_line(data, tmp_path):
    archive = pack(data, tmp_path / "data.zip")
    assert len(read_labels(find_competition(archive).labels_csv)[0]) == 7
    with pytest.raises(InputError, match=r"data\.zip/stage_2_sample_submission\.csv has no rows"):
        read_sample(find_competition(archive).sample_csv)
    edit_entry(archive, "stage_2_train.csv", crc=1)
    with pytest.raises(
        InputError, match=r"stage_2_train\.csv is damaged in the zip archive: .*download"
    ):
        read_labels(find_competition(archive).labels_csv)


def test_a_member_that_unpacks_beyond_any_slice_is_refused_before_it_takes_memory(tmp_path):
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "a.dcm").write_bytes(bytes(66 << 20))
    (tmp_path / "z" / "b.dcm").write_bytes(b"b" * 900)
    source = open_zip(pack(tmp_path / "z", tmp_path / "z.zip"))
    with pytest.raises(Unreadable, match="bytes make 69206016, which no slice does"):
        source.file("a.dcm").open()
    assert len(source.file("a.dcm").head(300)[0]) == 300
    assert source.file("b.dcm").open().read() == b"b" * 900


@pytest.mark.parametrize("field", ["offset", "packed", "size"])
def test_zip64_numbers_beyond_any_disk_cost_their_member_alone(tmp_path, field, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)  # so that the directory has zip64 fields
    (tmp_path / "z").mkdir()
    for name in ("a.dcm", "b.dcm"):
        (tmp_path / "z" / name).write_bytes(os.urandom(900))
    archive = pack(tmp_path / "z", tmp_path / "z.zip", method=zipfile.ZIP_STORED)
    raw, name = bytearray(archive.read_bytes()), b"b.dcm"
    # of the last entry: size, packed, offset, 8 bytes each
    extra = raw.rindex(b"PK\x01\x02") + 46 + len(name) + 4
    assert raw[extra - 4 - len(name) : extra - 4] == name
    assert raw[extra : extra + 8] == (900).to_bytes(8, "little")
    at = extra + 8 * ("size", "packed", "offset").index(field)
    raw[at : at + 8] = (2**64 - 1).to_bytes(8, "little")
    archive.write_bytes(raw)
    source = open_zip(archive)
    assert len(source.file("a.dcm").open().read()) == 900
    with pytest.raises(Unreadable):
        source.file("b.dcm").open()


def test_an_archive_cut_anywhere_is_one_line(tmp_path):
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "a.dcm").write_bytes(b"a" * 900)
    whole = pack(tmp_path / "z", tmp_path / "z.zip").read_bytes()
    for end in range(4, len(whole) - 1, 7):
        (tmp_path / "z.zip").write_bytes(whole[:end])
        with pytest.raises(InputError, match="no whole zip archive") as caught:
            open_zip(tmp_path / "z.zip")
        assert "\n" not in str(caught.value)


def packed_files():
    """Return {name: (bytes, kind)} of files that a packer made of one slice."""
    raw, tar = slice_bytes(), io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        member = tarfile.TarInfo("a.dcm")
        member.size = len(raw)
        archive.addfile(member, io.BytesIO(raw))
    return {
        "a.dcm.gz": (gzip.compress(raw), "a file packed by gzip"),
        "a.tar.gz": (gzip.compress(tar.getvalue()), "a file packed by gzip"),
        "a.tar": (tar.getvalue(), "a tar archive"),
        "a.bz2": (bz2.compress(raw), "a file packed by bzip2"),
        "a.xz": (lzma.compress(raw), "a file packed by xz"),
    }


def test_a_packed_file_among_the_slices_is_named_with_a_remedy(tmp_path):
    folder, expected = tmp_path / "in", {}
    write_slice(folder / "good")
    for name, (raw, kind) in packed_files().items():
        (folder / name).write_bytes(raw)
        expected[name] = f"not a DICOM file but {kind}: if it holds DICOM files, unpack it"
    zipped = pack(folder, tmp_path / "study1.zip").rename(folder / "study1.zip")
    expected[zipped.name] = (
        "not a DICOM file but a zip archive: if it holds DICOM files, unpack it, "
        "or give it as --data"
    )
    for source in (Folder(folder), open_zip(pack(folder, tmp_path / "all.zip"))):
        table, bad = read_headers(source, source.all_files(), KEY, workers=1)
        assert len(table) == 1
        assert dict(zip(bad["path"], bad["reason"], strict=True)) == expected


def test_a_single_file_in_place_of_a_folder_is_named_with_a_remedy(tmp_path):
    files = {name: (raw, f"{kind}; unpack it") for name, (raw, kind) in packed_files().items()}
    files["one_slice"] = slice_bytes(), "a single DICOM file; name the folder around it"
    files["a.nii.gz"] = gzip.compress(b"x"), "a single NIfTI file; name the folder around it"
    for name, (raw, message) in files.items():
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(InputError, match=f"{name} is {message}.*--data") as caught:
            open_zip(tmp_path / name)
        assert "download" not in str(caught.value)


def test_list_files_is_sorted_recursive_and_skips_dot_files(tmp_path):
    for name in ("b/2.dcm", "b/1.dcm", "a.dcm", "c/d/e.dcm", ".hidden", ".git/x", "b/.DS_Store"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "c/back").symlink_to(tmp_path)  # a loop
    (tmp_path / "link.dcm").symlink_to(tmp_path / "a.dcm")
    assert list_files(tmp_path) == ["a.dcm", "b/1.dcm", "b/2.dcm", "c/d/e.dcm", "link.dcm"]


def test_thousands_of_folders(tmp_path):
    """A disc of an archive: one file in each folder, without suffix, and nested folders."""
    names = [f"PA{i // 100:03}/ST{i // 10:04}/SE{i:05}/IM1" for i in range(2000)]
    deep = "/".join(["D"] * 300) + "/IM"
    for name in [*names, deep, "DICOMDIR"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list_files(tmp_path) == sorted([*names, deep, "DICOMDIR"])
    assert Folder(tmp_path).files("PA003/ST0030") == names[300:310]
