"""Damage to bytes, text and plain values, for all kinds of fuzz.py but DICOM files."""

NASTY = tuple(
    [
        "",
        " ",
        "nan",
        "NaN",
        "inf",
        "-inf",
        "1e999",
        "-1",
        "0",
        "1",
        "2",
        "0.5",
        "1e-320",
        "99999999999999999999",
        "9" * 5000,
    ]
    + [
        "0x10",
        "1_000",
        "true",
        "null",
        "None",
        "~",
        "[]",
        "{}",
        "[1, 2]",
        "{a: 1}",
        '"',
        "'",
        '"a\nb"',
        "\n",
        "\r",
        "\t",
    ]
    + [
        "\0",
        "\x1b[2J",
        "\u00e4",
        "\u2028",
        "\ud800",
        "=1+1",
        "../../x",
        "/etc/passwd",
        "ID_0",
        "a,b",
        "a;b",
        "2020-01-01",
    ]
    + ["*a", "&a", "!!python/name:os", "<<", "%", "#", "x" * 70_000]
)


def damaged(rng, raw, tail=0.0):
    """Return (damaged bytes, what was done).

    tail: fraction of the cases in which the last kilobytes are hit
    """
    raw = bytearray(raw)
    first = max(0, len(raw) - 2000) if rng.random() < tail else 0
    for _ in range(int(rng.choice([1, 1, 1, 2, 5, 20]))):
        if len(raw) <= first:
            break
        at, kind = int(rng.integers(first, len(raw))), int(rng.integers(6))
        if kind == 0:
            raw[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            raw[at] = int(rng.choice([0, 1, 127, 128, 255, rng.integers(256)]))
        elif kind == 2:
            raw[at : at + int(rng.integers(1, 9))] = rng.bytes(int(rng.integers(1, 9)))
        elif kind == 3:
            del raw[at : at + int(rng.choice([1, 2, 4, 100]))]
        elif kind == 4:
            raw[at:at] = raw[at : at + int(rng.choice([1, 8, 200]))]
        elif rng.random() < 0.3:
            del raw[at:]
    return bytes(raw), "bytes"


def damaged_text(rng, text):
    """Return (damaged text, what was done).

    Lines are repeated, removed, swapped or indented, words are replaced.
    """
    lines = text.split("\n")
    for _ in range(int(rng.choice([1, 1, 2, 4]))):
        at, kind = int(rng.integers(len(lines))), int(rng.integers(7))
        other = lines[int(rng.integers(len(lines)))]
        if kind == 0:
            lines.insert(at, other)
        elif kind == 1 and len(lines) > 1:
            del lines[at]
        elif kind == 2:
            lines[at] = other
        elif kind == 3:
            lines[at] = " " * int(rng.integers(1, 9)) + lines[at]
        elif kind == 4:
            cut = int(rng.integers(len(lines[at]) + 1))
            lines[at] = lines[at][:cut] + nasty(rng) + lines[at][cut:]
        else:
            lines[at] = with_other_word(rng, lines[at])
    return "\n".join(lines), "lines"


def nasty(rng):
    """Return a text that is hard for parsers."""
    return NASTY[int(rng.integers(len(NASTY)))]


def with_other_word(rng, line):
    """Return a line with one of its words replaced.

    Words lie between commas, colons, blanks and equals signs.
    """
    ends = [0, *(place for place, c in enumerate(line) if c in ",:= []{}"), len(line)]
    at = int(rng.integers(len(ends) - 1))
    begin = ends[at] + (at > 0)
    return line[:begin] + nasty(rng) + line[max(begin, ends[at + 1]) :]


def damaged_values(rng, values):
    """Return plain values, one of them replaced, removed, repeated or nested deeper."""
    places = list(_places(values))
    holder, key = places[int(rng.integers(len(places)))]
    choices = [
        None,
        True,
        -1,
        0,
        1,
        2,
        1.5,
        -0.5,
        1e300,
        1e-320,
        float("nan"),
        float("inf"),
        10**30,
    ]
    choices += [[], {}, [holder[key]], {"x": 1}, nasty(rng)]
    kind = int(rng.integers(len(choices) + 3))
    if kind == len(choices):
        del holder[key]
    elif kind == len(choices) + 1 and isinstance(holder, dict):
        holder[nasty(rng)[:50]] = holder.pop(key)
    elif kind == len(choices) + 2 and isinstance(holder, list):
        holder.append(holder[key])
    else:
        holder[key] = choices[min(kind, len(choices) - 1)]
    return values


def _places(values):
    keys = (
        values.keys()
        if isinstance(values, dict)
        else range(len(values))
        if isinstance(values, list)
        else ()
    )
    for key in list(keys):
        yield values, key
        yield from _places(values[key])
