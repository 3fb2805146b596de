"""`score` predicts the same for one head in any form: turned, enhanced CT, NIfTI."""

import copy
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import twins
from tiny_zip import pack

import run
from ct.dicom.header_table import read_headers
from ct.dicom.hounsfield import read_hu
from ct.labels import LABELS
from ct.pixel_cache.reader import PixelCache
from ct.slices import order_slices
from ct.sources.folder import Folder
from ct.storage.file_formats import read_table

FORMS = ("classic", "half-turn", "mirrored", "enhanced", "nifti")


def equal_steps(slices):
    """Return the longest part of a study, of all slices or every other one, with equal steps.

    NIfTI has one step for all slices. Real positions are rounded, and may alternate.
    """
    best = []
    for part in (slices, slices[::2]):
        places = np.array([one.ImagePositionPatient for one in part], float)
        for first in range(len(part)):
            for last in range(first + len(best), len(part)):
                line = np.linspace(places[first], places[last], last - first + 1)
                if np.abs(places[first : last + 1] - line).max() > 0.0008:
                    break
                best = part[first : last + 1]
    return best


def write_forms(folder, slices):
    """Write the same head in each of FORMS, each in a folder and of a person of its own."""
    twins.save_slices(folder / "classic", twins.renamed(slices, "classic"))
    for form in ("half-turn", "mirrored"):
        stored = twins.turned(twins.renamed(slices, form), half_turn=form == "half-turn")
        twins.save_slices(folder / form, stored)
    twins.save_enhanced(folder / "enhanced", twins.renamed(slices, "enhanced"))
    twins.save_nifti(folder / "nifti/head.nii.gz", slices)


def check_forms(folder, model, to):
    """Headers, HU and probabilities of each form are those of the classic files."""
    files = Folder(folder).all_files()
    table, refused = read_headers(folder, files, b"key", workers=1)
    assert refused.empty
    table = order_slices(table.assign(split="test"))
    form = table["path"].str.split("/").str[0]
    forms = {name: table[form == name] for name in FORMS}
    classic = forms["classic"]
    for rows in forms.values():
        np.testing.assert_allclose(rows["position_mm"], classic["position_mm"], atol=0.001)
        for column in ("rows", "cols", "pixel_spacing_mm", "tilt_deg"):
            np.testing.assert_allclose(rows[column], classic[column], rtol=1e-4, atol=1e-4)
        stored = [Folder(folder).select(part["path"].tolist()) for part in (rows, classic)]
        for slice_file, classic_file in zip(*stored, strict=True):
            np.testing.assert_array_equal(read_hu(slice_file)[0], read_hu(classic_file)[0])
    words = ["score", f"--run={model}", f"--data={folder}", f"--to={to}", "--anyway"]
    assert run.main(words) == 0
    check_scores(to)


def check_scores(to):
    """Each form has the probabilities of the classic files, and a remark where it is unusual."""
    scores, studies = (read_table(to / f"{name}.parquet") for name in ("slices", "studies"))
    assert len(studies) == len(FORMS) and studies["status"].eq("scored").all()
    # the order of the studies is that of their pseudonyms under a random key
    by_study = [rows[list(LABELS)].to_numpy() for _, rows in scores.groupby("study_id")]
    # a micrometre, to which positions are rounded, moves the weights of the slices of a slab
    atol = 1e-4 if studies["remarks"].str.contains("slabs").any() else 1e-6
    for probabilities in by_study[1:]:
        np.testing.assert_allclose(probabilities, by_study[0], rtol=0, atol=atol)
    for text in ("stored turned by 180 degrees", "stored mirrored", "NIfTI"):
        assert studies["remarks"].str.contains(text).sum() == 1


def test_an_example_head(competition, finished, tmp_path):
    pytest.importorskip("nibabel", reason="nibabel is not installed: pip install -e '.[nifti]'")
    files = sorted((competition / "stage_2_test").rglob("*.dcm"))
    readable = [file for file in files if file.stat().st_size > 64 * 64 * 2]
    write_forms(tmp_path / "data", equal_steps(twins.read_study(readable)))
    check_forms(tmp_path / "data", finished, tmp_path / "scores")


@pytest.mark.slow
def test_real_heads(real_data, finished, tmp_path):
    pytest.importorskip("nibabel", reason="nibabel is not installed: pip install -e '.[nifti]'")
    with tarfile.open(real_data / "rsna_mini.tar.xz") as archive:
        members = [member for member in archive if "/stage_2_test/" in f"/{member.name}"]
        archive.extractall(tmp_path, members, filter="data")
    files = sorted(tmp_path.rglob("ID_*.dcm"))
    studies = {}
    for one in twins.read_study(files):
        studies.setdefault(one.StudyInstanceUID, []).append(one)
    assert len(studies) == 2
    for number, slices in enumerate(studies.values()):
        slices = equal_steps(slices)
        assert len(slices) >= 10
        write_forms(tmp_path / f"data{number}", slices)
        check_forms(tmp_path / f"data{number}", finished, tmp_path / f"scores{number}")


def is_plain(slices):
    """Return whether all pixels of a study are there, and no two slices at one position."""
    whole = all(len(one.PixelData) == one.Rows * one.Columns * 2 for one in slices)
    return whole and len({tuple(one.ImagePositionPatient) for one in slices}) == len(slices)


@pytest.mark.parametrize("zipped", [False, True])
def test_ingest_reads_frames_and_their_labels(competition, tmp_path, zipped):
    """A training study as enhanced CT: the pixels and labels of its classic files."""
    data = shutil.copytree(competition, tmp_path / "data")
    files = sorted((data / "stage_2_train").rglob("*.dcm"))
    studies = {}
    for one in twins.read_study(files):
        studies.setdefault(one.StudyInstanceUID, []).append(one)
    chosen = next(slices for slices in studies.values() if is_plain(slices))
    labels = (data / "stage_2_train.csv").read_text()
    for number, one in enumerate([*chosen[::2], *chosen[1::2]], 1):  # as twins.save_enhanced
        labels = labels.replace(f"{one.SOPInstanceUID}_", f"1.2.3#{number}_")
        Path(one.filename).unlink()
    (data / "stage_2_train.csv").write_text(labels)
    numbered = [copy.deepcopy(one) for one in chosen]
    with twins.unchecked():
        for one in numbered:
            one.SOPInstanceUID = "1.2.3"
    twins.save_enhanced(data / "stage_2_train/study", numbered)
    rows, pixels = {}, {}
    source = pack(data, tmp_path / "data.zip") if zipped else data
    for name, folder in (("classic", competition), ("frames", source)):
        made = tmp_path / name
        assert run.main(["new", f"--run={made}", "--recipe=micro", f"--data={folder}"]) == 0
        assert run.main(["ingest", f"--run={made}", "--workers=1"]) == 0
        slices, cache = read_table(made / "slices.parquet"), PixelCache(made / "pixels")
        rows[name] = slices[slices["study_id"] == chosen[0].StudyInstanceUID]
        places = pd.Index(cache.slice_ids).get_indexer(rows[name].index)
        pixels[name] = cache.read(places)
    assert len(rows["frames"]) == len(chosen) > 1
    np.testing.assert_array_equal(pixels["frames"], pixels["classic"])
    for column in ("position_mm", "gap_below_mm", "brain_cm2", "rows", *LABELS):
        np.testing.assert_array_equal(rows["frames"][column], rows["classic"][column])
