"""Kinds of files by their first bytes, for messages about a file in a wrong place."""

HEAD_BYTES = 512  # of a file, enough for every kind
DICOM_MARK = slice(128, 132), b"DICM"  # PS3.10 section 7.1
ZIP = "a zip archive"
PACKED = (  # where the mark stands, the mark, the kind
    (slice(0, 4), b"PK\x03\x04", ZIP),
    (slice(0, 2), b"\x1f\x8b", "a file packed by gzip"),
    (slice(0, 3), b"BZh", "a file packed by bzip2"),
    (slice(0, 6), b"\xfd7zXZ\0", "a file packed by xz"),
    (slice(0, 4), b"\x28\xb5\x2f\xfd", "a file packed by zstd"),
    (slice(0, 6), b"7z\xbc\xaf'\x1c", "a 7z archive"),
    (slice(0, 4), b"Rar!", "a rar archive"),
    (slice(257, 262), b"ustar", "a tar archive"),
)
NIFTI_ENDINGS = (".nii", ".nii.gz")


def has_dicom_mark(head: bytes) -> bool:
    """Return whether a file's first bytes are a preamble and the mark of DICOM."""
    place, mark = DICOM_MARK
    return head[place] == mark


def packed_kind(head: bytes) -> str:
    """Return the kind of a packed file, such as "a zip archive", by its first bytes; "" for others.

    head: HEAD_BYTES of it, or all
    """
    return next((kind for place, mark, kind in PACKED if head[place] == mark), "")


def lone_file_remedy(name: str, head: bytes) -> str:
    """Return what a file is that stands where a folder or zip belongs, and what to do; or "".

    name: of the file; head: as in `packed_kind`
    """
    nifti = name.lower().endswith(NIFTI_ENDINGS)
    if nifti or has_dicom_mark(head):
        return f"a single {'NIfTI' if nifti else 'DICOM'} file; name the folder around it"
    kind = packed_kind(head)
    if kind in ("", ZIP):  # a zip that cannot be opened is damaged
        return ""
    return f"{kind}; unpack it, and name the folder of its files"
