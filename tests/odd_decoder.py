"""A decoder that crashes, hangs or is killed, by the first byte of the pixel data."""

import json
import os
import resource
import signal
import time

from ct.dicom import decoder_process as decoder
from ct.system.child_process import read_message, write_message

START = "ICH_ODD_DECODER"  # in the environment: what it does before its greeting


def serve():
    requests, answers = os.fdopen(os.dup(0), "rb"), os.dup(1)
    if os.environ.get(START) == "exit":
        os._exit(3)
    if os.environ.get(START) == "less memory":
        resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
        decoder.MAX_MEMORY = 1 << 60
    limited = decoder.start(answers)
    answered = 0
    while (message := read_message(requests)) is not None:
        head, pixels = message.split(b"\n", 1)
        task = json.loads(head)
        letter = pixels[:1]
        if letter == b"a":
            os.abort()
        if letter == b"s" and answered:  # only where something came before
            os.kill(os.getpid(), signal.SIGSEGV)
        if letter == b"e":
            os._exit(1)
        if letter == b"k":
            os.kill(os.getpid(), signal.SIGKILL)
        if letter == b"t":
            decoder.decode = lambda task, pixels: endless()
        if letter == b"m":
            decoder.decode = lambda task, pixels: (bytearray(8 * decoder.MAX_MEMORY), "")
        if letter == b"w":
            time.sleep(60)
        if letter == b"g":
            pixels = bytes(2 * task["Rows"] * task["Columns"])
            reply, values = {"shape": (task["Rows"], task["Columns"]), "dtype": "<u2"}, pixels
        else:
            reply, values = decoder.answer(task, pixels, limited)
        write_message(answers, json.dumps(reply).encode() + b"\n", values)
        answered += 1


def endless():
    while True:
        pass
