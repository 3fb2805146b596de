"""The pixel cache: resampling, measures, shards, threads."""

import errno
import multiprocessing
import os
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_dicom import slice_bytes, write_slice

from ct.dicom.hounsfield import read_hu
from ct.errors import InputError, MachineFault
from ct.pixel_cache import reader, writer
from ct.pixel_cache.reader import PixelCache
from ct.pixel_cache.resampling import pad_to_square, resample_to_square
from ct.pixel_cache.shards import AIR_HU
from ct.pixel_cache.slice_measures import measure_slice
from ct.pixel_cache.writer import (
    is_whole_shard,
    matching_record,
    shard_parts,
    with_checksums,
    write_cache,
    write_shard,
)
from ct.slices import PIXEL_COLUMNS
from ct.sources.folder import Folder
from ct.storage.file_formats import write_table


def test_a_whole_factor_takes_the_mean_of_blocks():
    hu = np.array([[0, 4, 10, 10], [0, 0, 10, 11], [-5, -5, 0, 1], [-5, -6, 1, 1]], np.int16)
    assert resample_to_square(hu, 2).tolist() == [[1, 10], [-5, 1]]  # 1, 10.25, -5.25, 0.75
    assert resample_to_square(hu, 4).tolist() == hu.tolist()
    assert resample_to_square(hu, 1).tolist() == [[2]]  # 27 / 16


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_block_means_are_numpys(factor):
    hu = np.random.default_rng(0).integers(-1024, 3072, (24, 24), dtype=np.int16)
    size = 24 // factor
    expected = np.rint(hu.reshape(size, factor, size, factor).mean(axis=(1, 3)))
    np.testing.assert_array_equal(resample_to_square(hu, size), expected)


def test_hu_are_clipped_before_they_are_averaged():
    assert resample_to_square(np.array([[-3024, 0], [0, 32767]], np.int16), 1).tolist() == [
        [round((-1024 + 3071) / 4)]
    ]
    assert resample_to_square(np.array([[-3024, 0], [0, 32767]], np.int16), 2).tolist() == [
        [-1024, 0],
        [0, 3071],
    ]


@pytest.mark.parametrize(("side", "size"), [(7, 5), (64, 24), (512, 224), (5, 8), (3, 12)])
def test_other_factors_keep_mean_place_and_direction(side, size):
    flat = np.full((side, side), 37, np.int16)
    assert (resample_to_square(flat, size) == 37).all()
    y, x = np.mgrid[:side, :side]
    ramp = (5 * y - 2 * x).astype(np.int16)
    result = resample_to_square(ramp, size).astype(float)
    assert result.shape == (size, size) and abs(result.mean() - ramp.mean()) < 1
    # where the new pixels' centres lie among the old
    centre = (np.arange(size) + 0.5) * side / size - 0.5
    inner = slice(size // 4, -(size // 4))
    expected = 5 * centre[inner, None] - 2 * centre[None, inner]
    np.testing.assert_allclose(result[inner, inner], expected, atol=1.5)


@pytest.mark.parametrize(("shape", "top", "left"), [((2, 5), 1, 0), ((4, 1), 0, 1)])
def test_padding_is_air_around_the_middle(shape, top, left):
    hu = np.arange(1, np.prod(shape) + 1, dtype=np.int16).reshape(shape)
    square = pad_to_square(hu)
    assert square.shape == (max(shape),) * 2
    np.testing.assert_array_equal(square[top : top + shape[0], left : left + shape[1]], hu)
    assert (square == AIR_HU).sum() == square.size - hu.size


def test_measures_by_hand():
    hu = np.array([[-2000, -1, 0, 80], [81, 50, 49, 300], [301, 1000, 3000, -1000]], np.int16)
    padding, brain, skull, mean, std, blood = measure_slice(hu, 5.0)  # a pixel has 0.25 cm2
    assert (padding, brain, skull) == (-2000, 4 * 0.25, 3 * 0.25)
    assert mean == pytest.approx(44.75)
    assert std == pytest.approx(np.std([0, 80, 50, 49]))
    assert blood == 0.5
    assert measure_slice(hu, np.nan)[1:3] == (4, 3)


def test_a_slice_without_brain_has_no_mean():
    padding, brain, skull, *tissue = measure_slice(np.full((4, 4), -1000, np.int16), 0.5)
    assert (padding, brain, skull) == (-1000, 0, 0) and np.isnan(tissue).all()


def test_large_slices_are_measured_on_a_grid_at_the_same_scale():
    hu = np.full((512, 256), -1000, np.int16)
    hu[100:300, 50:150] = 30
    hu[300:320, 50:150] = 900
    assert measure_slice(hu, 0.5)[1:4] == pytest.approx((200 * 100 * 0.0025, 20 * 100 * 0.0025, 30))


@pytest.fixture
def source(tmp_path):
    """(folder, table) of seven slices; the fourth is truncated, the last has the 12-bit defect."""
    rng = np.random.default_rng(0)
    root = tmp_path / "root"
    shapes = [(32, 32), (32, 20), (16, 32), (32, 32), (64, 64), (50, 50), (32, 32)]
    for i, shape in enumerate(shapes):
        stored, tags = rng.integers(0, 2500, shape), {}
        if i == 6:
            stored, tags = (
                np.full(shape, 3096),
                {"signed": False, "bits": 12, "RescaleIntercept": 0},
            )
        write_slice(root / f"{i}.dcm", stored, **tags)
    (root / "3.dcm").write_bytes(slice_bytes(np.zeros((32, 32)))[:-100])
    table = pd.DataFrame(
        {"path": [f"{i}.dcm" for i in range(7)], "pixel_spacing_mm": np.float32(0.5)}
    )
    table.index = pd.Index([f"ID_{i}" for i in range(7)], name="slice_id")
    return root, table


@pytest.fixture
def cache(source, tmp_path, monkeypatch):
    """(PixelCache of three shards, measures, expected HU (7, 16, 16))."""
    monkeypatch.setattr(writer, "SHARD_SLICES", 3)
    root, table = source
    facts = write_cache(tmp_path / "cache", root, table, 16, workers=1)
    expected = [
        np.full((16, 16), AIR_HU)
        if i == 3
        else resample_to_square(read_hu(root / f"{i}.dcm")[0], 16)
        for i in range(7)
    ]
    return PixelCache(tmp_path / "cache"), facts, np.array(expected)


def test_what_is_written_is_read(cache):
    cache_reader, _, expected = cache
    result = cache_reader.read(np.arange(7))
    assert result.dtype == np.int16 and cache_reader.size == 16 and len(cache_reader) == 7
    np.testing.assert_array_equal(result, expected)
    assert cache_reader.slice_ids.tolist() == [f"ID_{i}" for i in range(7)]
    assert sorted(p.name for p in cache_reader.folder.iterdir()) == [
        "checksums.parquet",
        "index.parquet",
        "pixels.json",
        *[f"shard-0000{i}.blosc2" for i in range(3)],
    ]


@pytest.mark.parametrize("threads", [1, 2, 4, 16])
def test_any_order_any_number_of_threads(cache, threads):
    cache_reader, expected = PixelCache(cache[0].folder, threads), cache[2]
    numbers = np.array([6, 0, 0, 3, 5, 2, 6, 1, 4])
    out = np.full((9, 16, 16), 12345, np.int16)
    assert cache_reader.read(numbers, out) is out
    np.testing.assert_array_equal(out, expected[numbers])
    assert cache_reader.read(numbers[:0]).shape == (0, 16, 16)


@pytest.mark.parametrize("number", [-1, 7])
def test_numbers_out_of_range_are_refused(cache, number):
    with pytest.raises(IndexError, match=f"{number}"):
        cache[0].read([0, number])


@pytest.mark.parametrize(
    "out",
    [
        np.empty((1, 16, 16), np.int16),
        np.empty((2, 16, 16)),
        np.empty((2, 16, 32), np.int16)[:, :, ::2],
    ],
)
def test_an_unfit_buffer_is_refused(cache, out):
    with pytest.raises(ValueError, match="out must be"):
        cache[0].read([0, 1], out)


def test_the_measures_and_reasons_that_writing_returns(cache, source):
    _, facts, _ = cache
    assert facts.index.equals(source[1].index) and list(facts.columns) == [*PIXEL_COLUMNS, "reason"]
    assert facts["readable"].tolist() == [True] * 3 + [False] + [True] * 3
    assert facts["repaired_intercept"].tolist() == [False] * 6 + [True]
    assert (
        facts["reason"].tolist()
        == [""] * 3 + ["truncated pixel data: 1948 of 2048 bytes"] + [""] * 3
    )
    assert facts.loc["ID_3", list(PIXEL_COLUMNS)[2:]].isna().all()
    hu = read_hu(source[0] / "4.dcm")[0]
    assert facts.loc["ID_4", "skull_cm2"] == pytest.approx((hu > 300).sum() * 0.0025)
    assert facts["readable"].dtype == bool and facts["padding_hu"].dtype == np.float32


def test_the_same_bytes_with_one_worker_and_two(cache, source, tmp_path):
    done = []
    facts = write_cache(tmp_path / "again", *source, 16, workers=2, progress=done.append)
    assert done == [3, 6, 7]
    pd.testing.assert_frame_equal(facts, cache[1])
    for file in cache[0].folder.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_shard_that_ends_too_early_is_named(cache):
    cache_reader = cache[0]
    shard = cache_reader.folder / "shard-00001.blosc2"
    shard.write_bytes(shard.read_bytes()[:-20])
    cache_reader.read([0, 6])
    with pytest.raises(
        InputError, match="shard-00001.blosc2 is damaged or gone .it ends too early"
    ):
        cache_reader.read([5])


def test_a_flipped_bit_of_a_slice_is_noticed_before_it_is_decoded(cache):
    cache_reader = cache[0]
    shard = cache_reader.folder / "shard-00001.blosc2"
    data = bytearray(shard.read_bytes())
    index = pd.read_parquet(cache_reader.folder / "index.parquet")
    assert pd.read_parquet(cache_reader.folder / "checksums.parquet")["crc32"].tolist()[:3] == [
        zlib.crc32(blob) for blob in blobs(cache_reader.folder, index)[:3]
    ]
    # among the values of the second slice, where blosc2 detects nothing
    data[index["offset"].iloc[4] + 60] ^= 1
    shard.write_bytes(data)
    out = np.full((1, 16, 16), 12345, np.int16)
    with pytest.raises(
        InputError, match="shard-00001.blosc2 is damaged or gone .its checksum is another"
    ):
        cache_reader.read([4], out)
    assert (out == 12345).all()
    np.testing.assert_array_equal(cache_reader.read([5]), cache[2][[5]])


def blobs(folder, index):
    """Return the compressed slices of the first shard."""
    data = (folder / "shard-00000.blosc2").read_bytes()
    return [
        data[at : at + length] for at, length in zip(index["offset"], index["length"], strict=True)
    ]


def test_a_cache_of_an_earlier_version_has_no_checksums_and_is_read(cache):
    folder, expected = cache[0].folder, cache[2]
    (folder / "checksums.parquet").unlink()
    np.testing.assert_array_equal(PixelCache(folder).read(np.arange(7)), expected)


def test_a_record_tells_which_shard_it_is_of_and_whether_that_is_whole(source, tmp_path):
    root, table = source
    shard, record_path, part = tmp_path / "s" / "shard", tmp_path / "r.parquet", table.iloc[:3]
    files = Folder(root).select(part["path"].tolist())
    record = write_shard(shard, files, shard_parts(part)[0], 16).record
    write_table(record_path, record)
    pd.testing.assert_frame_equal(matching_record(record_path, part, 16), record)
    assert is_whole_shard(shard, record) and not is_whole_shard(tmp_path / "none", record)
    other_spacing = part.assign(pixel_spacing_mm=np.float32(0.6))
    for other, size in ((part, 17), (part.iloc[::-1], 16), (other_spacing, 16)):
        assert matching_record(record_path, other, size) is None
    shard.write_bytes(shard.read_bytes()[:-1])
    assert not is_whole_shard(shard, record)
    record_path.write_bytes(b"half a record")
    assert matching_record(record_path, part, 16) is None


def test_records_of_an_earlier_version_get_checksums(source, tmp_path):
    root, table = source
    files = Folder(root).select(table["path"].tolist())
    record = write_shard(tmp_path / "shard", files, shard_parts(table)[0], 16).record
    older = with_checksums(record.drop(columns="crc32"), tmp_path / "shard")
    pd.testing.assert_frame_equal(older[record.columns.tolist()], record)
    assert with_checksums(record, tmp_path / "none") is record


def test_a_missing_shard_is_named(cache):
    cache_reader = cache[0]
    (cache_reader.folder / "shard-00001.blosc2").unlink()
    cache_reader.read([0, 6])
    with pytest.raises(
        MachineFault,
        match="shard-00001.blosc2 is damaged or gone .*No such file.*remove it and run ingest",
    ):
        cache_reader.read([0, 4])


@pytest.mark.parametrize(
    ("code", "remedy"),
    [(errno.EMFILE, "ulimit -n"), (errno.EIO, "shard-00000"), (errno.ESTALE, "the disk")],
)
def test_a_cache_that_cannot_be_read_is_not_called_damaged(cache, monkeypatch, code, remedy):
    def fail(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(MachineFault, match=f"^the data cannot be read, .*{remedy}") as fault:
        cache[0].read([0])
    assert "damaged" not in str(fault.value) and "remove" not in str(fault.value)
    monkeypatch.undo()
    np.testing.assert_array_equal(cache[0].read([0]), cache[2][[0]])


@pytest.mark.parametrize("size", [16 * 16 * 2 - 2, 16 * 16 * 2 + 2, 1 << 30])
def test_a_slice_that_claims_another_size_is_not_decoded(cache, size):
    """blosc2 would write as many bytes as the header claims, even beyond the end of the batch."""
    cache_reader = cache[0]
    shard = cache_reader.folder / "shard-00000.blosc2"
    data = bytearray(shard.read_bytes())
    data[4:8] = size.to_bytes(4, "little")  # nbytes in the header of a blosc2 chunk
    shard.write_bytes(data)
    out = np.full((2, 16, 16), 12345, np.int16)
    with pytest.raises(InputError, match="shard-00000.blosc2 is damaged or gone .not a slice"):
        cache_reader.read([0], out[:1])
    assert (out == 12345).all()


@pytest.mark.parametrize("threads", [1, 4])
def test_nothing_writes_to_the_buffer_after_an_error(cache, threads):
    folder = cache[0].folder
    (folder / "shard-00000.blosc2").unlink()
    cache_reader, out = PixelCache(folder, threads), np.empty((200, 16, 16), np.int16)
    with pytest.raises(InputError, match="shard-00000"):
        cache_reader.read(np.array([0] + [5, 6] * 99 + [6]), out)
    out[:] = 12345
    time.sleep(0.02)
    assert (out == 12345).all()


def test_a_cache_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"pixels.json is not there"):
        PixelCache(tmp_path)


def descriptors(folder):
    """Return how many files below `folder` this process has open."""
    # the descriptor of the listing itself is closed by now
    files = [file for file in Path("/proc/self/fd").iterdir() if file.is_symlink()]
    return sum(os.readlink(file).startswith(str(folder)) for file in files)


linux = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files in /proc")


@linux
def test_shards_stay_open_and_are_closed_with_the_cache(cache):
    cache_reader, _, expected = cache
    assert descriptors(cache_reader.folder) == 0
    for _ in range(3):
        cache_reader.read(np.arange(7))
        assert descriptors(cache_reader.folder) == 3
    cache_reader.close()
    assert descriptors(cache_reader.folder) == 0
    np.testing.assert_array_equal(cache_reader.read(np.arange(7)), expected)  # opens them again
    cache_reader.close()


@linux
def test_an_unreferenced_cache_closes_its_shards_and_ends_its_threads(cache):
    folder, before = cache[0].folder, set(threading.enumerate())
    cache_reader = PixelCache(folder, 4)
    cache_reader.read(np.arange(7))
    threads = set(threading.enumerate()) - before
    assert descriptors(folder) == 3 and threads
    del cache_reader
    for thread in threads:
        thread.join(5)
    assert descriptors(folder) == 0 and not threads & set(threading.enumerate())


@linux
def test_no_more_shards_are_open_than_allowed(cache, monkeypatch):
    """Threads read shards that other threads push out of the cache of open shards."""
    monkeypatch.setattr(reader, "OPEN_SHARDS", 1)
    cache_reader, expected = PixelCache(cache[0].folder, 4), cache[2]
    for _ in range(20):
        numbers = np.random.default_rng(0).integers(0, 7, 64)
        np.testing.assert_array_equal(cache_reader.read(numbers), expected[numbers])
        assert descriptors(cache_reader.folder) == 1


def test_several_threads_read_at_once(cache):
    cache_reader, expected = PixelCache(cache[0].folder, 3), cache[2]
    rng = np.random.default_rng(0)
    with ThreadPoolExecutor(8) as pool:
        requests = [rng.integers(0, 7, rng.integers(0, 40)) for _ in range(60)]
        for numbers, result in zip(requests, pool.map(cache_reader.read, requests), strict=True):
            np.testing.assert_array_equal(result, expected[numbers])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_cache_survives_a_fork(cache):
    """As in a DataLoader's workers: a forked child has none of its parent's threads."""
    cache_reader, expected = PixelCache(cache[0].folder, 2), cache[2]
    cache_reader.read(np.arange(7))
    child = multiprocessing.get_context("fork").Process(
        target=_read_and_exit, args=(cache_reader, expected), daemon=True
    )
    child.start()
    child.join(20)
    assert child.exitcode == 0


def _read_and_exit(cache_reader, expected):
    # not `sys.exit`: pytest would go on in the child
    os._exit(0 if (cache_reader.read(np.arange(7)) == expected).all() else 1)
