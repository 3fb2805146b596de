"""Finding a competition, reading headers, decoding pixels."""

import io
import os
import re

import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_rescale
from pydicom.uid import ImplicitVRLittleEndian, RLELossless
from tiny_dicom import NAME, REAL_DATA, header_of, make_dataset, slice_bytes, write_slice
from tiny_zip import pack

from ct.dicom import header
from ct.dicom import header_table as header_index
from ct.dicom.dataset_parser import open_dataset, quiet_pydicom
from ct.dicom.fast_parser import parse_header_fast
from ct.dicom.header_table import read_headers
from ct.dicom.hounsfield import read_hu
from ct.dicom.tag_values import NeedsPydicom
from ct.errors import InputError, MachineFault
from ct.kaggle_layout import find_competition
from ct.privacy.pseudonyms import LegacyKey, pseudonym
from ct.slices import HEADER_COLUMNS, ORIENTATION, POSITION
from ct.sources.folder import DiskFile, list_files
from ct.sources.source import Unreadable
from ct.sources.zip_archive import open_zip

KEY = b"key"
ZOO = REAL_DATA / "dicom_zoo"
needs_zoo = pytest.mark.skipif(
    not ZOO.is_dir(), reason=f"{ZOO} is not there (ICH_REAL_DATA names the folder of the real data)"
)


def lay_out(root, stage="stage_2"):
    """A competition's folders and csv files, with one empty file in each folder."""
    for part in ("train", "test"):
        (root / f"{stage}_{part}").mkdir(parents=True)
        (root / f"{stage}_{part}" / "ID_0.dcm").touch()
    (root / f"{stage}_train.csv").touch()
    (root / f"{stage}_sample_submission.csv").touch()
    return root


# finding


@pytest.mark.parametrize("prefix", ["", "x", "x/y/z"])
@pytest.mark.parametrize("stage", ["stage_2", "stage_1"])
def test_a_competition_is_found_under_a_prefix(tmp_path, prefix, stage):
    root = lay_out(tmp_path / "data" / prefix, stage)
    (tmp_path / "data/.cache").mkdir()
    (tmp_path / "data/__MACOSX").mkdir()
    found = find_competition(tmp_path / "data")
    assert (found.root, found.train_dir) == (root, root / f"{stage}_train")
    assert (found.test_dir, found.labels_csv) == (
        root / f"{stage}_test",
        root / f"{stage}_train.csv",
    )
    assert found.sample_csv == root / f"{stage}_sample_submission.csv"


def test_stage_2_supersedes_stage_1(tmp_path):
    lay_out(lay_out(tmp_path), "stage_1")
    assert find_competition(tmp_path).train_dir.name == "stage_2_train"


def test_csv_files_may_lie_elsewhere(tmp_path):
    root = lay_out(tmp_path / "data")
    (root / "stage_2_train.csv").rename(tmp_path / "labels.csv")
    (root / "stage_2_sample_submission.csv").rename(tmp_path / "sample.csv")
    found = find_competition(root, str(tmp_path / "labels.csv"), str(tmp_path / "sample.csv"))
    assert (
        found.labels_csv == tmp_path / "labels.csv" and found.sample_csv == tmp_path / "sample.csv"
    )


@pytest.mark.parametrize(
    ("spoil", "data", "message"),
    [
        (None, "nowhere", "does not exist"),
        (None, "data/stage_2_train.csv", "is a file"),
        (None, "data/stage_2_train", "name the folder around it"),
        (None, "empty", "is empty"),
        (
            "rm data/stage_2_train/ID_0.dcm && rmdir data/stage_2_train",
            "data",
            "no folder stage_2_train",
        ),
        (
            "rm data/stage_2_test/ID_0.dcm && rmdir data/stage_2_test",
            "data",
            "no folder stage_2_test",
        ),
        ("rm data/stage_2_train/ID_0.dcm", "data", "holds no files"),
        (
            "rm data/stage_2_test/ID_0.dcm; touch data/stage_2_test/.hidden",
            "data",
            "holds no files",
        ),
        ("rm data/stage_2_train.csv", "data", "stage_2_train.csv does not exist.*--labels"),
        (
            "rm data/stage_2_sample_submission.csv",
            "data",
            "sample_submission.csv does not exist.*--sample",
        ),
        ("mkdir two && cp -r data two/a && cp -r data two/b", "two", "several competitions"),
    ],
)
def test_what_is_missing_is_said_in_one_line(tmp_path, monkeypatch, spoil, data, message):
    monkeypatch.chdir(tmp_path)
    lay_out(tmp_path / "data")
    (tmp_path / "empty").mkdir()
    if spoil:
        assert os.system(spoil) == 0
    with pytest.raises(InputError, match=message) as error:
        find_competition(data)
    assert "\n" not in str(error.value)


def test_list_files_is_sorted_recursive_and_skips_dot_files(tmp_path):
    for name in ("b/2.dcm", "b/1.dcm", "a.dcm", "c/d/e.dcm", ".hidden", ".git/x", "b/.DS_Store"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "c/back").symlink_to(tmp_path)  # a loop
    (tmp_path / "link.dcm").symlink_to(tmp_path / "a.dcm")
    assert list_files(tmp_path) == ["a.dcm", "b/1.dcm", "b/2.dcm", "c/d/e.dcm", "link.dcm"]


# headers


def test_pseudonyms():
    for kind, digits in {"slice": 9, "patient": 8, "study": 10, "series": 10}.items():
        own = f"ID_{'0123456789abcdef'[-digits:]}"
        assert pseudonym(own, KEY, kind) == own
        text = "The quick brown fox jumps over the lazy dog"
        assert pseudonym(text, KEY, kind) == "f7bc83f43053"  # Wikipedia's example of HMAC
        others = (
            "ID_",
            "ID_xyz",
            "ID_0A",
            "xID_0",
            "1.2.840",
            "Müller",
            "\udcff",
            own[:-1],
            f"{own}0",
            own.upper(),
        )
        for other in (
            *others,
            f"{own} ",
            f"{own}\n",
            f" {own}",
            own.replace("I", "i"),
            f"{own[:-1]}g",
            f"{own[:-1]}٣",
        ):
            name = pseudonym(other, KEY, kind)
            assert len(name) == 12 and int(name, 16) >= 0
            assert name != pseudonym(other, b"another key", kind)
            # a run of the earlier rule keeps what it kept
            kept = re.fullmatch("ID_[0-9a-f]+", other)
            assert pseudonym(other, LegacyKey(KEY), kind) == (other if kept else name)


def test_header(tmp_path):
    header = header_of(
        write_slice(
            tmp_path / "a", WindowCenter=[36, 600], WindowWidth=["80", "2800"], RescaleSlope="1.5"
        ),
        KEY,
    )
    assert header["ipp"].tolist() == [-125, -100.5, 30.25] and header["iop"].tolist() == [
        1,
        0,
        0,
        0,
        1,
        0,
    ]
    assert header == header | {
        "slice_id": "ID_00000000a",
        "patient_id": "ID_0000000b",
        "study_id": "ID_000000000c",
        "series_id": "ID_000000000d",
        "rows": 3,
        "cols": 4,
        "pixel_spacing_mm": 0.5,
        "slope": 1.5,
        "intercept": -1024,
        "bits_stored": 16,
        "pixel_representation": 1,
        "window_center": 36,
        "window_width": 80,
        "transfer_syntax": "1.2.840.10008.1.2.1",
    }
    assert set(header) == set(HEADER_COLUMNS) - {"split", "path"} | {"slice_id", "ipp", "iop"}


@pytest.mark.parametrize("value", [None, "", "wide"])
def test_what_a_slice_can_do_without_is_nan(tmp_path, value):
    optional = ("PixelSpacing", "RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth")
    tags = {tag: value for tag in optional if value != "wide"}
    path = write_slice(tmp_path / "a", **tags)
    if value == "wide":  # pydicom would not write text in a numeric tag
        path.write_bytes(path.read_bytes().replace(b"DS\x04\x0040.0", b"DS\x04\x00wide"))
    header = header_of(path, KEY)
    assert np.isnan(header["window_center"])
    assert value == "wide" or all(
        np.isnan(header[name])
        for name in ("pixel_spacing_mm", "slope", "intercept", "window_width")
    )


def no_preamble(*args, **kwargs):
    return slice_bytes(*args, **kwargs)[132:]


@pytest.mark.parametrize("group", [b"\x02\x00", b"\x08\x00"])
def test_a_file_without_preamble_is_read(tmp_path, group):
    raw = no_preamble(np.arange(12).reshape(3, 4))
    if group == b"\x08\x00":  # nor file meta information: a bare data set
        dataset, file = make_dataset(np.arange(12).reshape(3, 4)), io.BytesIO()
        with quiet_pydicom():
            del dataset.file_meta
            pydicom.dcmwrite(
                file, dataset, implicit_vr=True, little_endian=True, enforce_file_format=False
            )
        raw = file.getvalue()
    assert raw[:2] == group
    (tmp_path / "a").write_bytes(raw)
    assert header_of(tmp_path / "a", KEY)["slice_id"] == "ID_00000000a"
    assert (read_hu(tmp_path / "a")[0] == np.arange(12).reshape(3, 4) - 1024).all()
    syntax = ImplicitVRLittleEndian if group == b"\x08\x00" else "1.2.840.10008.1.2.1"
    assert header_of(tmp_path / "a", KEY)["transfer_syntax"] == syntax


NEEDED = (
    "SOPInstanceUID",
    "PatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
)
BROKEN = {
    "empty": (b"", "empty file"),
    "text": (b"ID,Label\n" * 100, "not a DICOM file"),
    "garbage that begins like one": (
        b"\x08\x00" + bytes(range(256)) * 4,
        "missing|damaged|not a DICOM",
    ),
    "cut in the meta information": (slice_bytes()[:200], "damaged|missing"),
    "cut in the header": (
        slice_bytes()[: slice_bytes().index(b"\x28\x00\x10\x00US")],
        "Rows is missing",
    ),
    "frames": (slice_bytes(NumberOfFrames=2), r"multi-frame file \(2 frames\)"),
    "colour": (slice_bytes(SamplesPerPixel=3), "3 samples"),
    "two coordinates": (
        slice_bytes(ImagePositionPatient=[1, 2]),
        "ImagePositionPatient is not 3 numbers",
    ),
    "no number": (slice_bytes().replace(b"-100.5", b"-1o0.5"), "ImagePositionPatient is malformed"),
    "not finite": (
        slice_bytes().replace(b"-100.5", b"   nan"),
        "ImagePositionPatient is not 3 numbers",
    ),
    "no plane": (
        slice_bytes(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]),
        "ImageOrientationPatient",
    ),
    "no direction": (
        slice_bytes(ImageOrientationPatient=[0, 0, 0, 0, 1, 0]),
        "ImageOrientationPatient",
    ),
    "no rows": (slice_bytes(Rows=0), "Rows is 0"),
    **{
        f"without {tag}": (slice_bytes(**{tag: None}), f"{tag} is missing")
        for tag in (*NEEDED, "Rows", "Columns")
    },
    **{f"empty {tag}": (slice_bytes(**{tag: ""}), f"{tag} is missing") for tag in NEEDED},
}


@pytest.mark.parametrize("case", BROKEN)
def test_an_unreadable_header_says_why_and_nothing_else(tmp_path, case):
    raw, message = BROKEN[case]
    (tmp_path / "a.dcm").write_bytes(raw)
    with pytest.raises(Unreadable, match=message) as error:
        header_of(tmp_path / "a.dcm", KEY)
    reason = str(error.value)
    assert (
        "\n" not in reason
        and str(tmp_path) not in reason
        and "DOE" not in reason
        and "ID_" not in reason
    )


@pytest.mark.parametrize("patient", ["", None])
def test_without_a_patient_the_study_may_count_as_one(tmp_path, patient):
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


def test_a_folder_or_a_missing_file_is_the_machines_fault(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(MachineFault, match="^(is a directory|no such file or directory)$"):
            header_of(path, KEY)


def test_reading_leaves_pydicoms_settings_alone(tmp_path):
    before = pydicom.config.settings.reading_validation_mode
    header_of(write_slice(tmp_path / "a"), KEY)
    assert pydicom.config.settings.reading_validation_mode == before


def quick_is_slow(path):
    """Whether the quick reading took the file; where it did, its facts are those of dcmread's data
    set.
    """
    with quiet_pydicom():
        try:
            plain = parse_header_fast(DiskFile(str(path)))
            quick = header.header_values(*plain, KEY, False) if plain else None
        except (NeedsPydicom, Unreadable):
            return False
        if quick is None:
            return False
        dataset = open_dataset(path, pixels=False)
        slow = header.header_values(dataset, str(dataset.file_meta.TransferSyntaxUID), KEY, False)
    for name, value in slow.items():
        np.testing.assert_array_equal(quick[name], value, err_msg=f"{path}: {name}")
    return True


@pytest.mark.parametrize(
    ("tags", "quick"),
    [
        ({}, True),
        (
            {
                "PatientID": " DOE-1 ",
                "WindowCenter": [40, 400],
                "RescaleSlope": "1.0 ",
                "NumberOfFrames": None,
            },
            True,
        ),
        ({"PixelSpacing": "", "WindowWidth": "", "RescaleIntercept": None}, True),
        ({"SpecificCharacterSet": "ISO_IR 192", "PatientID": "Jönsson"}, False),
        ({"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientID": "\x1b$B;3ED\x1b(B"}, False),
        ({"SeriesInstanceUID": ["1.2", "1.3"]}, False),
        ({"NumberOfFrames": 1}, False),
        ({"WindowCenter": ["40", ""]}, False),
    ],
)
def test_quick_headers_are_as_dcmreads(tmp_path, tags, quick):
    path = write_slice(tmp_path / "a", **tags)
    assert quick_is_slow(path) == quick
    with quiet_pydicom():
        dataset = open_dataset(path, pixels=False)
        want = header.header_values(dataset, str(dataset.file_meta.TransferSyntaxUID), KEY, False)
    for name, value in header_of(path, KEY).items():
        np.testing.assert_array_equal(value, want[name], err_msg=name)


@pytest.fixture
def folder(tmp_path):
    """Five good files, one of them twice, and two bad ones."""
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
    assert (
        table.index.tolist() == [f"ID_{i:09}" for i in range(5)] and table.index.name == "slice_id"
    )
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
    monkeypatch.setattr(header_index, "CHUNK_FILES", 3)
    done = []
    chunk_folder = read_headers(folder, list_files(folder), KEY, workers=2, progress=done.append)
    for a, b in zip(whole, chunk_folder, strict=True):
        pd.testing.assert_frame_equal(a, b)
    assert done == [3, 6, 8]


def test_chunks_that_were_read_are_not_read_again(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(header_index, "CHUNK_FILES", 3)
    names = list_files(folder)
    want = read_headers(folder, names, KEY, workers=1)
    read, done = [], []
    facts = header_index.read_header
    monkeypatch.setattr(
        header_index,
        "read_header",
        lambda file, *rest: read.append(os.path.basename(file.path)) or facts(file, *rest),
    )

    def again(files=names):
        read.clear()
        done.clear()
        return read_headers(
            folder, files, KEY, 1, lambda n, kept=False: done.append((n, kept)), tmp_path / "parts"
        )

    for unread, told in ((names, [(3, False), (6, False), (8, False)]), ([], [(8, True)])):
        for a, b in zip(again(), want, strict=True):
            pd.testing.assert_frame_equal(a, b)
        assert read == [os.path.basename(name) for name in unread] and done == told
    (tmp_path / "parts" / "00001.parquet").write_bytes(b"half a chunk")
    (tmp_path / "parts" / "00002.parquet").unlink()
    for a, b in zip(again(), want, strict=True):
        pd.testing.assert_frame_equal(a, b)
    assert len(read) == 5 and done == [(3, True), (6, False), (8, False)]
    assert len(again(names[1:])[0]) == 5 and len(read) == 7  # other files, other chunks


def test_read_headers_of_nothing(tmp_path):
    table, bad = read_headers(tmp_path, [], KEY)
    assert (
        len(table) == 0
        and len(bad) == 0
        and "ipp_x" in table
        and list(bad) == ["path", "slice_id", "kind", "reason"]
    )


# pixels


def hu_of(tmp_path, *args, **kwargs):
    return read_hu(write_slice(tmp_path / "a.dcm", *args, **kwargs))


@pytest.mark.parametrize(
    ("stored", "tags", "hu"),
    [
        ([[0, 1024], [3000, 4095]], {"signed": False, "bits": 12}, [[-1024, 0], [1976, 3071]]),
        ([[-2000, 0], [30, 3000]], {"RescaleIntercept": 0}, [[-2000, 0], [30, 3000]]),
        (
            [[0, 1], [2, 3]],
            {"RescaleSlope": "0.5", "RescaleIntercept": "-10.2"},
            [[-10, -10], [-9, -9]],
        ),
        # halves to even
        ([[0, 1], [2, -3]], {"RescaleSlope": "0.5", "RescaleIntercept": "0"}, [[0, 0], [1, -2]]),
        ([[0, 32767], [-32768, 5]], {}, [[-1024, 31743], [-32768, -1019]]),  # clipped below
        # clipped above
        ([[0, 65535], [40000, 5]], {"signed": False}, [[-1024, 32767], [32767, -1019]]),
        (
            [[0, 65535], [40000, 5]],
            {"signed": False, "RescaleIntercept": -32768},
            [[-32768, 32767], [7232, -32763]],
        ),
        (
            [[0, 65535], [40000, 5]],
            {"signed": False, "RescaleIntercept": -40000},
            [[-32768, 25535], [0, -32768]],
        ),
        ([[-32768, -7], [0, 5]], {"RescaleIntercept": 40000}, [[7232, 32767], [32767, 32767]]),
        ([[2000, -2000], [1, 0]], {"RescaleSlope": 20}, [[32767, -32768], [-1004, -1024]]),
        # both or none, as pydicom has it
        ([[1, 2], [3, 4]], {"RescaleSlope": None}, [[1, 2], [3, 4]]),
        (
            [[0x0FFF, 0x0800], [0xF7FF - 65536, 7]],
            {"bits": 12, "RescaleIntercept": 0},
            [[-1, -2048], [2047, 7]],
        ),
    ],
)
@pytest.mark.filterwarnings("error")
def test_hu_by_hand(tmp_path, stored, tags, hu):
    got, repaired = hu_of(tmp_path, stored, **tags)
    assert got.dtype == np.int16 and got.tolist() == hu and not repaired


def test_rows_are_rows(tmp_path):
    hu, _ = hu_of(tmp_path, np.arange(12).reshape(3, 4), RescaleIntercept=0)
    assert hu.shape == (3, 4) and hu[2, 1] == 9


def head(rng):
    """HU (64, 64): air, a ring of bone, brain."""
    y, x = np.mgrid[-32:32, -32:32]
    r = np.hypot(x, y)
    brain, bone, air = (
        rng.normal(mean, spread, r.shape) for mean, spread in ((32, 6), (1100, 90), (-1000, 9))
    )
    return np.rint(np.where(r < 20, brain, np.where(r < 24, bone, air))).astype(int)


@pytest.mark.parametrize("intercept", [0, 1])
def test_the_12_bit_defect_is_mended(tmp_path, intercept):
    hu = head(np.random.default_rng(0))
    got, repaired = hu_of(tmp_path, hu % 4096, signed=False, bits=12, RescaleIntercept=intercept)
    assert repaired and (got == np.where(hu < -1000, hu + 4096, hu)).mean() > 0.6
    np.testing.assert_array_equal(got[hu >= -1000], hu[hu >= -1000])


@pytest.mark.parametrize(
    "tags",
    [
        {"RescaleIntercept": -1024},
        {"RescaleIntercept": -1000},
        {"RescaleIntercept": 0, "signed": True},
        {"RescaleIntercept": 0, "bits": 16},
        {"RescaleIntercept": 0, "RescaleSlope": "0.5"},
    ],
)
def test_the_defect_is_only_looked_for_where_the_header_allows_it(tmp_path, tags):
    stored = head(np.random.default_rng(0)) % 4096
    tags = {"signed": False, "bits": 12} | tags
    if tags["signed"]:
        stored = stored % 2048
    got, repaired = hu_of(tmp_path, stored, **tags)
    want = np.rint(stored * float(tags.get("RescaleSlope", 1)) + tags["RescaleIntercept"])
    assert not repaired and (got == want).all()


@pytest.mark.parametrize(
    ("lowest", "highest", "pixels"), [(0, 1, 0), (2400, 3400, 2000), (3090, 3100, 100)]
)
def test_another_vendors_intercept_of_0_stays(tmp_path, lowest, highest, pixels):
    rng = np.random.default_rng(1)
    stored = np.clip(head(rng) + 1000, 0, 4095)  # air at 0: right as it is, if in units of its own
    # many dense values without a peak; a peak of 2.4 %
    stored.ravel()[:pixels] = rng.integers(lowest, highest, pixels)
    got, repaired = hu_of(tmp_path, stored, signed=False, bits=12, RescaleIntercept=0)
    assert not repaired and (got == stored).all()


def refused(path):
    with pytest.raises(Unreadable) as error:
        read_hu(path)
    reason = str(error.value)
    assert "\n" not in reason and len(reason) < 160 and os.path.dirname(str(path)) not in reason
    return reason


def test_truncated_pixels(tmp_path):
    path = tmp_path / "a.dcm"
    path.write_bytes(slice_bytes()[:-5])
    assert refused(path) == "truncated pixel data: 19 of 24 bytes"
    path.write_bytes(slice_bytes()[:-24])
    assert "truncated" in refused(path)
    path.write_bytes(slice_bytes()[:-40])
    assert refused(path) == "pixel data missing or cut short"
    assert header_of(path, KEY)["slice_id"] == "ID_00000000a"


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"NumberOfFrames": 3}, r"multi-frame file (3 frames)"),
        ({"BitsStored": None}, "BitsStored is missing or empty"),
        ({"RescaleSlope": 0}, "RescaleSlope is 0"),
    ],
)
def test_pixels_that_cannot_be_hu(tmp_path, tags, reason):
    assert refused(write_slice(tmp_path / "a.dcm", **tags)) == reason


def compressed(pixels, syntax, stream):
    dataset = make_dataset(pixels)
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax
    file = io.BytesIO()
    with quiet_pydicom():
        dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def test_rle_and_its_corruption(tmp_path):
    path, pixels = tmp_path / "a.dcm", np.arange(-8, 56).reshape(8, 8)
    dataset = make_dataset(pixels)
    with quiet_pydicom():
        dataset.compress(RLELossless)
        dataset.save_as(path, enforce_file_format=True)
    assert (read_hu(path)[0] == pixels - 1024).all()
    # two segments that unpack to more bytes than the image has
    offsets = np.array([2, 64, 264, *[0] * 13], "<u4").tobytes()
    # pylibjpeg-rle panics here
    path.write_bytes(compressed(pixels, RLELossless, offsets + b"\x81\x05" * 200))
    assert refused(path).startswith("cannot be decoded: ")


def test_an_unknown_transfer_syntax_has_no_decoder(tmp_path):
    path = tmp_path / "a.dcm"
    path.write_bytes(compressed(np.zeros((8, 8)), "1.2.840.10008.1.2.4.53", b"\xff\xd8\xff\xd9"))
    assert refused(path) == "no decoder for the transfer syntax 1.2.840.10008.1.2.4.53"


RETIRED = "1.2.840.10008.1.2.4.53"
UNDECODABLE = {
    "CT0012.fragmented_no_bot_jpeg_baseline.51.dcm": "multi-frame file (2 frames)",
    "eCT_Supplemental.dcm": "multi-frame file (2 frames)",
    f"CTImage.dcm_JPEGProcess6_8TransferSyntax_{RETIRED}.dcm": f"no decoder for the transfer syntax {RETIRED}",
}


@needs_zoo
def test_the_zoo_decodes_as_pydicom_does():
    files = sorted(ZOO.iterdir())
    assert len(files) >= 19
    for file in files:
        if file.name in UNDECODABLE:
            assert refused(file) == UNDECODABLE[file.name]
            continue
        with quiet_pydicom():
            dataset = pydicom.dcmread(file, force=True)
            if "Headless" in file.name:  # it lacks what pydicom's decoder asks for
                dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
                dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "MONOCHROME2", 1
            want = apply_rescale(dataset.pixel_array, dataset)
        hu, repaired = read_hu(file)
        assert not repaired and hu.dtype == np.int16
        np.testing.assert_array_equal(hu, np.rint(want), err_msg=file.name)


@needs_zoo
def test_the_zoos_copies_of_one_slice_agree():
    plain = read_hu(ZOO / "CT2_UNC")[0]
    for name in ("CT2_RLE", "CT2_JPLL", "CT2_JLSL", "CT2_J2KR"):
        np.testing.assert_array_equal(read_hu(ZOO / name)[0], plain, err_msg=name)
    assert 0 < np.abs(read_hu(ZOO / "CT2_JLSN")[0] - plain.astype(int)).max() <= 10


@needs_zoo
def test_the_zoo_reads_from_a_zip_as_from_a_folder(tmp_path):
    source = open_zip(pack(ZOO, tmp_path / "zoo.zip", "zoo/")).subfolder("zoo")
    names = list_files(ZOO)
    assert source.names == names
    for a, b in zip(
        read_headers(ZOO, names, KEY, workers=1),
        read_headers(source, names, KEY, workers=1),
        strict=True,
    ):
        pd.testing.assert_frame_equal(a, b)
    for name in names:
        if name in UNDECODABLE:
            assert refused(source.file(name)) == UNDECODABLE[name]
        else:
            np.testing.assert_array_equal(
                read_hu(source.file(name))[0], read_hu(ZOO / name)[0], err_msg=name
            )


@needs_zoo
def test_the_zoos_headers_are_as_dcmreads():
    assert sum(quick_is_slow(file) for file in sorted(ZOO.iterdir())) >= 10


@needs_zoo
def test_the_zoos_headers():
    table, bad = read_headers(ZOO, list_files(ZOO), KEY, workers=1)
    reasons = dict(zip(bad["path"], bad["reason"], strict=True))
    assert reasons["eCT_Supplemental.dcm"] == "multi-frame file (2 frames)"
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
    assert set(table["path"]) | set(bad["path"]) == set(list_files(ZOO))
