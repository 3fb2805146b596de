"""Parse any DICOM file with pydicom, limited in size and number of elements.

ct/dicom/fast_parser.py parses the usual file faster.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from isal import isal_zlib
from pydicom import uid
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filereader import data_element_generator, read_dataset, read_partial
from pydicom.tag import Tag

from ct.sources.file_kinds import HEAD_BYTES, ZIP, has_dicom_mark, packed_kind
from ct.sources.file_reader import all_bytes, first_bytes
from ct.sources.folder import DiskFile
from ct.sources.source import SourceFile, Unreadable

# the group numbers with which a file without preamble may begin
FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")
MAX_META_BYTES = 65536  # of the file meta information, which holds the transfer syntax
MAX_HEADER_BYTES = 4 << 20  # before the pixels
MAX_INFLATED_BYTES = 160 << 20  # of a deflated data set (PS3.5 section A.5)
MAX_COPIED_BYTES = 65536  # of a value; larger ones, which are pixels, are views of the file
MAX_READS = 400_000  # of a header, in pieces: an element takes one or two reads
DEFLATED = str(uid.DeflatedExplicitVRLittleEndian)
PIXEL_TAGS = {
    int(Tag(keyword)) for keyword in ("FloatPixelData", "DoubleFloatPixelData", "PixelData")
}


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Let pydicom read without validation, three times as fast, and without warnings.

    The warnings quote paths and values, which must not be printed.
    """
    with disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def open_dataset(file: str | Path | SourceFile, pixels: bool = True) -> Dataset:
    """Read a DICOM file, with or without its preamble (PS3.10 section 7.1), as a pydicom data set.

    pixels: whether the pixel data are read, too

    Its file meta information always names a transfer syntax. Call it inside `quiet_pydicom`. Raises
    Unreadable, MachineFault.
    """
    file = as_source_file(file)
    raw, whole = (all_bytes(file), True) if pixels else first_bytes(file, MAX_HEADER_BYTES)
    if not whole and _may_be_deflated(raw):
        raw, whole = all_bytes(file), True
    return parse_dataset(raw, pixels, whole)


def parse_dataset(raw: bytes, pixels: bool = True, whole: bool = True) -> Dataset:
    """Parse the bytes of a DICOM file, as `open_dataset` does. Raises Unreadable.

    whole: False where `raw` is only the beginning of the file
    """
    require_dicom(raw[:HEAD_BYTES])
    with parsing_errors():
        dataset = _inflated_dataset(raw, pixels) if _may_be_deflated(raw) else None
        if dataset is None:
            dataset = _plain_dataset(raw, pixels, whole)
        if not dataset.file_meta.get("TransferSyntaxUID"):
            dataset.file_meta.TransferSyntaxUID = _syntax_as_read(dataset)
        syntax = dataset.file_meta.TransferSyntaxUID
    if not isinstance(syntax, str):
        raise Unreadable("TransferSyntaxUID is malformed")
    return dataset


@contextmanager
def parsing_errors() -> Iterator[None]:
    """Turn any error of the parser into Unreadable.

    A damaged file makes it raise nearly anything: struct.error, RecursionError, OSError, ...
    """
    try:
        yield
    except (Unreadable, MemoryError):
        raise
    except Exception:
        raise Unreadable("damaged or truncated header") from None


def require_dicom(head: bytes) -> None:
    """Raise Unreadable where a file's first bytes are not those of a DICOM file.

    head: HEAD_BYTES of it at least, or all
    """
    if not head:
        raise Unreadable("empty file")
    if has_dicom_mark(head) or head[:2] in FIRST_GROUPS:
        return
    kind = packed_kind(head)
    if not kind:
        raise Unreadable("not a DICOM file")
    also = ", or give it as --data" if kind == ZIP else ""
    raise Unreadable(f"not a DICOM file but {kind}: if it holds DICOM files, unpack it{also}")


def as_source_file(file: str | Path | SourceFile) -> SourceFile:
    """Return a path as a SourceFile; a SourceFile stays."""
    return DiskFile(str(file)) if isinstance(file, str | Path) else file


class _BoundedStream(io.BytesIO):
    """Bytes that pydicom may read in MAX_READS pieces at most, and never all at once.

    Millions of tiny elements would take minutes and gigabytes. pydicom reads all at once where it
    inflates a data set; `_inflated_dataset` does that with a limit.
    """

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw)
        self.view, self.reads = memoryview(raw), 0

    def read(self, size: int | None = -1, /) -> Any:  # bytes, or a view of them
        self.reads += 1
        if size is None or size < 0:
            raise Unreadable(
                f"deflated, behind meta information of more than {MAX_META_BYTES >> 10} KB"
            )
        if self.reads > MAX_READS:
            raise Unreadable(f"a header of more than {MAX_READS // 2:,} elements")
        if size > MAX_COPIED_BYTES:
            piece = self.view[self.tell() :][:size]
            self.seek(len(piece), io.SEEK_CUR)
            return piece
        return super().read(size)


class _StopAtPixels:
    """Callback of pydicom that ends the parsing at the pixel data.

    pixels: parse the pixel data, too; reached: whether the parser has reached pixel data
    """

    def __init__(self, pixels: bool) -> None:
        self.pixels, self.reached = pixels, False

    def __call__(self, tag: int, vr: str | None, length: int) -> bool:
        if tag not in PIXEL_TAGS:
            return False
        self.reached = True
        return not self.pixels


def _plain_dataset(raw: bytes, pixels: bool, whole: bool) -> FileDataset:
    """Parse a data set that is not deflated."""
    stop = _StopAtPixels(pixels)
    dataset = read_partial(_BoundedStream(raw), stop_when=stop, force=True)
    if not (stop.reached or whole):
        raise Unreadable(f"a header of more than {MAX_HEADER_BYTES >> 20} MB")
    return dataset


def _inflated_dataset(raw: bytes, pixels: bool) -> Dataset | None:
    """Parse a deflated data set, which pydicom would inflate without limit; None for any other."""
    stream = io.BytesIO(raw)
    stream.seek(132 if has_dicom_mark(raw) else 0)
    elements = list(
        data_element_generator(stream, False, True, lambda tag, vr, length: tag >> 16 != 2)
    )
    syntaxes = [element.value for element in elements if element.tag == Tag("TransferSyntaxUID")]
    if not syntaxes or DEFLATED.encode() not in (syntaxes[-1] or b""):
        return None
    inflater = isal_zlib.decompressobj(wbits=-15)
    body = inflater.decompress(raw[stream.tell() :], MAX_INFLATED_BYTES + 1)
    if len(body) > MAX_INFLATED_BYTES:
        raise Unreadable(f"a deflated data set of more than {MAX_INFLATED_BYTES >> 20} MB")
    dataset = read_dataset(_BoundedStream(body), False, True, stop_when=_StopAtPixels(pixels))
    dataset.file_meta = FileMetaDataset({element.tag: element for element in elements})
    return dataset


def _may_be_deflated(raw: bytes) -> bool:
    return DEFLATED.encode() in raw[:MAX_META_BYTES]


def _syntax_as_read(dataset: Dataset) -> uid.UID:
    """Return the transfer syntax by which a data set without file meta information was read."""
    implicit, little = dataset.original_encoding
    if implicit:
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
