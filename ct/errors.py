"""The one exception that a user is meant to read, and how a stranger's text stands in it."""

from ct.privacy.redaction import mask_passwords

SHOWN = 80  # characters of a value


class InputError(Exception):
    """Something the user gave is wrong: one line that says what, which value, and what to do about
    it.

    `run.py` prints it and exits with 1. Anything else that is raised is a defect of the program and
    shows its traceback.
    """


def printable(text: object, longest: int = SHOWN) -> str:
    """Return a stranger's text as it may stand in a line: without passwords, cut, what is not
    printable escaped.
    """
    text = mask_passwords(str(text))[: longest + 1]
    text = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode()
        for c in text
    )
    return text if len(text) <= longest else f"{text[: longest - 4]} ..."


def reason_of(error: Exception) -> str:
    """Return the first line of what an error of a library says, or its kind, fit to be shown."""
    lines = str(error).strip().splitlines()
    return printable(lines[0] if lines else type(error).__name__, 160)


class MachineFault(InputError):
    """The machine is at fault, not the data: a disk that is gone, too many open files, memory,
    rights.

    Never put down to a file: the stage stops, keeps what is finished, and goes on with the same
    command. One line, too.
    """
