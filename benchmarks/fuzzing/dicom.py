"""Damaged DICOM files: bits, lengths, VRs, values, elements, fragments, markers of streams.

The seeds are made slices in every transfer syntax for which an encoder is installed, and the files
of `dicom_zoo` where ICH_REAL_DATA has them. A case is one damaged file between two good neighbours.
It goes through what `ingest` and `score` do with a file: header, order in its series, acquisition,
pixels, measures, resampling.
"""

import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from pydicom import uid
from tiny_dicom import make_dataset

from benchmarks.fuzzing.dicom_mutations import mutated
from ct.dicom.acquisition import read_acquisition
from ct.dicom.dataset_parser import quiet_pydicom
from ct.dicom.header_table import read_headers
from ct.dicom.hounsfield import read_hu
from ct.pixel_cache.resampling import resample_to_square
from ct.pixel_cache.slice_measures import measure_slice
from ct.slices import ORIENTATION, POSITION, order_slices
from ct.sources.folder import Folder
from ct.sources.frames import file_of_frame
from ct.sources.source import Unreadable

SIDE, KEY = 64, b"key"


# seeds


def make_seeds(folder):
    """Return [(name, bytes)]."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    head = np.where(np.hypot(x, y) < 26, 40, -1000) + rng.normal(0, 9, (SIDE, SIDE))
    stored = np.rint(head).astype(np.int16)
    plain = {
        "native": (stored, {}),
        "twelve": ((stored % 4096), {"signed": False, "bits": 12, "RescaleIntercept": 0}),
    }
    seeds = []
    for name, (pixels, tags) in plain.items():
        dataset = make_dataset(pixels, **tags)
        seeds.append((name, saved(dataset)))
        for word, (implicit, little) in {"implicit": (True, True), "big": (False, False)}.items():
            seeds.append((f"{name} {word}", saved(make_dataset(pixels, **tags), implicit, little)))
        seeds.append((f"{name} deflated", deflated(saved(dataset))))
        seeds += [(f"{name} {word}", raw) for word, raw in compressed(pixels, tags)]
    seeds += [
        ("bytes", saved(eight_bits())),
        ("32 bits", saved(many_bits(4))),
        ("64 bits", saved(many_bits(8))),
    ]
    seeds.append(("nested", saved(nested())))
    zoo = Path(os.environ.get("ICH_REAL_DATA", "nowhere")) / "dicom_zoo"
    seeds += [(path.name, path.read_bytes()) for path in sorted(zoo.glob("*")) if path.is_file()]
    good = {
        f"good{place}.dcm": saved(
            make_dataset(stored, name=f"ID_00000000{place}", ImagePositionPatient=[0, 0, place])
        )
        for place in (1, 2)
    }
    for name, raw in good.items():
        (folder / name).write_bytes(raw)
    return seeds, folder


def saved(dataset, implicit=False, little=True):
    file = io.BytesIO()
    syntax = {
        (True, True): uid.ImplicitVRLittleEndian,
        (False, False): uid.ExplicitVRBigEndian,
    }.get((implicit, little))
    if syntax:
        dataset.file_meta.TransferSyntaxUID = syntax
        if not little:
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    with quiet_pydicom():
        dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def deflated(raw):
    body = raw.index(b"\x08\x00\x16\x00UI")  # the first element behind the meta information
    head = raw[:body].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    at = head.index(b"1.2.840.10008.1.2.1.99")
    head = head[: at - 2] + struct.pack("<H", 22) + head[at:]
    [length] = struct.unpack_from("<L", head, 140)
    packer = zlib.compressobj(wbits=-15)
    return (
        head[:140]
        + struct.pack("<L", length + 2)
        + head[144:]
        + packer.compress(raw[body:])
        + packer.flush()
    )


def compressed(pixels, tags):
    """Yield (name, bytes) in each compressed syntax that can be written here."""
    for name, syntax in {
        "RLE": uid.RLELossless,
        "JPEG-LS": uid.JPEGLSLossless,
        "near": uid.JPEGLSNearLossless,
        "J2K": uid.JPEG2000Lossless,
    }.items():
        dataset = make_dataset(pixels, **tags)
        with quiet_pydicom():
            dataset.compress(syntax)
        yield name, saved(dataset)
    if stream := jpeg_lossless(saved(make_dataset(pixels, **tags))):
        yield "JPEG", stream


def jpeg_lossless(raw):
    """Return a file as JPEG lossless, by gdcm; None where it cannot."""
    import gdcm

    with quiet_pydicom():
        source = Path(os.environ.get("TMPDIR", "/tmp")) / f"ich-fuzz-{os.getpid()}.dcm"
        source.write_bytes(raw)
        reader = gdcm.ImageReader()
        reader.SetFileName(str(source))
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        done = reader.Read() and (change.SetInput(reader.GetImage()) or True) and change.Change()
        writer = gdcm.ImageWriter()
        if done:
            writer.SetFile(reader.GetFile())
            writer.SetImage(change.GetOutput())
            writer.SetFileName(str(source))
            done = writer.Write()
        raw = source.read_bytes()
        source.unlink()
    return raw if done else None


def eight_bits():
    dataset = make_dataset(
        np.zeros((SIDE, SIDE)), BitsAllocated=8, BitsStored=8, HighBit=7, signed=False
    )
    dataset.PixelData = bytes(range(256)) * (SIDE * SIDE // 256)
    return dataset


def many_bits(size):
    tags = {"BitsAllocated": 8 * size, "BitsStored": 12, "HighBit": 11, "RescaleIntercept": 0}
    dataset = make_dataset(np.zeros((SIDE, SIDE)), signed=False, **tags)
    dataset.PixelData = np.random.default_rng(0).bytes(SIDE * SIDE * size)
    return dataset


def nested():
    from pydicom.dataset import Dataset

    dataset = make_dataset(np.zeros((SIDE, SIDE)))
    item = Dataset()
    item.ReferencedSOPInstanceUID = "1.2.3"
    with quiet_pydicom():
        dataset.ReferencedImageSequence = [item]
        item.is_undefined_length_sequence_item = True
        dataset["ReferencedImageSequence"].is_undefined_length = True
    return dataset


# cases


def mutate(rng, seeds, folder):
    """Write `folder`/case.dcm, damaged one to three times, and its good neighbours.

    Returns what was done.
    """
    files, good = seeds
    name, raw = files[rng.integers(len(files))]
    raw, done = mutated(rng, raw)
    (folder / "case.dcm").write_bytes(raw)
    for path in sorted(good.iterdir()):
        os.link(path, folder / path.name)
    return ", ".join([name, *done])


def attempt(folder):
    """Do what `ingest` and `score` do with the files; returns why case.dcm is refused, or ""."""
    source, names = Folder(folder), ["case.dcm", "good1.dcm", "good2.dcm"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # of numpy: an overflow that went unnoticed
        table, refused = read_headers(source, names, KEY, workers=1, patient_id_optional=True)
        slices = order_slices(table.assign(split="train"))
        check_tables(table, slices)
        acquisition = read_acquisition(source, slices["path"].tolist())
        if not {"good1.dcm", "good2.dcm"} <= {*table["path"], *refused["path"]} or len(
            acquisition
        ) != len(table):
            raise AssertionError("a good file was lost")
        refused_case = refused[refused["path"].map(file_of_frame) == "case.dcm"]
        of_case = table[table["path"].map(file_of_frame) == "case.dcm"]
        if of_case.empty and refused_case.empty:
            raise AssertionError("the file is neither read nor refused")
        why = refused_case["reason"].iloc[-1] if len(refused_case) else ""
        for path, spacing in zip(of_case["path"], of_case["pixel_spacing_mm"], strict=True):
            why = measure(source, path, float(spacing)) or why
    return why


def measure(source, path, spacing):
    """Read and measure one slice as the pixel cache does; returns why it is refused, or ""."""
    try:
        [file] = source.select([path])
        hu, _ = read_hu(file)
    except Unreadable as error:
        return str(error)
    if (
        hu.dtype != np.int16
        or hu.ndim != 2
        or max(hu.shape) > 4096
        or not np.isfinite(measure_slice(hu, spacing)[1])
    ):
        raise AssertionError(f"no slice: {hu.dtype} {hu.shape}")
    resample_to_square(hu, 48)
    return ""


def check_tables(table, slices):
    """Raise AssertionError where a number in the tables cannot be used."""
    places = table[[*POSITION, *ORIENTATION]].to_numpy(np.float64)
    if not (
        np.isfinite(places).all()
        and np.isfinite(slices[["position_mm", "tilt_deg"]].to_numpy()).all()
    ):
        raise AssertionError("a position or direction is not finite")
    if np.isinf(slices.select_dtypes("number").to_numpy(np.float64)).any():
        raise AssertionError("a number is infinite")
