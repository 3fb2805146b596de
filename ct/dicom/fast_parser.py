"""Parse the usual DICOM file fast, and only HEADER_TAGS of it. Other files are left to pydicom.

The elements come from pydicom's own generator. Most of the time of `pydicom.dcmread` goes into
objects that are not needed here.
"""

import io

from pydicom import uid
from pydicom.filereader import data_element_generator

from ct.dicom.dataset_parser import MAX_META_BYTES, PIXEL_TAGS, require_dicom
from ct.dicom.tag_values import HEADER_TAGS, NeedsPydicom, RawElements, tag_value
from ct.sources.file_reader import first_bytes
from ct.sources.source import SourceFile

FIRST_READS = (4096, 65536)  # bytes in which the header is expected; RSNA's has 700
IMPLICIT_VR = {  # the usual transfer syntaxes: whether their VRs are implicit
    str(syntax): syntax.is_implicit_VR
    for syntax in uid.AllTransferSyntaxes
    if syntax.is_little_endian and not syntax.is_deflated
}
PIXEL_DATA_TAG = b"\xe0\x7f\x10\x00"  # (7FE0,0010), little endian
UNDEFINED_LENGTH = 0xFFFFFFFF  # of an element that ends with a delimiter


def parse_header_fast(file: SourceFile) -> tuple[RawElements, str] | None:
    """Return (raw elements, transfer syntax) of the usual file's header.

    Returns None for files that are left to pydicom: without preamble, big endian, deflated, without
    pixels. Raises Unreadable for what is no DICOM file, MachineFault.
    """
    for count in FIRST_READS:
        head, whole = first_bytes(file, count)
        require_dicom(head)
        try:
            header = _walk_header(head)
        except NeedsPydicom:
            return None
        except MemoryError:
            raise
        except Exception:  # cut in the middle of an element, or damaged
            header = None
        if header is not None:
            elements, syntax, _ = header
            return elements, syntax
        if whole:
            return None
    return None


def parse_slice_fast(raw: bytes) -> tuple[RawElements, str, memoryview] | None:
    """Return (raw elements, transfer syntax, pixel data) of the usual file's bytes.

    Pixel data that are cut short have fewer bytes than they should. Returns None for files that are
    left to `dataset_parser.parse_dataset`.
    """
    try:
        header = _walk_header(raw[:MAX_META_BYTES])
    except MemoryError:
        raise
    except Exception:  # NeedsPydicom, cut or damaged
        return None
    if header is None:
        return None
    elements, syntax, pixels_at = header
    implicit = IMPLICIT_VR[syntax]
    begin = pixels_at + (8 if implicit else 12)
    length = int.from_bytes(raw[begin - 4 : begin], "little")
    usual_vr = implicit or raw[pixels_at + 4 : pixels_at + 6] in (b"OW", b"OB")
    usual_tag = raw[pixels_at : pixels_at + 4] == PIXEL_DATA_TAG
    if not (usual_tag and usual_vr) or length == UNDEFINED_LENGTH:
        return None
    return elements, syntax, memoryview(raw)[begin : begin + length]


def _walk_header(head: bytes) -> tuple[RawElements, str, int] | None:
    """Return (elements, transfer syntax, where the pixel data element begins) of a file's bytes.

    Returns None where `head` ends before the pixels. Raises NeedsPydicom, and any error of the
    parser.
    """
    if head[128:132] != b"DICM":
        raise NeedsPydicom
    reached_pixels = False

    def at_pixels(tag: int, vr: str | None, length: int) -> bool:
        nonlocal reached_pixels
        reached_pixels = tag in PIXEL_TAGS
        return reached_pixels

    stream = io.BytesIO(head)
    stream.seek(132)
    elements: RawElements = {}
    for element in data_element_generator(
        stream, False, True, lambda tag, vr, length: tag >> 16 != 2
    ):
        if (tag := int(element.tag)) in HEADER_TAGS:
            elements[tag] = element
    syntax = tag_value(elements, "TransferSyntaxUID")
    # a command set, group 0000, has an encoding of its own
    command_set = head[stream.tell() : stream.tell() + 2] == b"\0\0"
    if syntax not in IMPLICIT_VR or command_set:
        raise NeedsPydicom
    for element in data_element_generator(stream, IMPLICIT_VR[syntax], True, at_pixels):
        if (tag := int(element.tag)) in HEADER_TAGS:
            elements[tag] = element
    return (elements, syntax, stream.tell()) if reached_pixels else None
