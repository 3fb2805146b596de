"""Write zip archives for the tests."""

import struct
import zipfile


def pack(folder, archive, around="", method=zipfile.ZIP_DEFLATED):
    """Zip all files and folders below `folder`, under the prefix `around`. Returns the archive."""
    with zipfile.ZipFile(archive, "w", method) as out:
        for path in sorted(folder.rglob("*")):
            out.write(path, f"{around}{path.relative_to(folder).as_posix()}")
    return archive


def edit_entry(archive, name, **fields):
    """Overwrite fields of a member's central directory entry (APPNOTE.TXT, section 4.3.12)."""
    raw = bytearray(archive.read_bytes())
    at = raw.rindex(name.encode()) - 46  # the last mention of a name is its entry's
    assert raw[at : at + 4] == b"PK\x01\x02"
    places = {
        "flags": (8, "<H"),
        "method": (10, "<H"),
        "crc": (16, "<L"),
        "packed": (20, "<L"),
        "size": (24, "<L"),
    }
    for field, value in fields.items():
        place, form = places[field]
        struct.pack_into(form, raw, at + place, value)
    archive.write_bytes(raw)
