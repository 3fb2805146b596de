"""Decodes compressed pixels in a process of their own, so that a decoder that crashes costs one
file (see ct/dicom/decoder_process.py).
"""

import json
import signal

import numpy as np

from ct.dicom.decoder_process import LESS_MEMORY
from ct.errors import MachineFault
from ct.sources.source import Unreadable
from ct.system.child_process import ChildEnded, ChildProcess
from ct.system.machine_faults import GOES_ON, FileFault, fault_of, out_of_memory

# of the processor: real slices take 0.01 to 0.3 s, one of 4096 x 4096 about 4
SECONDS, SECONDS_A_PIXEL = 2, 3e-7
PATIENCE = 120  # seconds on the clock, for a decoder that waits for something that never comes
# the status of a decoder that took too long, on the clock or of the processor
LATE = (None, -signal.SIGPROF)
_CHILD = ChildProcess("ct.dicom.decoder_process")


def decode(facts: dict, pixels: bytes | memoryview) -> np.ndarray:
    """Return the stored values (rows, cols) of a slice.

    facts: Rows, Columns, BitsAllocated, BitsStored, PixelRepresentation (int),
    PhotometricInterpretation (text, or ""), syntax and vr of the pixel data; pixels: as they lie in
    the file

    Raises Unreadable where they cannot be decoded, the decoder crashes on them, alone too, or needs
    more time or memory than it may; MachineFault where the decoder cannot begin, the system ends
    it, or it ends where it has less memory than it may take: what a codec cannot allocate ends in a
    crash as well.
    """
    facts = facts | {
        "seconds": round(SECONDS + SECONDS_A_PIXEL * facts["Rows"] * facts["Columns"], 1)
    }
    message = json.dumps(facts).encode() + b"\n" + bytes(pixels)
    try:
        answer = _ask(message)
    except ChildEnded as ended:
        reason = _reason(ended.status, facts["seconds"])
        if ended.status not in LATE and _CHILD.greeting == LESS_MEMORY:
            raise MachineFault(
                f"{reason} where `ulimit -v` leaves it less memory than a slice may take: set a larger limit; {GOES_ON}"
            ) from None
        raise Unreadable(reason) from None
    head, values = (
        bytes(answer[: answer.index(b"\n")]),
        memoryview(answer)[answer.index(b"\n") + 1 :],
    )
    reply = json.loads(head)
    if "fault" in reply:
        raise out_of_memory()
    if "reason" in reply:
        raise Unreadable(reply["reason"])
    return np.frombuffer(values, reply["dtype"]).reshape(reply["shape"])


def close() -> None:
    """End this process's decoder; the next slice begins another."""
    _CHILD.close()


def _ask(message):
    """Ask the decoder; where it ends, ask a fresh one: what came before may have spoilt it.

    Raises ChildEnded, MachineFault.
    """
    fresh = _CHILD.answered == 0
    try:
        return _ask_once(message)
    except ChildEnded as ended:
        if fresh or ended.status == -signal.SIGPROF:
            raise
    return _ask_once(message)


def _ask_once(message):
    try:
        return _CHILD.request(message, PATIENCE)
    except (OSError, MemoryError) as error:
        fault = fault_of(error)
        if isinstance(fault, FileFault):
            fault = MachineFault(
                f"the process that decodes compressed pixels cannot begin, {fault}; {GOES_ON}"
            )
        raise fault from None
    except ChildEnded as ended:
        if not ended.started:
            raise MachineFault(
                f"the process that decodes compressed pixels cannot begin (status {ended.status}): look at the limits "
                f"of memory and open files (ulimit -a); {GOES_ON}"
            ) from None
        if ended.status == -signal.SIGKILL:  # not by us: by the system, or by hand
            raise MachineFault(
                "the process that decodes compressed pixels was killed, perhaps for want of memory: take fewer processes "
                f"(--workers=1); {GOES_ON}"
            ) from None
        raise


def _reason(status, seconds):
    if status is None:
        return f"decoding took longer than {PATIENCE} s"
    if status == -signal.SIGPROF:
        return f"decoding took longer than {seconds:.0f} s"
    if status < 0:
        return f"the decoder crashed ({signal.Signals(-status).name})"
    return f"the decoder ended (status {status})"
