"""Parse the usual DICOM file quickly: only the elements that are read. Others are pydicom's."""

import io

from pydicom.filereader import data_element_generator

from ct.dicom.dataset_parser import HEADS, IMPLICIT, PIXEL_DATA, PIXELS, UNDEFINED, _refuse_others
from ct.dicom.tag_values import WANTED, NeedsPydicom, value_of
from ct.sources.file_reader import first_bytes
from ct.sources.folder import DiskFile
from ct.sources.zip_archive import ZipMember


def parse_header_fast(file: DiskFile | ZipMember) -> tuple[dict, str] | None:
    """Return (elements, transfer syntax) of the usual file's header: pydicom's raw elements of TAGS
    by their tags, as ints.

    They come from the generator that dcmread itself reads with; most of dcmread's time goes into
    objects that nobody asks for here. Returns None for files that are left to dcmread: without
    preamble, big endian, deflated, without pixels. Raises Unreadable for what is no DICOM file,
    MachineFault.
    """
    for count in HEADS:
        head, whole = first_bytes(file, count)
        _refuse_others(head)
        try:
            found = _walk_header(head)
        except NeedsPydicom:
            return None
        except MemoryError:
            raise
        except Exception:  # as in `_one_reason`: cut in the middle of an element, or damaged
            found = None
        if found or whole:
            return found[:2] if found else None
    return None


def parse_slice_fast(raw: bytes) -> tuple[dict, str, memoryview] | None:
    """Return (elements, transfer syntax, pixel data) of the usual file's bytes, the first two as
    `plain_elements` does.

    Returns None for files that are left to `parsed`. Pixel data that are cut short have fewer bytes
    than they should.
    """
    try:
        found = _walk_header(raw[: HEADS[1]])
    except MemoryError:
        raise
    except Exception:  # NotPlain, or as in `_one_reason`
        return None
    if found is None:
        return None
    elements, syntax, at = found
    implicit = IMPLICIT[syntax]
    begin = at + (8 if implicit else 12)
    length = int.from_bytes(raw[begin - 4 : begin], "little")
    if (
        raw[at : at + 4] != PIXEL_DATA
        or length == UNDEFINED
        or not (implicit or raw[at + 4 : at + 6] in (b"OW", b"OB"))
    ):
        return None
    return elements, syntax, memoryview(raw)[begin : begin + length]


def _walk_header(head):
    """Return (elements, transfer syntax, where the pixels begin) of a file that begins with `head`.

    Returns None where the pixels are not reached in it. Raises NotPlain, and whatever the parser
    raises.
    """
    if head[128:132] != b"DICM":
        raise NeedsPydicom
    reached = []
    stream = io.BytesIO(head)
    stream.seek(132)
    meta = data_element_generator(stream, False, True, lambda tag, vr, length: tag >> 16 != 2)
    elements = {number: element for element in meta if (number := int(element.tag)) in WANTED}
    syntax = value_of(elements, "TransferSyntaxUID")
    command_set = head[stream.tell() : stream.tell() + 2] == b"\0\0"  # encoded in its own way
    if syntax not in IMPLICIT or command_set:
        raise NeedsPydicom
    body = data_element_generator(
        stream,
        IMPLICIT[syntax],
        True,
        lambda tag, vr, length: tag in PIXELS and not reached.append(tag),
    )
    elements |= {number: element for element in body if (number := int(element.tag)) in WANTED}
    return (elements, syntax, stream.tell()) if reached else None
