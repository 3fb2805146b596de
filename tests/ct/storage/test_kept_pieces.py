"""Pieces of unfinished work: whole, damaged, or to be made again since a file may now be read."""

import pandas as pd
import pytest

from ct.storage.kept_pieces import is_damaged, is_kept, keep_piece, pieces_digest

TABLE = pd.DataFrame({"a": [1, 2]})


@pytest.fixture
def clock(monkeypatch):
    """A list whose last number is the time."""
    times = [100.0]
    monkeypatch.setattr("ct.storage.kept_pieces.time.time", lambda: times[-1])
    return times


def test_a_piece_is_kept_until_its_bytes_change(tmp_path):
    path = tmp_path / "chunks" / "0.parquet"
    assert not is_kept(path, since=0) and not is_damaged(path)
    keep_piece(path, TABLE, lasting=True)
    assert is_kept(path, since=1e12) and not is_damaged(path)
    path.write_bytes(path.read_bytes()[:-1])
    assert not is_kept(path, since=0) and is_damaged(path)
    keep_piece(path, TABLE, lasting=True)
    assert is_kept(path, since=0)
    path.with_name("0.parquet.seal").unlink()  # as of a process that was killed before the seal
    assert is_kept(path, since=0)


def test_a_piece_with_a_file_that_may_become_readable_counts_for_its_own_run_only(tmp_path, clock):
    path = tmp_path / "0.parquet"
    keep_piece(path, TABLE, lasting=False)
    assert is_kept(path, since=99) and is_kept(path, since=100) and not is_kept(path, since=101)
    assert not is_damaged(path)
    clock.append(200.0)
    keep_piece(path, TABLE, lasting=False)
    assert is_kept(path, since=101)
    keep_piece(path, TABLE, lasting=True)
    assert is_kept(path, since=1e12)
    keep_piece(path, TABLE, lasting=False)
    path.with_name("0.parquet.transient").write_text("half a ti")
    assert not is_kept(path, since=0)


def test_the_digest_of_pieces_is_of_their_content(tmp_path):
    paths = [tmp_path / "0.parquet", tmp_path / "1.parquet"]
    for path, table in zip(paths, (TABLE, TABLE + 1), strict=True):
        keep_piece(path, table, lasting=True)
    digest = pieces_digest(paths)
    assert pieces_digest(paths[::-1]) != digest
    keep_piece(paths[1], TABLE + 2, lasting=True)
    assert pieces_digest(paths) != digest
    keep_piece(paths[1], TABLE + 1, lasting=True)
    assert pieces_digest(paths) == digest
    paths[1].with_name("1.parquet.seal").unlink()
    assert pieces_digest(paths) == digest  # the seal holds the digest of the bytes
    paths[1].unlink()
    assert pieces_digest(paths) != digest
