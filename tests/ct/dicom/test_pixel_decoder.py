"""Decoding in a child process: crashes, endless work, memory, and the machine's own faults."""

import os
import resource
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless
from tiny_dicom import make_dataset, write_slice

from ct.dicom import pixel_decoder
from ct.dicom.dataset_parser import quiet_pydicom
from ct.dicom.header_table import read_headers
from ct.dicom.hounsfield import read_hu
from ct.errors import MachineFault
from ct.pixel_cache.writer import write_cache
from ct.sources.source import Unreadable
from ct.system.child_process import ChildProcess

FORMAT = {
    "Rows": 8,
    "Columns": 8,
    "BitsAllocated": 16,
    "BitsStored": 16,
    "PixelRepresentation": 1,
}


@pytest.fixture
def odd(monkeypatch):
    """`odd(letter)`: what the decoder of odd_decoder.py does; it has 0.3 s of processor time."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)
    child = ChildProcess("odd_decoder")
    monkeypatch.setattr(pixel_decoder, "_CHILD", child)
    monkeypatch.setattr(pixel_decoder, "SECONDS", 0.3)
    yield lambda letter: pixel_decoder.decode_pixels(
        FORMAT, str(RLELossless), "OB", "MONOCHROME2", letter * 64
    )
    child.close()


@pytest.mark.parametrize("letter", [b"a", b"g"])
def test_a_decoder_that_crashes_costs_one_file(odd, letter):
    if letter == b"g":
        assert odd(b"g").shape == (8, 8)  # the crash is not that of a fresh decoder
    with pytest.raises(Unreadable, match=r"^the decoder crashed \(SIGABRT\)$"):
        odd(b"a")
    assert odd(b"g").shape == (8, 8)


def test_a_slice_that_crashes_a_used_decoder_gets_a_fresh_one(odd):
    before = odd(b"g")
    process = pixel_decoder._CHILD.process
    # a fresh decoder finds that it is no RLE
    with pytest.raises(Unreadable, match="cannot be decoded"):
        odd(b"s")
    assert pixel_decoder._CHILD.process.pid != process.pid and (before == 0).all()


def test_a_decoder_is_ended_after_its_processor_time(odd):
    start = time.perf_counter()
    with pytest.raises(Unreadable, match="^decoding took longer than 0 s$"):
        odd(b"t")
    assert time.perf_counter() - start < 30
    assert odd(b"g").shape == (8, 8)


def test_a_decoder_that_waits_is_ended(odd, monkeypatch):
    odd(b"g")
    monkeypatch.setattr(pixel_decoder, "WALL_SECONDS", 0.5)
    with pytest.raises(Unreadable, match="^decoding took longer than 0.5 s$"):
        odd(b"w")


def test_a_decoder_is_ended_beyond_its_memory(odd):
    with pytest.raises(Unreadable, match="^decoding it needs more than 1 GB$"):
        odd(b"m")


def test_a_decoder_that_is_killed_or_cannot_start_is_the_machines_fault(odd, monkeypatch):
    with pytest.raises(MachineFault, match="was killed.*--workers=1"):
        odd(b"k")
    monkeypatch.setenv("ICH_ODD_DECODER", "exit")
    with pytest.raises(MachineFault, match=r"cannot start \(status 3\)"):
        odd(b"g")
    full = OSError(24, "Too many open files")
    monkeypatch.setattr(subprocess, "Popen", lambda *words, **options: (_ for _ in ()).throw(full))
    with pytest.raises(MachineFault, match="too many open files.*ulimit -n"):
        odd(b"g")


def test_memory_below_the_limit_of_the_parent_is_the_machines_fault(odd):
    """Where the parent's limit is below the decoder's, running out of memory is no file's fault."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    code = (
        "import resource\nfrom ct.dicom import decoder_process as decoder\n"
        "from ct.dicom.pixel_decoder import decode_pixels\n"
        "from ct.system.child_process import limit_memory\n"
        "decoder.MAX_MEMORY = 1 << 60\nassert not limit_memory(decoder.MAX_MEMORY)\n"
        "decoder.decode = lambda *_: (_ for _ in ()).throw(MemoryError())\n"
        "for limited in (False, True):\n"
        "    print(decoder.answer({'seconds': 1}, b'', limited)[0])"
    )
    done = subprocess.run(
        ["bash", "-c", f'ulimit -v 8000000; exec {os.sys.executable} -c "$0"', code],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    reason = f"decoding it needs more than {(1 << 60) >> 30} GB"
    replies = "{'fault': 'out of memory'}\n" + f"{{'reason': '{reason}'}}\n"
    assert done.stdout == replies, done.stderr
    assert resource.getrlimit(resource.RLIMIT_AS) == limits


def test_a_crash_with_less_memory_than_a_slice_may_take_is_the_machines_fault(odd, monkeypatch):
    """A decoder that cannot allocate ends by SIGABRT; one that takes too long does so anyway."""
    monkeypatch.setenv("ICH_ODD_DECODER", "less memory")
    assert odd(b"g").shape == (8, 8)
    with pytest.raises(
        MachineFault,
        match=r"^the decoder crashed \(SIGABRT\) where `ulimit -v` .* set a larger limit; the same",
    ):
        odd(b"a")
    with pytest.raises(MachineFault, match=r"^the decoder ended \(status 1\) where"):
        odd(b"e")
    with pytest.raises(Unreadable, match="^decoding took longer"):
        odd(b"t")
    monkeypatch.delenv("ICH_ODD_DECODER")
    pixel_decoder._CHILD.close()
    with pytest.raises(Unreadable, match=r"^the decoder ended \(status 1\)$"):
        odd(b"e")


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_the_decoder_process_returns_the_stored_values(tmp_path, syntax):
    pixels = np.random.default_rng(0).integers(-1000, 1000, (64, 50)).astype(np.int16)
    dataset = make_dataset(pixels)
    with quiet_pydicom():
        dataset.compress(syntax)
        dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(read_hu(tmp_path / "a.dcm")[0], pixels - 1024)
    first = pixel_decoder._CHILD.process.pid
    read_hu(tmp_path / "a.dcm")
    assert pixel_decoder._CHILD.process.pid == first  # one process for all files


def test_a_crash_in_ingest_is_one_row(tmp_path, odd):
    """Through headers and pixel cache: two native slices, and one whose decoder crashes."""
    for number in range(3):
        write_slice(tmp_path / "in" / f"{number}.dcm", name=f"ID_{number}")
    raw = (tmp_path / "in" / "1.dcm").read_bytes()
    raw = raw.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0")  # declares RLE
    (tmp_path / "in" / "1.dcm").write_bytes(raw[:-24] + b"a" * 24)
    table, refused = read_headers(tmp_path / "in", ["0.dcm", "1.dcm", "2.dcm"], b"key", workers=1)
    facts = write_cache(tmp_path / "cache", tmp_path / "in", table, 16, workers=1)
    assert refused.empty and facts["readable"].tolist() == [True, False, True]
    assert facts["reason"].tolist() == ["", "the decoder crashed (SIGABRT)", ""]
