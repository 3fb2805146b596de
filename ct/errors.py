"""The errors that users read, and how untrusted text and counts are printed in messages."""

from ct.privacy.redaction import mask_passwords

PRINTED = 80  # characters of a value in a message, at most


class InputError(Exception):
    """The user's input is wrong. Its text is one line: what is wrong, the value, what to do.

    `run.py` prints it and exits with 1. Any other error is a defect of the program and is shown
    with its traceback.
    """


def printable(text: object, longest: int = PRINTED) -> str:
    """Return untrusted text for a message: passwords masked, odd characters escaped, shortened.

    longest: number of characters, at most
    """
    start = mask_passwords(str(text))[: longest + 1]
    escaped = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode()
        for c in start
    )
    return escaped if len(escaped) <= longest else f"{escaped[: longest - 4]} ..."


def number_of(count: int, noun: str) -> str:
    """Return a count with its noun: "1 study", "2 studies", "1,200 train slices", "2 series".

    noun: its last word in the singular
    """
    if count == 1 or noun.endswith("series"):
        return f"{count:,} {noun}"
    return f"{count:,} {noun[:-1]}ies" if noun.endswith("y") else f"{count:,} {noun}s"


def reason_of(error: Exception) -> str:
    """Return the first line of a library's error, or the name of its class, printable."""
    lines = str(error).strip().splitlines()
    return printable(lines[0] if lines else type(error).__name__, 160)


class MachineFault(InputError):
    """The machine failed, not the data: a missing disk, too many open files, memory, rights.

    It is never recorded as the fault of a file: the stage stops, keeps what is finished, and
    continues with the same command.
    """
