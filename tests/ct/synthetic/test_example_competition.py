"""The example competition: valid DICOM files in Kaggle's layout, with the real difficulties."""

import filecmp
import warnings

import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.config import disable_value_validation

from ct.errors import InputError
from ct.labels import KAGGLE_ORDER, LABELS, SUBTYPES, read_labels
from ct.synthetic.example_competition import write_competition
from ct.synthetic.study_files import make_study
from ct.synthetic.study_plan import LAYOUTS, plan_competition

SIZE, SEED, STUDIES = 64, 3, 6
# ID_... is no UID, here as in the real files
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR UI")


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """(folder, summary, progress calls) of a small competition."""
    out, calls = tmp_path_factory.mktemp("example") / "competition", []
    summary = write_competition(
        out, STUDIES, SEED, SIZE, progress=lambda done, total: calls.append((done, total))
    )
    return out, summary, calls


@pytest.fixture(scope="module")
def files(example):
    """Slice id -> (dataset, is in the test set)."""
    with disable_value_validation():
        paths = sorted(example[0].glob("stage_2_*/*.dcm"))
        return {p.stem: (pydicom.dcmread(p), p.parent.name == "stage_2_test") for p in paths}


def hounsfield(ds):
    """Pixels in HU by pydicom's own decoder, the intercept defect repaired by its known rule."""
    px = ds.pixel_array.astype(np.int64)
    if ds.RescaleIntercept in (0, 1):
        px = px + 1000
        px[px >= 4096] -= 4096
        return px - 1000
    return px * float(ds.RescaleSlope) + float(ds.RescaleIntercept)


def along_normal(ds):
    """Position of a slice along its normal, mm: the cross product of DICOM PS3.3 C.7.6.2.1.1."""
    row, column = np.split(np.array(ds.ImageOrientationPatient, float), 2)
    return float(np.cross(row, column) @ np.array(ds.ImagePositionPatient, float))


def studies_of(files):
    """Study id -> its slice ids along the normal."""
    groups = {}
    for slice_id, (ds, _) in files.items():
        groups.setdefault(ds.StudyInstanceUID, []).append(slice_id)
    return {
        study: sorted(ids, key=lambda i: along_normal(files[i][0])) for study, ids in groups.items()
    }


def test_the_layout_is_kaggles(example):
    out, _, calls = example
    assert sorted(p.name for p in out.iterdir()) == [
        "stage_2_sample_submission.csv",
        "stage_2_test",
        "stage_2_train",
        "stage_2_train.csv",
        "synth.json",
    ]
    assert not out.with_name("competition.part").exists()
    assert calls == [(i, STUDIES) for i in range(1, STUDIES + 1)]


def test_csv_rows_match_the_files(example):
    out, summary, _ = example
    for name, table in (
        ("stage_2_train", "stage_2_train.csv"),
        ("stage_2_test", "stage_2_sample_submission.csv"),
    ):
        rows = pd.read_csv(out / table)
        ids = sorted(p.stem for p in (out / name).iterdir())
        assert rows["ID"].tolist() == [f"{i}_{label}" for i in ids for label in KAGGLE_ORDER]
        assert summary[name.split("_")[2] + "_slices"] == len(ids)
    assert (pd.read_csv(out / "stage_2_sample_submission.csv")["Label"] == 0.5).all()
    labels, duplicates = read_labels(out / "stage_2_train.csv")
    assert duplicates == 0
    assert (labels["any"] == labels[list(SUBTYPES)].max(axis=1)).all()
    assert {k: int(labels[k].sum()) for k in LABELS} == summary["positive_slices"]
    assert 0.05 < labels["any"].mean() < 0.4


def test_tags_are_those_of_the_real_files(files):
    for slice_id, (ds, _) in files.items():
        assert ds.SOPInstanceUID == slice_id and ds.Modality == "CT"
        assert ds.file_meta.MediaStorageSOPClassUID == pydicom.uid.CTImageStorage
        assert (ds.Rows, ds.Columns) == (SIZE, SIZE)
        assert 200 < ds.PixelSpacing[0] * SIZE < 260
        assert (ds.BitsStored, ds.PixelRepresentation) in {(12, 0), (16, 1)}
        assert not {"InstanceNumber", "SliceThickness", "GantryDetectorTilt", "PatientName"} & set(
            ds.dir()
        )
        assert [
            len(x) for x in (ds.PatientID, ds.StudyInstanceUID, ds.SeriesInstanceUID, slice_id)
        ] == [11, 13, 13, 12]
    assert {(ds.BitsStored, ds.PixelRepresentation) for ds, _ in files.values()} == {
        (12, 0),
        (16, 1),
    }
    assert {
        isinstance(ds.WindowCenter, pydicom.multival.MultiValue) for ds, _ in files.values()
    } == {True, False}


def test_writing_gives_no_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_competition(tmp_path / "quiet", 2, 0, 32, slices=(14, 14))


def test_hounsfield_units(example, files):
    for ids in studies_of(files).values():
        good = [i for i in ids if i != example[1]["truncated"]]
        hu = np.stack([hounsfield(files[i][0]) for i in good])
        corner = hu[:, 0, 0]
        assert (corner < -950).all()
        if files[ids[0]][0].PixelRepresentation:
            assert (corner == -3024).all()  # padding outside the circle
        assert np.median(hu[:, 0, SIZE // 2]) == pytest.approx(-1000, abs=15)
        centre = hu[len(hu) // 3 : -len(hu) // 3, SIZE // 3 : -SIZE // 3, SIZE // 3 : -SIZE // 3]
        assert 20 < np.median(centre) < 45
        assert hu.max() > 700  # bone


def test_geometry(files):
    steps, tilts = [], []
    for ids in studies_of(files).values():
        steps.append(np.diff([along_normal(files[i][0]) for i in ids]))
        assert len({tuple(files[i][0].ImageOrientationPatient) for i in ids}) == 1
        tilts.append(np.degrees(np.arcsin(-files[ids[0]][0].ImageOrientationPatient[5])))
        assert len({files[i][0].PatientID for i in ids}) == 1
        assert len({files[i][0].SeriesInstanceUID for i in ids}) == 1
    assert min(tilts) >= 0 and max(tilts) <= 25 and np.ptp(tilts) > 3
    usual = np.array([s.max() if np.median(s) < 4 else np.median(s) for s in steps])
    assert ((usual > 4.4) & (usual < 5.6)).all()
    relative = np.round(np.concatenate([s / u for s, u in zip(steps, usual, strict=True)]), 3)
    assert set(relative.tolist()) == {0.0, 0.5, 1.0, 2.0}  # a double, half steps, and a gap
    names = [sorted(ids) == ids for ids in studies_of(files).values()]
    assert not any(names)  # file names are not in order


def test_truncated_file_has_a_header_but_no_pixels(example, files):
    ds, in_test = files[example[1]["truncated"]]
    assert not in_test and ds.Rows == SIZE
    assert 0 < len(ds.PixelData) < SIZE * SIZE * 2
    with pytest.raises(ValueError):
        ds.pixel_array  # noqa: B018
    unreadable = [i for i, (d, _) in files.items() if len(d.PixelData) != SIZE * SIZE * 2]
    assert unreadable == [example[1]["truncated"]]


def test_repaired_defects_agree_with_their_neighbours(example, files):
    defects = example[1]["defects"]
    assert defects
    assert sorted(defects) == sorted(
        i for i, (ds, _) in files.items() if ds.RescaleIntercept in (0, 1)
    )
    groups = studies_of(files)
    for slice_id in defects:
        ds, in_test = files[slice_id]
        assert not in_test and (ds.BitsStored, ds.PixelRepresentation) == (12, 0)
        ids = groups[ds.StudyInstanceUID]
        at = ids.index(slice_id)
        assert files[ids[0]][0].RescaleIntercept == -1024  # the rest of the study has no defect
        neighbour = next(i for i in (ids[at - 1], ids[at + 1]) if i not in defects)
        repaired, beside = hounsfield(ds), hounsfield(files[neighbour][0])
        assert repaired.min() >= -1000 and repaired.max() > 500
        assert np.median(np.abs(repaired - beside)) < 15
        unrepaired = ds.pixel_array.astype(float) + float(ds.RescaleIntercept)
        assert np.median(np.abs(unrepaired - beside)) > 1000


def test_one_patient_is_in_both_sets(example, files):
    patients, studies = {True: set(), False: set()}, {True: set(), False: set()}
    for ds, in_test in files.values():
        patients[in_test].add(ds.PatientID)
        studies[in_test].add(ds.StudyInstanceUID)
    assert patients[True] & patients[False] == {example[1]["shared_patient"]}
    assert not studies[True] & studies[False]


def test_positive_slices_are_contiguous(example, files):
    labels, _ = read_labels(example[0] / "stage_2_train.csv")
    runs = 0
    for ids in studies_of(files).values():
        if not files[ids[0]][1]:
            for kind in SUBTYPES:
                where = np.flatnonzero(labels.loc[ids, kind])
                runs += bool(len(where))
                assert len(where) == 0 or (np.ptp(where) + 1 == len(where) and 3 <= len(where) <= 9)
    assert runs >= 3


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    a, b, c = (tmp_path / name for name in "abc")
    for out, seed in ((a, 1), (b, 1), (c, 2)):
        write_competition(out, 2, seed, 32, slices=(14, 16))
    names = sorted(str(p.relative_to(a)) for p in a.rglob("*.*"))
    assert names == sorted(str(p.relative_to(b)) for p in b.rglob("*.*"))
    assert filecmp.cmpfiles(a, b, names, shallow=False) == (names, [], [])
    assert not {p.name for p in a.rglob("*.dcm")} & {p.name for p in c.rglob("*.dcm")}


def test_a_study_does_not_depend_on_the_others():
    plan = plan_competition(5, 9)[3]
    make_study(plan_competition(5, 9)[1], 9, 32)
    late, alone = make_study(plan, 9, 32), make_study(plan_competition(5, 9)[3], 9, 32)
    assert late.ids == alone.ids
    assert (late.hu == alone.hu).all()
    assert (late.labels == alone.labels).all()


@pytest.mark.parametrize("studies", [2, 3, 7, 30, 41])
def test_the_plan_deals_out_bleeds_and_traps(studies):
    plans = plan_competition(studies, 0)
    assert [p.number for p in plans] == list(range(studies))
    assert max(1, studies // 7) <= sum(p.test for p in plans) <= max(1, studies // 5)
    assert [p.test for p in plans if p.truncated] == [False]
    assert all(not p.signed and not p.test for p in plans if p.defects)
    assert any(p.defects for p in plans)
    assert all(len(set(p.kinds)) == len(p.kinds) for p in plans)
    both = {p.patient for p in plans if p.test} & {p.patient for p in plans if not p.test}
    assert len(both) == 1
    if studies >= 30:
        assert 0.55 <= np.mean([bool(p.kinds) for p in plans]) <= 0.6
        assert min(sum(kind in p.kinds for p in plans) for kind in SUBTYPES) >= 4
        assert min(sum(kind in p.kinds for p in plans if not p.test) for kind in SUBTYPES) >= 3
        assert {p.layout for p in plans} == {"regular", *LAYOUTS}


def test_invalid_arguments_are_refused(tmp_path):
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(InputError, match="is there already"):
        write_competition(tmp_path, 2, 0, 32)
    assert [p.name for p in tmp_path.iterdir()] == ["kept.txt"]
    with pytest.raises(InputError, match="kept.txt"):
        write_competition(tmp_path / "kept.txt", 2, 0, 32)
    with pytest.raises(InputError, match="studies is 1"):
        write_competition(tmp_path / "new", 1, 0, 32)
    with pytest.raises(InputError, match="size is 16"):
        write_competition(tmp_path / "new", 2, 0, 16)
    with pytest.raises(InputError, match="slices is"):
        write_competition(tmp_path / "new", 2, 0, 32, slices=(9, 8))
    assert not (tmp_path / "new").exists()


def test_an_empty_folder_is_used(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.part").mkdir()
    (tmp_path / "empty.part" / "left by a run that was killed").write_text("")
    summary = write_competition(tmp_path / "empty", 2, 0, 32, slices=(12, 14))
    assert (
        len(list((tmp_path / "empty").rglob("*.dcm")))
        == summary["train_slices"] + summary["test_slices"]
    )
    assert len(list((tmp_path / "empty").iterdir())) == 5
