"""A job runs again only where its inputs, its part of the recipe or its files have changed."""

import os

import pytest

from pipeline.freshness import changed_file, file_digest, first_difference, tree_digest, why_stale
from pipeline.receipt import Receipt


def job(root, part, read, text="made"):
    with Receipt(root, root / "receipts/job.json", "job", part, read) as receipt:
        (root / "out.txt").write_text(text)
        receipt.made = [root / "out.txt"]
    return root / "receipts/job.json"


PART, READ = {"stage2": {"trials": 3, "names": ["a", "b"]}}, {"in.txt": "d1"}


def test_unchanged_is_fresh(tmp_path):
    receipt = job(tmp_path, PART, READ)
    assert why_stale(tmp_path, receipt, PART, READ) == ""


@pytest.mark.parametrize(
    ("part", "read", "message"),
    [
        (
            {"stage2": {"trials": 4, "names": ["a", "b"]}},
            READ,
            "recipe changed, stage2.trials: 3 -> 4",
        ),
        (
            {"stage2": {"trials": 3, "names": ["a", "c"]}},
            READ,
            "recipe changed, stage2.names.1: b -> c",
        ),
        ({"stage2": {"trials": 3}}, READ, "recipe changed, stage2.names: ['a', 'b'] -> nothing"),
        (PART, {"in.txt": "d2"}, "in.txt changed"),
        (PART, {"in.txt": "d1", "more.txt": "d3"}, "more.txt changed"),
        (PART, {}, "in.txt changed"),
    ],
)
def test_changes_are_named(tmp_path, part, read, message):
    assert why_stale(tmp_path, job(tmp_path, PART, READ), part, read) == message


def test_a_changed_output_makes_a_job_stale(tmp_path):
    receipt = job(tmp_path, PART, READ)
    os.utime(tmp_path / "out.txt", (1, 1))  # touched, but the same
    assert why_stale(tmp_path, receipt, PART, READ) == ""
    (tmp_path / "out.txt").write_text("else")
    assert why_stale(tmp_path, receipt, PART, READ) == "out.txt was changed by hand"
    (tmp_path / "out.txt").unlink()
    assert why_stale(tmp_path, receipt, PART, READ) == "out.txt is gone"
    receipt.unlink()
    assert why_stale(tmp_path, receipt, PART, READ) == "not made yet"


def test_a_failed_job_keeps_its_receipt_only_if_its_files_are_unchanged(tmp_path):
    receipt = job(tmp_path, PART, READ)
    with pytest.raises(RuntimeError), Receipt(tmp_path, receipt, "job", PART, {"in.txt": "d9"}):
        assert not receipt.exists()  # a kill at this point leaves none
        raise RuntimeError
    assert why_stale(tmp_path, receipt, PART, READ) == ""
    with pytest.raises(RuntimeError), Receipt(tmp_path, receipt, "job", PART, READ):
        (tmp_path / "out.txt").write_text("half")
        raise RuntimeError
    assert why_stale(tmp_path, receipt, PART, READ) == "not made yet"


@pytest.mark.parametrize("text", ["", "{}", "[1", '{"recipe": 1}'])
def test_a_damaged_receipt_counts_as_missing(tmp_path, text):
    receipt = job(tmp_path, PART, READ)
    receipt.write_text(text)
    assert why_stale(tmp_path, receipt, PART, READ) == "not made yet"


def test_folders_are_stamped_file_by_file(tmp_path):
    for name in ("b", "a/c"):
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text(name)
    with Receipt(tmp_path, tmp_path / "r.json", "job", {}, {}) as receipt:
        receipt.made = [tmp_path / "out"]
    made = receipt.values["made"]
    assert list(made) == ["out/a/c", "out/b"] and made["out/b"]["digest"] == file_digest(
        tmp_path / "out/b"
    )
    assert changed_file(tmp_path, made) == ""
    assert {"seconds", "peak_memory_mb", "versions", "commit", "finished"} <= set(receipt.values)


def test_tree_digest_changes_with_names_sizes_and_times(tmp_path):
    (tmp_path / "a").write_text("12")
    os.utime(tmp_path / "a", (1, 1))
    first = tree_digest(tmp_path, ["a"])
    (tmp_path / "a").write_text("123")
    os.utime(tmp_path / "a", (1, 1))
    longer = tree_digest(tmp_path, ["a"])
    os.utime(tmp_path / "a", (2, 2))
    later = tree_digest(tmp_path, ["a"])
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({first, longer, later, tree_digest(tmp_path, ["b"])}) == 4


def test_first_difference_of_equal_values_is_nothing():
    assert first_difference({"a": [1, {"b": None}]}, {"a": [1, {"b": None}]}) == ""
