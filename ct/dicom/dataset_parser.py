"""The elements of one DICOM file's data set: pydicom parses, and reads whatever is not plain. All
that is read is bounded.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from isal import isal_zlib
from pydicom import uid
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import data_element_generator, read_dataset, read_partial
from pydicom.tag import Tag

from ct.sources.file_reader import all_bytes, first_bytes
from ct.sources.folder import DiskFile
from ct.sources.source import Unreadable
from ct.sources.zip_archive import ZipMember

# that a data set without a preamble may begin with
FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")
HEADS = (4096, 65536)  # bytes in which a plain header is looked for; RSNA's have 700
LONGEST_HEADER = 4 << 20  # bytes before the pixels
MOST_INFLATED = 160 << 20  # bytes of a deflated data set (PS3.5 section A.5), as of a file
COPIED = 65536  # bytes of a value; larger ones, which are pixels, are views of the file's
MOST_READS = 400_000  # of pieces of a header: an element takes one or two
IMPLICIT = {  # the usual transfer syntaxes: whether their VRs are implicit
    str(syntax): syntax.is_implicit_VR
    for syntax in uid.AllTransferSyntaxes
    if syntax.is_little_endian and not syntax.is_deflated
}
DEFLATED = str(uid.DeflatedExplicitVRLittleEndian)
PIXEL_DATA = b"\xe0\x7f\x10\x00"  # the tag, as it lies in a file
UNDEFINED = 0xFFFFFFFF  # length of what ends with a delimiter
PIXELS = {int(Tag(keyword)) for keyword in ("FloatPixelData", "DoubleFloatPixelData", "PixelData")}


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Let pydicom read without checking values (three times as fast) and without warnings, which
    quote paths and values.
    """
    with disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def open_dataset(file: str | Path | DiskFile | ZipMember, pixels: bool = True) -> Dataset:
    """Read a DICOM file, with or without its preamble (PS3.10 section 7.1), as a pydicom data set.

    Its file meta information always names a transfer syntax. Call it inside `quiet()`. Raises
    Unreadable, MachineFault.
    """
    file = as_file(file)
    raw, whole = (all_bytes(file), True) if pixels else first_bytes(file, LONGEST_HEADER)
    if not whole and _may_be_deflated(raw):
        raw, whole = all_bytes(file), True
    return parse_dataset(raw, pixels, whole)


def parse_dataset(raw: bytes, pixels: bool = True, whole: bool = True) -> Dataset:
    """Parse a DICOM file's bytes, or where not `whole` its first, as `open_dataset` does. Raises
    Unreadable.
    """
    _refuse_others(raw[:132])
    with _one_reason():
        dataset = _inflated_dataset(raw, pixels) if _may_be_deflated(raw) else None
        if dataset is None:
            dataset = _dataset(raw, pixels, whole)
        if not dataset.file_meta.get("TransferSyntaxUID"):
            dataset.file_meta.TransferSyntaxUID = _guess_syntax(dataset)
        syntax = dataset.file_meta.TransferSyntaxUID
    if not isinstance(syntax, str):
        raise Unreadable("TransferSyntaxUID is malformed")
    return dataset


@contextmanager
def _one_reason():
    """Turn whatever goes wrong while a file's bytes are parsed into Unreadable."""
    try:
        yield
    except (Unreadable, MemoryError):
        raise
    except Exception:  # a damaged file makes the parser raise nearly anything: struct.error, RecursionError, OSError, ...
        raise Unreadable("damaged or truncated header") from None


def _refuse_others(head):
    """Raise Unreadable where these first bytes, at least 132 of them, are no DICOM file's."""
    if not head:
        raise Unreadable("empty file")
    if head[128:132] != b"DICM" and head[:2] not in FIRST_GROUPS:
        raise Unreadable("not a DICOM file")


def as_file(file):
    """Return a file of a source, where it is given as a path, too."""
    return DiskFile(str(file)) if isinstance(file, str | Path) else file


class _Pieces(io.BytesIO):
    """Bytes that are handed out in so many pieces at most: millions of tiny elements would take
    minutes and gigabytes.

    And never all at once: pydicom asks for that to inflate a data set, which `_inflated_dataset`
    does within bounds.
    """

    def __init__(self, raw):
        super().__init__(raw)
        self.view, self.reads = memoryview(raw), 0

    def read(self, size=-1):
        self.reads += 1
        if size is None or size < 0:
            raise Unreadable(f"deflated, behind meta information of more than {HEADS[1] >> 10} KB")
        if self.reads > MOST_READS:
            raise Unreadable(f"a header of more than {MOST_READS // 2:,} elements")
        if size > COPIED:
            piece = self.view[self.tell() :][:size]
            self.seek(len(piece), io.SEEK_CUR)
            return piece
        return super().read(size)


class _Stop:
    """Tells pydicom to stop at the pixels, and keeps whether they were reached."""

    def __init__(self, pixels):
        self.pixels, self.reached = pixels, False

    def __call__(self, tag, vr, length):
        if tag not in PIXELS:
            return False
        self.reached = True
        return not self.pixels


def _dataset(raw, pixels, whole):
    """Parse a data set that is not deflated."""
    stop = _Stop(pixels)
    dataset = read_partial(_Pieces(raw), stop_when=stop, force=True)
    if not (stop.reached or whole):
        raise Unreadable(f"a header of more than {LONGEST_HEADER >> 20} MB")
    return dataset


def _inflated_dataset(raw, pixels):
    """Parse a deflated data set, which pydicom would inflate without end; None where it is no such
    one.
    """
    stream = io.BytesIO(raw)
    stream.seek(132 if raw[128:132] == b"DICM" else 0)
    elements = list(
        data_element_generator(stream, False, True, lambda tag, vr, length: tag >> 16 != 2)
    )
    syntaxes = [element.value for element in elements if element.tag == Tag("TransferSyntaxUID")]
    if not syntaxes or DEFLATED.encode() not in (syntaxes[-1] or b""):
        return None
    body = isal_zlib.decompressobj(wbits=-15).decompress(raw[stream.tell() :], MOST_INFLATED + 1)
    if len(body) > MOST_INFLATED:
        raise Unreadable(f"a deflated data set of more than {MOST_INFLATED >> 20} MB")
    dataset = read_dataset(_Pieces(body), False, True, stop_when=_Stop(pixels))
    dataset.file_meta = FileMetaDataset({element.tag: element for element in elements})
    return dataset


def _may_be_deflated(raw):
    return DEFLATED.encode() in raw[: HEADS[1]]


def _guess_syntax(dataset):
    """Return the transfer syntax that a data set without file meta information was read as."""
    implicit, little = dataset.original_encoding
    if implicit:
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
