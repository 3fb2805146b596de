"""Enhanced CT: each frame of a file is a slice, the same as the classic file of that frame."""

import copy

import numpy as np
import pandas as pd
import pytest
from enhanced_ct import enhanced, item
from pydicom.encaps import generate_frames
from pydicom.uid import ExplicitVRLittleEndian, RLELossless
from tiny_dicom import ZOO, make_dataset, needs_zoo
from tiny_zip import pack

from ct.dicom import enhanced_ct
from ct.dicom.acquisition import read_acquisition
from ct.dicom.dataset_parser import quiet_pydicom
from ct.dicom.header_table import is_header_chunk, read_header_chunk, read_headers
from ct.dicom.hounsfield import read_hu
from ct.privacy.defined_terms import known_transfer_syntax
from ct.slices import order_slices
from ct.sources.folder import Folder
from ct.sources.source import Unreadable
from ct.sources.zip_archive import open_zip
from ct.storage.file_formats import write_table

KEY = b"key"
FRAMES = 4
PIXELS = np.arange(12).reshape(3, 4)
PIXEL_TAGS = ["slope", "intercept", "bits_stored", "pixel_representation", "transfer_syntax"]
PLACE = ["position_mm", "place", "gap_below_mm", "tilt_deg", "mixed_orientation"]
TWIN_COLUMNS = ["rows", "cols", "pixel_spacing_mm", "window_center", *PIXEL_TAGS, *PLACE]


def classic_slices(**tags):
    """Slices out of order along z, each with pixels and an intercept of its own."""
    slices = []
    for place, z in enumerate([10, 0, 30, 20]):
        values = {
            "name": f"1.2.3.{place + 1}",
            "ImagePositionPatient": [-100.5, -90.25, z],
            "ImageOrientationPatient": [-1, 0, 0, 0, -1, 0],
            "RescaleIntercept": -1000 - place,
            "WindowCenter": None,
            "WindowWidth": None,
        }
        slices.append(make_dataset(PIXELS + 100 * place, **values | tags))
    return slices


def save(path, *datasets):
    path.mkdir(exist_ok=True)
    with quiet_pydicom():
        for number, dataset in enumerate(datasets):
            dataset.save_as(path / f"IM{number}", enforce_file_format=True)
    return Folder(path)


def read(source, names=("IM0",)):
    table, refused = read_headers(source, names, KEY, workers=1)
    return order_slices(table.assign(split="test")), refused


def test_frames_are_the_slices_of_the_classic_files(tmp_path):
    slices = classic_slices()
    classic, _ = read(save(tmp_path / "classic", *slices), [f"IM{i}" for i in range(FRAMES)])
    source = save(tmp_path / "enhanced", enhanced(slices))
    frames, refused = read(source)
    assert refused.empty and classic["path"].tolist() == ["IM1", "IM0", "IM3", "IM2"]
    assert frames["path"].tolist() == ["IM0#2", "IM0#1", "IM0#4", "IM0#3"]
    pd.testing.assert_frame_equal(
        frames[TWIN_COLUMNS].reset_index(drop=True), classic[TWIN_COLUMNS].reset_index(drop=True)
    )
    assert frames.index.is_unique and frames["series_id"].nunique() == 1
    files = source.select(frames["path"].tolist())
    for frame, name in zip(files, classic["path"], strict=True):
        np.testing.assert_array_equal(read_hu(frame)[0], read_hu(tmp_path / "classic" / name)[0])


def test_a_frame_has_the_hu_of_its_own_pixels_and_rescale(tmp_path):
    [frame] = save(tmp_path, enhanced(classic_slices())).select(["IM0#3"])
    hu, repaired = read_hu(frame)
    assert hu.tolist() == (PIXELS + 200 - 1002)[::-1, ::-1].tolist() and not repaired


def test_one_frame_in_a_file(tmp_path):
    source = save(tmp_path, *[enhanced([one]) for one in classic_slices()])
    table, refused = read_headers(source, ["IM0", "IM1"], KEY, workers=1)
    assert refused["reason"].tolist() == ["same SOPInstanceUID as IM0#1"]  # of this test's making
    assert table["path"].tolist() == ["IM0#1"]


def test_in_a_zip_and_in_chunks(tmp_path):
    save(tmp_path / "in", enhanced(classic_slices()), *classic_slices())
    names = [f"IM{i}" for i in range(FRAMES + 1)]
    archive = open_zip(pack(tmp_path / "in", tmp_path / "a.zip"))
    by_folder, by_zip = (
        read_header_chunk(source.select(names), names, KEY)
        for source in (Folder(tmp_path / "in"), archive)
    )
    pd.testing.assert_frame_equal(by_folder.table, by_zip.table)
    assert by_folder.table["path"].tolist() == [f"IM0#{i}" for i in range(1, 5)] + names[1:]
    write_table(tmp_path / "chunk.parquet", by_zip.table)
    assert is_header_chunk(tmp_path / "chunk.parquet", names)
    assert not is_header_chunk(tmp_path / "chunk.parquet", names[1:])
    folder = Folder(tmp_path / "in").select(["IM0#4", "IM2"])
    for packed, plain in zip(archive.select(["IM0#4", "IM2"]), folder, strict=True):
        np.testing.assert_array_equal(read_hu(packed)[0], read_hu(plain)[0])


def test_compressed_frames(tmp_path):
    slices, streams = classic_slices(), []
    for one in slices:
        packed = copy.deepcopy(one)
        packed.compress(RLELossless)
        streams += list(generate_frames(packed.PixelData, number_of_frames=1))
    dataset = enhanced(slices, streams)
    dataset.file_meta.TransferSyntaxUID = RLELossless
    source = save(tmp_path, dataset)
    for place, frame in enumerate(source.select([f"IM0#{i}" for i in range(1, 5)])):
        expected = (PIXELS + 100 * place - 1000 - place)[::-1, ::-1]
        np.testing.assert_array_equal(read_hu(frame)[0], expected)


@pytest.mark.parametrize("syntax", ["1.3.46.670589.33", "1.2.840.10008.1.1", "1.2.x"])
def test_an_unknown_transfer_syntax_costs_the_frames_as_it_costs_a_classic_slice(tmp_path, syntax):
    slices = classic_slices()
    source = save(tmp_path, enhanced(slices), slices[0])
    for path in tmp_path.iterdir():  # pydicom writes known ones alone
        raw, known = path.read_bytes(), ExplicitVRLittleEndian.encode() + b"\0"
        assert raw.count(known) == 1
        path.write_bytes(raw.replace(known, syntax.encode().ljust(len(known), b"\0")))
    table, refused = read(source)
    assert len(table) == FRAMES and refused.empty
    reasons = []
    for file in source.select(["IM0#1", "IM1"]):
        with pytest.raises(Unreadable) as caught:
            read_hu(file)
        reasons.append(str(caught.value))
    assert reasons == [f"no decoder for the transfer syntax {known_transfer_syntax(syntax)}"] * 2


def test_each_file_is_parsed_once(tmp_path, monkeypatch):
    source, parsed = save(tmp_path, enhanced(classic_slices())), []
    parse = enhanced_ct.parse_dataset
    monkeypatch.setattr(
        enhanced_ct, "parse_dataset", lambda *args: parsed.append(1) or parse(*args)
    )
    for frame in source.select([f"IM0#{i}" for i in (1, 2, 3, 4)]):
        read_hu(frame)
    assert len(parsed) == 1


def test_acquisition_of_a_frame(tmp_path):
    frame_type = {
        "CTImageFrameTypeSequence": [item(FrameType=["ORIGINAL", "PRIMARY", "LOCALIZER"])]
    }
    absent = {"ContrastBolusUsageSequence": [item(ContrastBolusAgentAdministered="NO")]}
    per_frame = [frame_type, {}, absent, {}]
    agents = {"ContrastBolusAgentSequence": [item(CodeMeaning="Iohexol")], "Modality": "CT"}
    dataset = enhanced(classic_slices(), per_frame=per_frame, PatientPosition="HFP", **agents)
    rows = read_acquisition(save(tmp_path, dataset), [f"IM0#{i}" for i in range(1, 5)])
    assert rows["modality"].eq("CT").all() and rows["position"].eq("HFP").all()
    assert rows["image_type"].tolist() == ["ORIGINAL\\PRIMARY\\LOCALIZER", "", "", ""]
    assert rows["contrast"].tolist() == [True, True, False, True]
    assert rows["thickness_mm"].eq(5).all() and rows["stored"].eq("turned by 180 degrees").all()
    assert rows["sop_uid"].nunique() == 1


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        (
            lambda d: d.__setattr__("NumberOfFrames", 5),
            ["enhanced CT of 5 frames with 4 functional groups"],
        ),
        (
            lambda d: d.__delattr__("PerFrameFunctionalGroupsSequence"),
            ["enhanced CT without functional groups of its frames"],
        ),
        (  # one frame alone is refused
            lambda d: d.PerFrameFunctionalGroupsSequence[2].__delattr__("PlanePositionSequence"),
            ["ImagePositionPatient is missing or empty"],
        ),
    ],
)
def test_damaged_functional_groups(tmp_path, change, reasons):
    dataset = enhanced(classic_slices())
    change(dataset)
    table, refused = read_headers(save(tmp_path, dataset), ["IM0"], KEY, workers=1)
    assert refused["reason"].tolist() == reasons
    whole_file = refused["path"].tolist() == ["IM0"]
    assert len(table) == (0 if whole_file else 3)
    assert whole_file or refused["path"].tolist() == ["IM0#3"]


def test_pixels_that_are_cut_short_cost_the_frames_that_lack_them(tmp_path):
    dataset = enhanced(classic_slices())
    dataset.PixelData = dataset.PixelData[: 2 * PIXELS.size * 2 + 4]
    *whole, third, last = save(tmp_path, dataset).select([f"IM0#{i}" for i in (1, 2, 3, 4)])
    assert [read_hu(frame)[0].shape for frame in whole] == [PIXELS.shape] * 2
    for frame, left in ((third, 4), (last, 0)):
        with pytest.raises(Unreadable, match=f"^truncated pixel data: {left} of 24 bytes$"):
            read_hu(frame)


@needs_zoo
def test_a_real_file_of_enhanced_ct():
    table, refused = read_headers(ZOO, ["eCT_Supplemental.dcm"], KEY, workers=1)
    assert table["path"].tolist() == [f"eCT_Supplemental.dcm#{i}" for i in (1, 2)]
    assert refused.empty and table["ipp_z"].nunique() == 2
    first, second = (read_hu(f)[0] for f in Folder(ZOO).select(table["path"].tolist()))
    assert first.shape == second.shape == (512, 512) and (first != second).any()
