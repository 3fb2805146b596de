"""Errors of a unit, in a form that reaches the process that called."""

import copy
import traceback

from ct.errors import InputError


def portable(error: Exception) -> Exception:
    """Return an error that can be sent to another process, with its traceback as a note."""
    text = "".join(traceback.format_exception(error))
    try:
        sent = copy.copy(error)  # made from its arguments, as a process that receives it does
    except Exception:
        sent = (InputError if isinstance(error, InputError) else RuntimeError)(str(error))
    sent.add_note(f"in the process of a unit:\n{text}")
    return sent
