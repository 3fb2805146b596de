"""NIfTI: each slice is the same as that of the DICOM files the volume came from."""

import gzip
import itertools
import subprocess
import sys

import numpy as np
import pytest
from tiny_dicom import write_slice
from tiny_zip import pack

from ct.dicom.acquisition import read_acquisition
from ct.dicom.header_table import read_headers
from ct.dicom.hounsfield import read_hu
from ct.slices import order_slices
from ct.sources.folder import Folder
from ct.sources.zip_archive import open_zip

nibabel = pytest.importorskip(
    "nibabel", reason="nibabel is not installed: pip install -e '.[nifti]'"
)

KEY = b"key"
COLUMNS, ROWS, SLICES = 4, 3, 5
# HU of each (column, row, slice); patient left is +x, back is +y, head is +z
HU = (np.arange(COLUMNS * ROWS * SLICES).reshape(COLUMNS, ROWS, SLICES) * 7 - 200).astype(np.int16)
SPACING = np.array([0.75, 0.5, 5.0])  # mm: between columns, rows, slices
FIRST = np.array([-125.0, -100.5, 30.25])


def tilted(degrees):
    """Return the directions (3, 3) of rows, columns and the normal: a gantry's tilt."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[1, 0, 0], [0, c, s], [0, -s, c]])


def write_dicom(folder, directions):
    for place in range(SLICES):
        position = FIRST + place * SPACING[2] * directions[2]
        write_slice(
            folder / f"{place}.dcm",
            HU[:, :, place].T,
            name=f"1.2.{place + 1}",
            RescaleIntercept=0,
            ImagePositionPatient=[f"{value:.6f}" for value in position],
            ImageOrientationPatient=[f"{value:.8f}" for value in directions[:2].ravel()],
            PixelSpacing=[SPACING[1], SPACING[0]],
        )


def affine_of(directions):
    """Return the affine (4, 4) from voxels (column, row, slice) to NIfTI's space."""
    affine = np.eye(4)
    affine[:3, :3] = (directions * SPACING[:, None]).T
    affine[:3, 3] = FIRST
    return np.diag([-1, -1, 1, 1]) @ affine


def flipped(data, affine, axis):
    """Return the same volume with the voxels of an axis in the opposite order."""
    step = np.eye(4)
    step[axis, axis], step[axis, 3] = -1, data.shape[axis] - 1
    return np.flip(data, axis), affine @ step


def write_nifti(path, data=HU, affine=None, form="sform", rescale=(1, 0), kind=None):
    """Write a volume; form: "sform", "qform" or "none"; rescale: slope and intercept."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = affine_of(tilted(0)) if affine is None else affine
    image = (kind or nibabel.Nifti1Image)(data, None)
    image.header.set_sform(affine if form == "sform" else None, int(form == "sform"))
    image.header.set_qform(affine if form == "qform" else None, int(form == "qform"))
    image.header.set_slope_inter(*rescale)
    raw = bytearray(image.to_bytes())
    if kind is None:  # nibabel writes the data as they are, and no slope
        raw[112:120] = np.array(rescale, "<f4").tobytes()
    path.write_bytes(gzip.compress(raw) if path.name.endswith(".gz") else raw)
    return path


def read(source, names):
    table, refused = read_headers(source, names, KEY, workers=1)
    return order_slices(table.assign(split="test")), refused


def assert_twins(tmp_path, source, name, atol=0.001):
    """The volume has the HU, order and positions of the DICOM files in tmp_path/dicom."""
    dicom = Folder(tmp_path / "dicom")
    slices, _ = read(dicom, [f"{place}.dcm" for place in range(SLICES)])
    volume, refused = read(source, [name])
    assert refused.empty and len(volume) == SLICES
    np.testing.assert_allclose(volume["position_mm"], slices["position_mm"], atol=atol)
    np.testing.assert_allclose(volume["tilt_deg"], slices["tilt_deg"], atol=1e-3)
    for column in ("rows", "cols", "pixel_spacing_mm", "place"):
        np.testing.assert_allclose(volume[column], slices[column], rtol=1e-6)
    frames, files = (
        source.select(volume["path"].tolist()),
        dicom.select(slices["path"].tolist()),
    )
    for frame, file in zip(frames, files, strict=True):
        np.testing.assert_array_equal(read_hu(frame)[0], read_hu(file)[0])


@pytest.mark.parametrize("tilt", [0, 20, -30])
@pytest.mark.parametrize("form", ["sform", "qform"])
def test_a_volume_is_the_slices_that_it_came_from(tmp_path, form, tilt):
    directions = tilted(tilt)
    write_dicom(tmp_path / "dicom", directions)
    write_nifti(tmp_path / "v/a.nii", affine=affine_of(directions), form=form)
    assert_twins(tmp_path, Folder(tmp_path / "v"), "a.nii")


@pytest.mark.parametrize("axes", [(), (0,), (1,), (2,), (0, 1), (0, 1, 2)])
def test_both_handednesses(tmp_path, axes):
    """nibabel's usual RAS, and every other order of the voxels, with an affine that says so."""
    write_dicom(tmp_path / "dicom", tilted(15))
    data, affine = HU, affine_of(tilted(15))
    for axis in axes:
        data, affine = flipped(data, affine, axis)
    write_nifti(tmp_path / "v/a.nii", data, affine)
    assert_twins(tmp_path, Folder(tmp_path / "v"), "a.nii")


@pytest.mark.parametrize("order", list(itertools.permutations(range(3)))[1:])
def test_slices_lie_along_the_axis_nearest_to_the_head(tmp_path, order):
    write_dicom(tmp_path / "dicom", tilted(0))
    affine = affine_of(tilted(0))
    write_nifti(tmp_path / "v/a.nii", HU.transpose(order), affine[:, [*order, 3]])
    assert_twins(tmp_path, Folder(tmp_path / "v"), "a.nii")


@pytest.mark.parametrize(
    ("name", "data", "options"),
    [
        ("a.nii.gz", HU, {}),
        ("A.NII", HU.astype(np.float32), {}),
        ("a.nii", HU.astype(np.float64)[..., None], {}),
        ("a.nii", HU + 1024, {"rescale": (1, -1024)}),
        ("a.nii", (HU + 1024).astype(">u2"), {"rescale": (1, -1024)}),
        ("a.nii", HU * 2, {"rescale": (0.5, 0)}),
        ("a.nii", HU, {"kind": nibabel.Nifti2Image}),
    ],
)
def test_forms_of_one_volume(tmp_path, name, data, options):
    write_dicom(tmp_path / "dicom", tilted(0))
    write_nifti(tmp_path / "v" / name, data, **options)
    assert_twins(tmp_path, Folder(tmp_path / "v"), name)


def test_in_a_zip(tmp_path):
    write_dicom(tmp_path / "dicom", tilted(0))
    write_nifti(tmp_path / "v/DOE^JANE/a.nii.gz")
    source = open_zip(pack(tmp_path / "v", tmp_path / "v.zip"))
    assert_twins(tmp_path, source, "DOE^JANE/a.nii.gz")
    table, _ = read(source, ["DOE^JANE/a.nii.gz"])
    assert "DOE" not in table.drop(columns="path").to_csv()


def test_each_file_is_a_patient_and_a_study(tmp_path):
    write_nifti(tmp_path / "a.nii")
    write_nifti(tmp_path / "b.nii")
    table, _ = read(Folder(tmp_path), ["a.nii", "b.nii"])
    assert table.index.is_unique and len(table) == 2 * SLICES
    for column in ("patient_id", "study_id", "series_id"):
        assert table.groupby(column).size().tolist() == [SLICES, SLICES]
    assert table["slope"].isna().all() and table["bits_stored"].isna().all()
    rows = read_acquisition(Folder(tmp_path), table["path"].tolist())
    assert not rows["dicom"].any() and rows["modality"].eq("").all()


def test_values_that_are_no_numbers_are_air(tmp_path):
    data = HU.astype(np.float32)
    data[0, 0, 0] = np.nan
    write_nifti(tmp_path / "a.nii", data)
    [frame] = Folder(tmp_path).select(["a.nii#1"])
    hu = read_hu(frame)[0]
    assert hu[0, 0] == -1000 and hu[0, 1] == HU[1, 0, 0]


def test_millimetres_by_the_header(tmp_path):
    path = write_nifti(tmp_path / "a.nii")
    raw = bytearray(path.read_bytes())
    raw[280:328] = (np.frombuffer(bytes(raw[280:328]), "<f4") / 1000).tobytes()  # the sform, in m
    raw[123] = 1  # xyzt_units: meter
    path.write_bytes(raw)
    table, _ = read(Folder(tmp_path), ["a.nii"])
    np.testing.assert_allclose(table["gap_below_mm"][1:], SPACING[2], rtol=1e-5)


REFUSED = {
    "no form": (
        {"form": "none"},
        "NIfTI without sform and qform: nothing says which side is left; set one of them",
    ),
    "flat": (
        {"affine": np.diag([1.0, 1.0, 0.0, 1.0])},
        "NIfTI whose sform or qform spans no volume",
    ),
    "of time": ({"data": np.stack([HU, HU], -1)}, "NIfTI of shape 4x3x5x2, not one volume"),
    "colour": (
        {"data": np.zeros((2, 2, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])},
        "NIfTI of colours or complex numbers, not of HU",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(tmp_path, case):
    options, reason = REFUSED[case]
    write_nifti(tmp_path / "a.nii", **options)
    table, refused = read(Folder(tmp_path), ["a.nii"])
    assert table.empty and refused[["path", "reason"]].values.tolist() == [["a.nii", reason]]


@pytest.mark.parametrize("cut", [0, 3, 200, 400])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_file_that_is_cut_short(tmp_path, name, cut):
    path = write_nifti(tmp_path / name)
    raw = path.read_bytes()
    path.write_bytes(raw[: min(cut, len(raw) - 40)])
    table, refused = read(Folder(tmp_path), [name])
    assert table.empty and refused["reason"].str.contains("NIfTI").all() and len(refused) == 1


@pytest.mark.parametrize(
    ("sides", "reason"),
    [
        ((4096, 4096, 4096), "damaged or truncated NIfTI"),
        ((COLUMNS, ROWS, SLICES + 1), "damaged or truncated NIfTI"),
        ((4097, 1, 1), "NIfTI of shape 4097x1x1, not one volume"),
        ((-2, -2, -2), "NIfTI of shape -2x-2x-2, not one volume"),
    ],
)
def test_a_header_of_more_voxels_than_the_file_holds_takes_no_memory(
    tmp_path, monkeypatch, sides, reason
):
    path = write_nifti(tmp_path / "a.nii")
    raw = bytearray(path.read_bytes())
    raw[42:48] = np.array(sides, "<i2").tobytes()
    path.write_bytes(raw)
    monkeypatch.setattr(
        nibabel.arrayproxy.ArrayProxy, "get_unscaled", lambda self: pytest.fail("data were read")
    )
    table, refused = read(Folder(tmp_path), ["a.nii"])
    assert table.empty and refused["reason"].tolist() == [reason]


def test_nibabel_prints_nothing_about_a_damaged_header(tmp_path):
    path = write_nifti(tmp_path / "a.nii")
    raw = bytearray(path.read_bytes())
    raw[344:348] = b"none"  # the magic string
    path.write_bytes(raw)
    code = (
        "from ct.dicom.header_table import read_headers\n"
        f"_, refused = read_headers({str(tmp_path)!r}, ['a.nii'], b'key', workers=1)\n"
        "print(refused['reason'].tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("['damaged or truncated NIfTI']\n", "")


def test_without_nibabel_one_line_says_how_to_install_it(tmp_path):
    write_nifti(tmp_path / "a.nii")
    code = (
        "import sys; sys.modules['nibabel'] = None\n"
        "from ct.dicom.header_table import read_headers\n"
        "from ct.errors import InputError\n"
        f"try: read_headers({str(tmp_path)!r}, ['a.nii'], b'key', workers=1)\n"
        "except InputError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "the data hold NIfTI files, which need nibabel: pip install -e '.[nifti]'\n"
    )
