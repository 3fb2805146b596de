r"""Names of files as tables keep them: what no table or line can hold is written as \x and two
digits for each of its bytes.

That is a line break and other control characters, and bytes that are no UTF-8. Everything else
stays as it is, rare spaces, private characters and soft hyphens too. A kept name leads back to the
file: a backslash that would read like one of these is written \x5c.
"""

import os
import re
import unicodedata

# categories: control, lone surrogate (a byte that is no UTF-8), separators of lines
SPOILS = {"Cc", "Cs", "Zl", "Zp"}
LOOKS_ESCAPED = re.compile(r"\\(?=x[0-9a-f]{2})")
ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")


def escaped_name(name: str) -> str:
    r"""Return a file's name, or relative path, as tables keep it: "a\nb" becomes "a\\x0ab"."""
    if "\\" in name:
        name = LOOKS_ESCAPED.sub(r"\\x5c", name)
    if name.isprintable():
        return name
    return "".join(
        _escaped(letter) if unicodedata.category(letter) in SPOILS else letter for letter in name
    )


def unescaped_name(kept: str) -> str:
    """Return the name of the file whose kept name this is."""
    if "\\x" not in kept:
        return kept
    return os.fsdecode(
        ESCAPED.sub(lambda found: bytes.fromhex(found[1].decode()), os.fsencode(kept))
    )


def _escaped(letter):
    try:
        bytes_ = os.fsencode(letter)
    except UnicodeEncodeError:  # of a zip, whose names are no paths of this system
        bytes_ = letter.encode("utf-8", "surrogatepass")
    return "".join(f"\\x{byte:02x}" for byte in bytes_)
