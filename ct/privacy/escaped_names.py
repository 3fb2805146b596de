r"""Names of files as tables hold them: bytes that no line of text can hold are written as \xNN.

These are line breaks, other control characters, and bytes that are not UTF-8. All other characters
stay, even rare spaces, private characters and soft hyphens. Escaping can be undone: a backslash
that would read like an escape is written \x5c, and the # of a name that ends like that of a frame,
in #3, is written \x23.
"""

import os
import re
import unicodedata

# Unicode categories that are escaped: control, lone surrogate (a byte that is not UTF-8),
# separators of lines and paragraphs
ESCAPED_CATEGORIES = {"Cc", "Cs", "Zl", "Zp"}
LOOKS_ESCAPED = re.compile(r"\\(?=x[0-9a-f]{2})")
LOOKS_LIKE_FRAME = re.compile(r"#([1-9][0-9]*)\Z")  # see ct/sources/frames.py
ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")


def escaped_name(name: str) -> str:
    r"""Return a file's name, or relative path, as tables hold it: "a\nb" becomes "a\\x0ab"."""
    if "\\" in name:
        name = LOOKS_ESCAPED.sub(r"\\x5c", name)
    name = LOOKS_LIKE_FRAME.sub(r"\\x23\1", name)
    if name.isprintable():
        return name
    characters = []
    for character in name:
        escaped = unicodedata.category(character) in ESCAPED_CATEGORIES
        characters.append(_escape(character) if escaped else character)
    return "".join(characters)


def unescaped_name(escaped: str) -> str:
    """Return the file's name on disk from its escaped name."""
    if "\\x" not in escaped:
        return escaped
    name = ESCAPE.sub(lambda match: bytes.fromhex(match[1].decode()), os.fsencode(escaped))
    return os.fsdecode(name)


def _escape(character: str) -> str:
    try:
        encoded = os.fsencode(character)
    except UnicodeEncodeError:  # in a zip archive, names need not be valid paths of this system
        encoded = character.encode("utf-8", "surrogatepass")
    return "".join(f"\\x{byte:02x}" for byte in encoded)
