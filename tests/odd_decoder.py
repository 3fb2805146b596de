"""A decoder that does what the first byte of the pixel data says, in place of
ct.dicom.decoder_process: crash, hang, be killed.
"""

import json
import os
import resource
import signal
import time

from ct.dicom import decoder_process as decoder
from ct.system.child_process import read_message, write_message

BEGIN = "ICH_ODD_DECODER"  # in the environment: what it does before it listens


def serve():
    questions, answers = os.fdopen(os.dup(0), "rb"), os.dup(1)
    if os.environ.get(BEGIN) == "exit":
        os._exit(3)
    if os.environ.get(BEGIN) == "less memory":
        resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
        decoder.MAX_MEMORY = 1 << 60
    limited = decoder.start(answers)
    answered = 0
    while (message := read_message(questions)) is not None:
        head, pixels = message.split(b"\n", 1)
        facts = json.loads(head)
        what = pixels[:1]
        if what == b"a":
            os.abort()
        if what == b"s" and answered:  # only where something came before
            os.kill(os.getpid(), signal.SIGSEGV)
        if what == b"e":
            os._exit(1)
        if what == b"k":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == b"t":
            decoder.decode = lambda facts, pixels: endless()
        if what == b"m":
            decoder.decode = lambda facts, pixels: (bytearray(8 * decoder.MAX_MEMORY), "")
        if what == b"w":
            time.sleep(60)
        if what == b"g":
            pixels = bytes(2 * facts["Rows"] * facts["Columns"])
            reply, values = {"shape": (facts["Rows"], facts["Columns"]), "dtype": "<u2"}, pixels
        else:
            reply, values = decoder.answer(facts, pixels, limited)
        write_message(answers, json.dumps(reply).encode() + b"\n", values)
        answered += 1


def endless():
    while True:
        pass
