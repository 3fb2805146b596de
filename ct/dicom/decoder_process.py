"""The process that decodes compressed pixels: gdcm and pylibjpeg crash, and run for minutes, on
damaged streams.

`ct/dicom/pixel_decoder.py` asks it, a slice at a time. A message is a line of JSON, and the pixel data
behind it. The answer is a line of JSON, and the stored values behind it. The memory that it may
take, and the processor time that a slice may, are limited by the system, which ends it.
"""

import json
import os
import resource
import signal
from collections.abc import Mapping

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import pixel_array

from ct.dicom.dataset_parser import quiet_pydicom
from ct.privacy.defined_terms import known_transfer_syntax
from ct.privacy.quarantine_reasons import UNDECODED
from ct.privacy.redaction import without_quoted_values
from ct.system.child_process import limit_memory, read_message, write_message

FASTEST = {  # the fastest of the installed decoders of each syntax, as measured on one core
    uid.RLELossless: "pylibjpeg",
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEGLSNearLossless: "pyjpegls",
    uid.JPEG2000Lossless: "gdcm",
    uid.JPEG2000: "gdcm",
    uid.JPEGLossless: "gdcm",
    uid.JPEGLosslessSV1: "gdcm",
}
MEMORY = 1 << 30  # bytes, beyond what the process has before its first slice
# the greeting where a limit of the parent's leaves it less than MEMORY
LESS_MEMORY = b"ready, with less memory"
TAGS = ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation")


def serve() -> None:
    """Answer the messages of standard input on standard output, until the parent has ended."""
    questions, answers, nowhere = (
        os.fdopen(os.dup(0), "rb"),
        os.dup(1),
        os.open(os.devnull, os.O_RDWR),
    )
    for standard in (0, 1, 2):  # what a decoder prints is no answer, and may quote the file
        os.dup2(nowhere, standard)
    limited = begin(answers)
    while (message := read_message(questions)) is not None:
        head, pixels = message.split(b"\n", 1)
        reply, values = answer(json.loads(head), pixels, limited)
        write_message(answers, json.dumps(reply).encode() + b"\n", values)


def begin(answers: int) -> bool:
    """Limit the memory, and tell the parent that this process listens. Returns what `limit_memory`
    returns.
    """
    limited = limit_memory(MEMORY)
    parents = not limited and resource.getrlimit(resource.RLIMIT_AS)[1] != resource.RLIM_INFINITY
    write_message(answers, LESS_MEMORY if parents else b"ready")
    return limited


def answer(facts: Mapping, pixels: bytes, limited: bool) -> tuple[dict, np.ndarray | bytes]:
    """Return (reply, stored values) for one slice.

    facts: the transfer syntax, VR, seconds, PhotometricInterpretation and TAGS; limited: as
    `limit_memory` returned it

    reply: "shape" and "dtype", or "reason" where the pixels cannot be decoded, or "fault" where the
    machine lacks memory
    """
    try:
        # of the processor: how busy the machine is does not count
        signal.setitimer(signal.ITIMER_PROF, facts["seconds"])
        array, reason = decoded(facts, pixels)
    except MemoryError:
        array, reason = None, f"decoding it needs more than {MEMORY >> 30} GB"
        if not limited:
            return {"fault": "out of memory"}, b""
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    if array is None:
        return {"reason": reason}, b""
    array = np.ascontiguousarray(array)
    return {"shape": array.shape, "dtype": array.dtype.str}, array.reshape(-1).view(np.uint8)


def decoded(facts: Mapping, pixels: bytes) -> tuple[np.ndarray | None, str]:
    """Decode by pydicom's plugins: the fastest first, and where it fails, all of them. Returns
    (stored values, why not).
    """
    syntax, reason = facts["syntax"], ""
    for plugin in dict.fromkeys([FASTEST.get(syntax, ""), ""]):
        try:
            with quiet_pydicom():
                return pixel_array(described(facts, pixels), decoding_plugin=plugin), ""
        except NotImplementedError:
            reason = f"no decoder for the transfer syntax {known_transfer_syntax(syntax)}"
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except (
            BaseException
        ) as error:  # nearly anything, pylibjpeg-rle's Rust panics included, which are no Exception
            reason = one_line(error)
    return None, reason


def described(facts: Mapping, pixels: bytes) -> Dataset:
    """Return a data set of the pixels, one frame of one sample, and of the tags that a decoder asks
    for.
    """
    dataset = Dataset()
    for keyword in TAGS:
        setattr(dataset, keyword, facts[keyword])
    dataset.SamplesPerPixel = 1
    if facts["PhotometricInterpretation"]:
        dataset.PhotometricInterpretation = facts["PhotometricInterpretation"]
    dataset.add_new("PixelData", facts["vr"], pixels)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = facts["syntax"]
    return dataset


def one_line(error: BaseException) -> str:
    """Return the telling line of a decoder's message, without paths and tags' values, and
    shortened.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [
        type(error).__name__
    ]
    line = lines[1] if len(lines) > 1 and lines[0].endswith("plugins:") else lines[0]
    # what gdcm's silence ends as
    line = line.replace("'NoneType' object has no attribute 'encode'", "damaged stream")
    return UNDECODED + without_quoted_values(line)[:120]
