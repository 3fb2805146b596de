"""Enhanced CT: a file of many frames, each a slice (PS3.3 section A.38).

What a classic CT file has at its top stands in functional groups: one that all frames share, and
one for each frame (PS3.3 section C.7.6.16). Frames are numbered from 1.
"""

from collections.abc import Hashable
from functools import lru_cache

from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame

from ct.dicom.dataset_parser import open_dataset, parse_dataset, parsing_errors
from ct.dicom.pixel_attributes import MAX_SIDE
from ct.dicom.storage_classes import ENHANCED_CT, sop_class
from ct.dicom.tag_values import optional_number, pixel_data, required_positive_int, tag_value
from ct.privacy.defined_terms import known_transfer_syntax
from ct.sources.file_reader import MAX_VOLUME_BYTES, all_bytes
from ct.sources.frames import Frame
from ct.sources.source import SourceFile, Unreadable

SHARED, PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
MACROS = {  # a functional group's sequence -> the attributes in it that are read
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "RescaleType"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth"),
    "CTReconstructionSequence": ("ConvolutionKernel",),
    "CTImageFrameTypeSequence": ("FrameType",),
    "ContrastBolusUsageSequence": ("ContrastBolusAgentAdministered",),
}
EnhancedFile = tuple[Dataset, bytes | memoryview, str]  # header, pixel data and their VR
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
MAX_FRAMES = 20_000


def is_enhanced_ct(dataset: Dataset) -> bool:
    """Return whether a file is of enhanced CT, of one frame or many."""
    return sop_class(dataset) in ENHANCED_CT


def frame_count(dataset: Dataset) -> int:
    """Return the number of frames of a file of enhanced CT.

    Raises Unreadable where the functional groups are missing, or of another number of frames.
    """
    frames = optional_number(dataset, "NumberOfFrames")
    with parsing_errors():
        groups = len(dataset.get(PER_FRAME) or ())
    if not groups:
        raise Unreadable("enhanced CT without functional groups of its frames")
    if groups != frames or frames > MAX_FRAMES:
        raise Unreadable(f"enhanced CT of {frames:.0f} frames with {groups} functional groups")
    return groups


def open_slice_header(file: SourceFile) -> Dataset:
    """Return the header of one slice: of a classic CT file, or of a Frame of enhanced CT.

    Call it inside `quiet_pydicom`. Raises Unreadable, MachineFault.
    """
    if isinstance(file, Frame):
        return frame_header(_shared_header(file.file, file.version()), file.number)
    return open_dataset(file, pixels=False)


def open_frame(frame: Frame) -> EnhancedFile:
    """Return (header, pixel data, their VR) of one frame, as a file of that frame alone has them.

    Call it inside `quiet_pydicom`. Raises Unreadable, MachineFault.
    """
    dataset, pixels, vr = _shared_pixels(frame.file, frame.version())
    header, frames = frame_header(dataset, frame.number), frame_count(dataset)
    compressed = _is_compressed(dataset.file_meta.TransferSyntaxUID)
    size = required_positive_int(header, "BitsAllocated", 64) // 8
    for keyword in ("Rows", "Columns"):
        size *= required_positive_int(header, keyword, MAX_SIDE)
    return header, frame_pixels(pixels, frame.number, frames, size, compressed), vr


def _is_compressed(syntax: str) -> bool:
    """Return whether each frame is compressed. Raises Unreadable for an unknown transfer syntax."""
    known = uid.UID(syntax)
    if not known.is_transfer_syntax:  # pydicom then raises ValueError
        raise Unreadable(f"no decoder for the transfer syntax {known_transfer_syntax(syntax)}")
    return known.is_compressed and not known.is_deflated


@lru_cache(maxsize=1)  # the frames of a file follow one another
def _shared_header(file: SourceFile, version: Hashable) -> Dataset:
    """Return the header of a file of enhanced CT. version: as returned by `file.version`"""
    return open_dataset(file, pixels=False)


@lru_cache(maxsize=1)
def _shared_pixels(file: SourceFile, version: Hashable) -> EnhancedFile:
    """Return (header, pixel data of all frames, their VR) of a file of enhanced CT."""
    dataset = parse_dataset(all_bytes(file, MAX_VOLUME_BYTES))
    pixels, vr = pixel_data(dataset)
    del dataset["PixelData"]
    return dataset, pixels, vr


def frame_header(dataset: Dataset, number: int) -> Dataset:
    """Return the header of one frame as a classic CT file has it. Raises Unreadable.

    number: of the frame, from 1
    """
    flat = Dataset()
    implicit, little = dataset.original_encoding
    flat.set_original_encoding(implicit, little, dataset.original_character_set)
    flat.file_meta = dataset.file_meta
    with parsing_errors():
        for tag in dataset.keys():  # noqa: SIM118  # iterating would convert every element
            flat[tag] = dataset.get_item(tag)
        for keyword in (SHARED, PER_FRAME, *PIXELS):
            if keyword in flat:
                del flat[keyword]
        groups = dataset[PER_FRAME].value
        if number > len(groups):
            raise Unreadable(f"enhanced CT without a frame {number}")
        shared = dataset.get(SHARED) or ()
        for group in [*shared[:1], groups[number - 1]]:
            _take_macros(flat, group)
    flat.add_new("NumberOfFrames", "IS", 1)  # a new element: `flat` shares those of `dataset`
    _take_contrast(flat)
    return flat


def _take_macros(flat: Dataset, group: Dataset) -> None:
    """Copy the attributes of one functional group to the top of `flat`."""
    for sequence, keywords in MACROS.items():
        for item in (group.get(sequence) or ())[:1]:
            for keyword in keywords:
                if keyword in item:
                    flat[keyword] = item[keyword]
    if "FrameType" in flat:
        flat.add_new("ImageType", "CS", flat["FrameType"].value)


def _take_contrast(flat: Dataset) -> None:
    """Set ContrastBolusAgent where an agent is listed, unless this frame was taken without it.

    PS3.3 section C.7.6.4b lists the agents, C.7.6.16.2.12 says which frame was taken with them.
    """
    agents = flat.get("ContrastBolusAgentSequence")
    if agents and tag_value(flat, "ContrastBolusAgentAdministered") != "NO":
        flat.add_new("ContrastBolusAgent", "LO", "AGENT")


def frame_pixels(
    pixels: bytes | memoryview, number: int, frames: int, frame_bytes: int, compressed: bool
) -> bytes | memoryview:
    """Return the pixel data of one frame, as a file of that frame alone stores them.

    pixels: of all frames; number: from 1; frame_bytes: of an uncompressed frame

    Raises Unreadable where a compressed frame is missing; an uncompressed one may be cut short.
    """
    if not compressed:
        begin = (number - 1) * frame_bytes
        return memoryview(pixels)[begin : begin + frame_bytes]
    with parsing_errors():
        return encapsulate([get_frame(bytes(pixels), number - 1, number_of_frames=frames)])
