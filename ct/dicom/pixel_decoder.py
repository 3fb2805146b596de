"""Decode compressed pixels in a child process, so that a crash of the decoder costs one file.

The child is ct/dicom/decoder_process.py; it starts with the first compressed slice.
"""

import json
import signal
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ct.dicom.decoder_process import LESS_MEMORY
from ct.errors import MachineFault
from ct.sources.source import Unreadable
from ct.system.child_process import ChildEnded, ChildProcess
from ct.system.machine_faults import GOES_ON, FileFault, fault_of, out_of_memory

# processor time that a slice may take: SECONDS + SECONDS_PER_PIXEL * pixels. Real slices take 0.01
# to 0.3 s, one of 4096 x 4096 about 4 s
SECONDS = 2
SECONDS_PER_PIXEL = 3e-7
WALL_SECONDS = 120  # elapsed time, for a decoder that hangs without using the processor
TIMED_OUT = (None, -signal.SIGPROF)  # exit statuses: after WALL_SECONDS, after the processor time
_CHILD = ChildProcess("ct.dicom.decoder_process")


def decode_pixels(
    pixel_format: Mapping[str, int],
    syntax: str,
    vr: str,
    photometric: str,
    pixels: bytes | memoryview,
) -> NDArray[np.integer]:
    """Return the stored values (rows, cols) of a compressed slice.

    pixel_format: as returned by ct.dicom.pixel_attributes.pixel_format; syntax: UID of the transfer
    syntax; vr: of the pixel data; photometric: PhotometricInterpretation, or ""; pixels: as stored
    in the file

    Raises Unreadable where the pixels cannot be decoded, need more time or memory than allowed, or
    crash a fresh decoder. Raises MachineFault where the decoder cannot start, where the system ends
    it, or where it crashes with less memory than a slice may take: a decoder that cannot allocate
    memory crashes, too.
    """
    pixel_count = pixel_format["Rows"] * pixel_format["Columns"]
    seconds = round(SECONDS + SECONDS_PER_PIXEL * pixel_count, 1)
    task = {
        **pixel_format,
        "syntax": syntax,
        "vr": vr,
        "PhotometricInterpretation": photometric,
        "seconds": seconds,
    }
    message = json.dumps(task).encode() + b"\n" + bytes(pixels)
    try:
        answer = _request(message)
    except ChildEnded as ended:
        reason = _reason(ended.status, seconds)
        if ended.status not in TIMED_OUT and _CHILD.greeting == LESS_MEMORY:
            raise MachineFault(
                f"{reason} where `ulimit -v` leaves it less memory than a slice may take: "
                f"set a larger limit; {GOES_ON}"
            ) from None
        raise Unreadable(reason) from None
    end = answer.index(b"\n")
    reply, values = json.loads(answer[:end]), memoryview(answer)[end + 1 :]
    if "fault" in reply:
        raise out_of_memory()
    if "reason" in reply:
        raise Unreadable(reply["reason"])
    return np.frombuffer(values, reply["dtype"]).reshape(reply["shape"])


def _request(message: bytes) -> bytearray:
    """Return the decoder's answer; where the decoder ends, the answer of a fresh one.

    Earlier slices may have corrupted its memory. Raises ChildEnded, MachineFault.
    """
    fresh = _CHILD.answered == 0
    try:
        return _request_once(message)
    except ChildEnded as ended:
        if fresh or ended.status == -signal.SIGPROF:
            raise
    return _request_once(message)


def _request_once(message: bytes) -> bytearray:
    try:
        return _CHILD.request(message, WALL_SECONDS)
    except (OSError, MemoryError) as error:
        fault = fault_of(error)
        if isinstance(fault, FileFault):
            fault = MachineFault(
                f"the process that decodes compressed pixels cannot start, {fault}; {GOES_ON}"
            )
        raise fault from None
    except ChildEnded as ended:
        if not ended.started:
            raise MachineFault(
                f"the process that decodes compressed pixels cannot start (status {ended.status}): "
                f"check the limits of memory and open files (ulimit -a); {GOES_ON}"
            ) from None
        if ended.status == -signal.SIGKILL:  # by the system, or by hand
            raise MachineFault(
                "the process that decodes compressed pixels was killed, perhaps because memory ran "
                f"out: take fewer processes (--workers=1); {GOES_ON}"
            ) from None
        raise


def _reason(status: int | None, seconds: float) -> str:
    """Return why a file is unreadable: its decoder ended with this exit status."""
    if status is None:
        return f"decoding took longer than {WALL_SECONDS} s"
    if status == -signal.SIGPROF:
        return f"decoding took longer than {seconds:.0f} s"
    if status < 0:
        return f"the decoder crashed ({signal.Signals(-status).name})"
    return f"the decoder ended (status {status})"
