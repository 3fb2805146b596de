"""The child process that decodes compressed pixels, one slice at a time.

On damaged streams gdcm and pylibjpeg crash, or run for minutes. Here that costs one file: the
parent, ct/dicom/pixel_decoder.py, starts another process. The system limits the memory of this
process and the processor time of each slice; beyond these limits it ends the process.

A request is a line of JSON, followed by the pixel data; an answer is a line of JSON, followed by
the stored values.
"""

import json
import resource
import signal
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.utils import pixel_array

from ct.dicom.dataset_parser import quiet_pydicom
from ct.privacy.defined_terms import known_transfer_syntax
from ct.privacy.quarantine_reasons import UNDECODED
from ct.privacy.redaction import without_quoted_values
from ct.system.child_process import limit_memory, message_pipes, read_message, write_message

FASTEST = {  # the fastest installed decoder of each transfer syntax, measured on one core
    uid.RLELossless: "pylibjpeg",
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEGLSNearLossless: "pyjpegls",
    uid.JPEG2000Lossless: "gdcm",
    uid.JPEG2000: "gdcm",
    uid.JPEGLossless: "gdcm",
    uid.JPEGLosslessSV1: "gdcm",
}
MAX_MEMORY = 1 << 30  # bytes, beyond what the process uses before its first slice
# greeting where the limit of the parent process leaves less than MAX_MEMORY
LESS_MEMORY = b"ready, with less memory"
PIXEL_FORMAT = ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation")


def serve() -> None:
    """Answer the requests on standard input on standard output, until the parent has ended."""
    requests, answers = message_pipes()  # what a decoder prints may quote the file
    limited = start(answers)
    while (message := read_message(requests)) is not None:
        head, pixels = message.split(b"\n", 1)
        reply, values = answer(json.loads(head), pixels, limited)
        write_message(answers, json.dumps(reply).encode() + b"\n", values)


def start(answers: int) -> bool:
    """Limit the memory, and send the greeting. Returns what `limit_memory` returns.

    answers: file descriptor
    """
    limited = limit_memory(MAX_MEMORY)
    parents = not limited and resource.getrlimit(resource.RLIMIT_AS)[1] != resource.RLIM_INFINITY
    write_message(answers, LESS_MEMORY if parents else b"ready")
    return limited


def answer(
    task: Mapping[str, Any], pixels: bytes, limited: bool
) -> tuple[dict[str, Any], memoryview | bytes]:
    """Return (reply, stored values) for one slice.

    task: as sent by ct.dicom.pixel_decoder.decode_pixels; limited: as returned by `limit_memory`

    reply: "shape" and "dtype"; or "reason" where the pixels cannot be decoded; or "fault" where the
    machine is out of memory
    """
    try:
        # processor time: other programs on the machine do not count
        signal.setitimer(signal.ITIMER_PROF, task["seconds"])
        values, reason = decode(task, pixels)
    except MemoryError:
        values, reason = None, f"decoding it needs more than {MAX_MEMORY >> 30} GB"
        if not limited:
            return {"fault": "out of memory"}, b""
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    if values is None:
        return {"reason": reason}, b""
    values = np.ascontiguousarray(values)
    raw = values.reshape(-1).view(np.uint8)
    return {"shape": values.shape, "dtype": values.dtype.str}, raw.data


def decode(task: Mapping[str, Any], pixels: bytes) -> tuple[NDArray[np.integer] | None, str]:
    """Return (stored values, "") as decoded by pydicom's plugins, or (None, why they all fail).

    The fastest plugin is tried first, then pydicom tries them all.
    """
    syntax, reason = task["syntax"], ""
    for plugin in dict.fromkeys([FASTEST.get(syntax, ""), ""]):
        try:
            with quiet_pydicom():
                return pixel_array(_dataset(task, pixels), decoding_plugin=plugin), ""
        except NotImplementedError:
            reason = f"no decoder for the transfer syntax {known_transfer_syntax(syntax)}"
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # pylibjpeg-rle's Rust panics are no Exception
            reason = _one_line(error)
    return None, reason


def _dataset(task: Mapping[str, Any], pixels: bytes) -> Dataset:
    """Return a data set of the pixels, one frame, and the tags that pydicom's decoders need."""
    dataset = Dataset()
    for keyword in PIXEL_FORMAT:
        setattr(dataset, keyword, task[keyword])
    dataset.SamplesPerPixel = 1
    if task["PhotometricInterpretation"]:
        dataset.PhotometricInterpretation = task["PhotometricInterpretation"]
    dataset.add_new("PixelData", task["vr"], pixels)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = task["syntax"]
    return dataset


def _one_line(error: BaseException) -> str:
    """Return the line of a decoder's message that has the cause: shortened, no paths or values."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = lines or [type(error).__name__]
    line = lines[1] if len(lines) > 1 and lines[0].endswith("plugins:") else lines[0]
    # gdcm fails without a message, and pydicom then with this one
    line = line.replace("'NoneType' object has no attribute 'encode'", "damaged stream")
    return UNDECODED + without_quoted_values(line)[:120]
