"""Ways to damage the bytes of a DICOM file, for benchmarks/fuzzing/dicom.py."""

import io
import struct

from pydicom import uid
from pydicom.encaps import encapsulate, generate_fragments
from pydicom.filereader import dcmread

# lengths of 32 bits
LONG = {b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UN", b"UT", b"UC", b"UR", b"SV", b"UV"}
SHORT = [
    b"US",
    b"SS",
    b"UL",
    b"SL",
    b"FL",
    b"FD",
    b"DS",
    b"IS",
    b"LO",
    b"CS",
    b"UI",
    b"AT",
    b"PN",
    b"ZZ",
    b"\0\0",
]
VRS = sorted(LONG) + SHORT
PIXELS = b"\xe0\x7f\x10\x00"
GEOMETRY = [
    (0x20, 0x32),
    (0x20, 0x37),
    (0x28, 0x10),
    (0x28, 0x11),
    (0x28, 0x30),
    (0x28, 0x100),
    (0x28, 0x101),
    (0x28, 0x102),
    (0x28, 0x103),
    (0x28, 0x1052),
    (0x28, 0x1053),
    (0x28, 2),
    (0x28, 4),
    (0x28, 8),
    (0x7FE0, 0x10),
]
TEXTS = (
    b"",
    b" ",
    b"abc",
    b"1_0",
    b"nan",
    b"inf",
    b"-infinity",
    b"1e308",
    b"-1e308",
    b"1e-308",
    b"0",
    b"-0",
    b"-1",
    b"1\\2",
    b"1e308\\1e308\\1e308",
    b"1e-200\\0\\0\\0\\1e-200\\0",
    b"1e200\\0\\0\\0\\1e200\\0",
    b"\\\\\\",
    b"9" * 400,
    b"0x10",
    b"1,5",
    b"1e",
    b"\xff\xfe",
    b"\xd9\xa1",
    b"\0\0",
    b"1\n2",
    b"1\\2\\3\\4\\5\\6\\7",
    b"\\".join([b"1"] * 9000),
)
WHOLE = (
    0,
    1,
    2,
    3,
    7,
    8,
    11,
    12,
    13,
    16,
    17,
    32,
    33,
    63,
    64,
    65,
    255,
    511,
    4095,
    4096,
    4097,
    32767,
    32768,
    65535,
    -1,
)


def mutated(rng, raw):
    """Return (bytes damaged one to three times, what was done)."""
    done = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        how = MUTATIONS[rng.integers(len(MUTATIONS))]
        try:
            raw = how(rng, raw)
        except (ValueError, LookupError, struct.error):  # it lacks the part that this damages
            raw = flipped(rng, raw)
        done.append(how.__name__)
    return raw, done


def flipped(rng, raw, first=0, last=None):
    """Flip up to 20 bits."""
    data = bytearray(raw)
    last = len(data) if last is None else last
    for at in rng.integers(first, max(last, first + 1), rng.integers(1, 20)) if data else ():
        data[min(at, len(data) - 1)] ^= 1 << rng.integers(8)
    return bytes(data)


def flipped_header(rng, raw):
    return flipped(rng, raw, 132, raw.rfind(PIXELS))


def flipped_pixels(rng, raw):
    return flipped(
        rng,
        raw,
        raw.rindex(PIXELS),
        min(len(raw), raw.rindex(PIXELS) + 200 if rng.random() < 0.5 else len(raw)),
    )


def truncated(rng, raw):
    return raw[: rng.integers(len(raw))]


def noise(rng, raw):
    """Replace a piece by noise."""
    at = int(rng.integers(len(raw)))
    return raw[:at] + rng.bytes(int(rng.integers(1, 64))) + raw[at + int(rng.integers(64)) :]


def elements(raw):
    """Return [(start, VR, start of the value, length)] of the elements before the pixels.

    The file is in explicit little endian.
    """
    if raw[128:132] != b"DICM":
        raise ValueError
    at, rows = 132, []
    while at + 8 <= len(raw):
        vr, begin = raw[at + 4 : at + 6], at + 8
        if vr in LONG:
            [length] = struct.unpack_from("<L", raw, at + 8)
            begin += 4
        else:
            [length] = struct.unpack_from("<H", raw, at + 6)
        rows.append((at, vr, begin, length))
        if raw[at : at + 4] == PIXELS or length == 0xFFFFFFFF:
            break
        at = begin + length
    return rows


def some_element(rng, raw):
    """Return one of a file's elements, mostly one of those that are read."""
    rows = elements(raw)
    read = [row for row in rows if struct.unpack_from("<HH", raw, row[0]) in GEOMETRY]
    rows = read if read and rng.random() < 0.8 else rows
    return rows[rng.integers(len(rows))]


def element(tag, vr, value):
    head = tag + vr
    if vr in LONG:
        return head + b"\0\0" + struct.pack("<L", len(value)) + value
    return head + struct.pack("<H", min(len(value), 65534)) + value[:65534]


def nasty(rng, vr):
    """Return a value that a tag should not have."""
    if rng.random() < 0.15:
        return rng.bytes(int(rng.integers(0, 40)))
    if vr in (b"US", b"SS", b"UL", b"SL", b"OW", b"OB", b"AT"):
        form = {b"US": "<H", b"UL": "<L"}.get(vr, ("<H", "<L", "<Q")[rng.integers(3)])
        whole = int(WHOLE[rng.integers(len(WHOLE))]) % (1 << 8 * struct.calcsize(form))
        return struct.pack(form, whole) * int(rng.choice([1, 1, 1, 2, 5]))
    return TEXTS[rng.integers(len(TEXTS))]


def another_value(rng, raw):
    at, vr, begin, length = some_element(rng, raw)
    if length == 0xFFFFFFFF:
        raise ValueError
    return raw[:at] + element(raw[at : at + 4], vr, nasty(rng, vr)) + raw[begin + length :]


def another_vr(rng, raw):
    at, _, begin, length = some_element(rng, raw)
    if length == 0xFFFFFFFF or rng.random() < 0.3:  # only the two letters: the rest shifts
        return raw[: at + 4] + VRS[rng.integers(len(VRS))] + raw[at + 6 :]
    vr = VRS[rng.integers(len(VRS))]
    value = raw[begin : begin + length] if rng.random() < 0.5 else nasty(rng, vr)
    return raw[:at] + element(raw[at : at + 4], vr, value) + raw[begin + length :]


def another_length(rng, raw):
    at, vr, *_ = some_element(rng, raw)
    length = int(rng.choice([0, 1, 2, 7, 255, 65535, 1 << 20, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF]))
    if vr in LONG:
        return raw[: at + 8] + struct.pack("<L", length) + raw[at + 12 :]
    return raw[: at + 6] + struct.pack("<H", length % 65536) + raw[at + 8 :]


def without_element(rng, raw):
    at, _, begin, length = some_element(rng, raw)
    return raw[:at] + raw[begin + length :] if length != 0xFFFFFFFF else raw[:at]


def element_twice(rng, raw):
    at, _, begin, length = some_element(rng, raw)
    piece = raw[at : begin + min(length, len(raw))]
    where = elements(raw)[rng.integers(len(elements(raw)))][0]
    return raw[:where] + piece * int(rng.choice([1, 1, 50])) + raw[where:]


def nested_deep(rng, raw):
    at = some_element(rng, raw)[0]
    depth = int(rng.choice([10, 300, 10_000]))
    return (
        raw[:at]
        + (b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff") * depth
        + raw[at:]
    )


def another_syntax(rng, raw):
    """Name another transfer syntax than that of the data."""
    at = raw.index(b"\x02\x00\x10\x00UI")
    [length] = struct.unpack_from("<H", raw, at + 6)
    syntaxes = [str(syntax) for syntax in uid.AllTransferSyntaxes] + [
        "",
        "1.2.3",
        "1.2.840.10008.1.2\\1",
    ]
    text = syntaxes[rng.integers(len(syntaxes))].encode()
    return (
        raw[:at]
        + element(b"\x02\x00\x10\x00", b"UI", text + b"\0" * (len(text) % 2))
        + raw[at + 8 + length :]
    )


def fragments(rng, raw):
    """Cut, repeat, mix or swap the fragments of compressed pixels."""
    at = raw.rindex(PIXELS)
    try:
        pixels = dcmread(io.BytesIO(raw), force=True)["PixelData"].value
        stream = b"".join(generate_fragments(pixels))[8:] or rng.bytes(99)
    except Exception:  # damaged already, in any way
        stream = rng.bytes(99)
    ways = (
        lambda: encapsulate([stream, stream]),
        lambda: encapsulate([stream[: len(stream) // 2], stream[len(stream) // 2 :]]),
        lambda: encapsulate([b""]),
        lambda: b"\xfe\xff\x00\xe0\0\0\0\0" * int(rng.choice([0, 3, 60_000])),
        lambda: encapsulate([stream])[: int(rng.integers(len(stream)))],
        lambda: encapsulate([rng.bytes(len(stream))]),
        lambda: (
            encapsulate([stream], has_bot=False)[:-8]
            + struct.pack("<L", int(rng.integers(1 << 32)))
        ),
    )
    return raw[: at + 12] + ways[rng.integers(len(ways))]() + b"\xfe\xff\xdd\xe0\0\0\0\0"


def markers(rng, raw):
    """Change the numbers behind a marker of a JPEG, JPEG-LS or JPEG 2000 stream."""
    begin = raw.rindex(PIXELS)
    frames = [
        b"\xff\xc3",
        b"\xff\xf7",
        b"\xff\x51",
        b"\xff\xc0",
        b"\xff\xda",
        b"\xff\x52",
        b"\xff\x5c",
        b"\xff\xc4",
        b"\xff\x90",
    ]
    places = [at for marker in frames if (at := raw.find(marker, begin)) > 0]
    at = places[rng.integers(len(places))] + 2
    count = int(rng.choice([1, 2, 4]))
    at += int(rng.integers(0, 30))
    value = (
        rng.bytes(count)
        if rng.random() < 0.4
        else (b"\xff" * count, b"\0" * count, b"\x75\x30" * 2)[rng.integers(3)][:count]
    )
    return raw[:at] + value + raw[at + count :]


MUTATIONS = (
    flipped,
    flipped_header,
    flipped_header,
    flipped_pixels,
    flipped_pixels,
    truncated,
    noise,
    another_value,
    another_value,
    another_value,
    another_value,
    another_vr,
    another_vr,
    another_length,
    without_element,
    element_twice,
    nested_deep,
    another_syntax,
    fragments,
    markers,
    markers,
)
