"""What a file is that is no csv, by its first bytes, and what to do about it."""

import re
from collections.abc import Collection

from ct.sources.file_kinds import packed_kind

GZIP, ZIP, EMPTY_ZIP = b"\x1f\x8b", b"PK\x03\x04", b"PK\x05\x06"
PARQUET = b"PAR1"
UTF8, UTF8_MARK = "utf-8-sig", b"\xef\xbb\xbf"
BYTE_ORDER_MARKS = {  # at the start of a text -> its encoding, longer ones first
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
SPREADSHEET = "a spreadsheet; save it as csv"
KINDS = {  # first bytes -> what the file is, and what to do
    re.escape(PARQUET): "a parquet table; save it as csv",
    rb"\xd0\xcf\x11\xe0": SPREADSHEET,  # Excel's older form, and its encrypted one
    rb"ARROW1": "an Arrow or Feather file; save it as csv or parquet",
    rb"<": "a web page or XML; download the table itself, or save it as csv",
    rb"[\[{]\s*[\[{\"]": "JSON; save it as csv",
    rb"version https://git-lfs": "a pointer of Git LFS; fetch the file by `git lfs pull`",
}
OF_SPREADSHEETS = ("[Content_Types].xml", "mimetype", "Index/Document.iwa")  # in their zip archives


def encoding_of(start: bytes) -> str:
    """Return the encoding of a text: UTF-8, or that of its mark. start: its first bytes"""
    marked = (name for mark, name in BYTE_ORDER_MARKS.items() if start.startswith(mark))
    return next(marked, UTF8)


def other_kind(start: bytes) -> str:
    """Return what a file is, and what to do, or "" where it may be a csv.

    start: its first bytes, unpacked
    """
    if encoding_of(start) != UTF8:
        return ""
    if packed := packed_kind(start):  # also a zip or gzip file in another one, unpacked once
        return f"{packed}; unpack it, and name the table in it"
    bare = start.removeprefix(UTF8_MARK).lstrip()
    for beginning, kind in KINDS.items():
        if re.match(beginning, bare):
            return kind
    first_line = start.partition(b"\n")[0]
    nuls = sorted((first_line[::2].count(0), first_line[1::2].count(0)))
    if not nuls[1]:
        return ""
    if nuls[0] == 0 and nuls[1] > len(first_line) // 4:  # one byte of nearly each pair
        return "UTF-16 text without a byte order mark; save it as UTF-8"
    return "no csv, its first line holds NUL bytes; save the table as csv"


def is_spreadsheet(names: Collection[str]) -> bool:
    """Return whether a zip archive is a spreadsheet. names: of its files"""
    return any(name in names for name in OF_SPREADSHEETS)
