"""File formats: what is written is read back, failed writes leave nothing, no pickle."""

import json
import pickle

import numpy as np
import pandas as pd
import pytest
import yaml

from ct.errors import InputError
from ct.storage.file_formats import (
    read_array,
    read_arrays,
    read_json,
    read_table,
    require,
    write_array,
    write_arrays,
    write_json,
    write_table,
    write_text,
    write_yaml,
)


class Broken(Exception):
    """Raised during a write."""


class Unwritable:
    """Cannot be written in any format."""

    def to_parquet(self, part, **_):
        part.write_bytes(b"half a tab")
        raise Broken

    def __array__(self, *args, **kwargs):
        raise Broken


def names(folder):
    return sorted(p.name for p in folder.iterdir())


WRITERS = {  # function, a value that it can write, one that it cannot
    "table": (write_table, pd.DataFrame({"a": [1]}), Unwritable()),
    "array": (write_array, np.arange(3), np.array([{"an": "object"}], dtype=object)),
    "json": (write_json, {"a": 1}, {"a": object()}),
    "yaml": (write_yaml, {"a": 1}, {"a": object()}),
    "text": (write_text, "text", 17),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_failed_write_leaves_neither_a_file_nor_a_changed_one(tmp_path, kind):
    write, good, bad = WRITERS[kind]
    path = tmp_path / "a" / "file"
    with pytest.raises((Broken, ValueError, TypeError, yaml.YAMLError)):
        write(path, bad)
    assert names(tmp_path / "a") == []
    write(path, good)
    before = path.read_bytes()
    with pytest.raises((Broken, ValueError, TypeError, yaml.YAMLError)):
        write(path, bad)
    assert path.read_bytes() == before
    assert names(tmp_path / "a") == ["file"]


def test_formats_round_trip(tmp_path):
    table = pd.DataFrame(
        {"a": np.float32([1, np.nan]), "s": ["x", "ü"]},
        index=pd.Index(["ID_1", "ID_2"], name="slice_id"),
    )
    write_table(tmp_path / "t.parquet", table)
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.parquet"), table)
    array = np.float32([[1, np.nan], [-np.inf, 3]])
    write_array(tmp_path / "a.npy", array)
    back = read_array(tmp_path / "a.npy")
    assert isinstance(back, np.memmap) and back.dtype == np.float32
    np.testing.assert_array_equal(back, array)
    with pytest.raises(ValueError, match="read-only"):
        back[0, 0] = 2
    # a test set without slices
    write_array(tmp_path / "none.npy", np.zeros((3, 0, 5), np.float32))
    assert read_array(tmp_path / "none.npy").shape == (3, 0, 5)
    arrays = {"a": array.T, "b": np.int16([1, 2])}  # not contiguous
    write_arrays(tmp_path / "a.safetensors", arrays)
    back = read_arrays(tmp_path / "a.safetensors")
    assert set(back) == set(arrays)
    assert all(np.array_equal(back[k], v, equal_nan=True) for k, v in arrays.items())
    write_yaml(tmp_path / "y.yaml", {"b": 1, "a": [1, 2]})
    assert (tmp_path / "y.yaml").read_text().startswith("b: 1\na:")


def test_json_takes_numpy_and_writes_nan_as_null(tmp_path):
    value = {
        "z": np.float32(0.5),
        "a": np.array([1, 2]),
        3: (np.int64(4), float("nan"), np.float64("inf"), None, True, np.bool_(1)),
    }
    write_json(tmp_path / "j.json", value)
    text = (tmp_path / "j.json").read_text()
    assert json.loads(text) == {"z": 0.5, "a": [1, 2], "3": [4, None, None, None, True, True]}
    assert list(json.loads(text)) == ["z", "a", "3"]
    assert "NaN" not in text and text.endswith("}\n")
    assert read_json(tmp_path / "j.json") == json.loads(text)


def test_no_pickle_is_written_or_read(tmp_path):
    objects = np.array([{"an": "object"}], dtype=object)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        write_array(tmp_path / "o.npy", objects)
    np.save(tmp_path / "foreign.npy", objects, allow_pickle=True)
    with pytest.raises(ValueError):
        read_array(tmp_path / "foreign.npy")
    (tmp_path / "plain.npy").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(ValueError):
        read_array(tmp_path / "plain.npy")


@pytest.mark.parametrize("read", [read_table, read_array, read_arrays, read_json, require])
def test_a_missing_file_is_an_input_error(tmp_path, read):
    with pytest.raises(InputError, match=r"x\.any is not there; run the stage that makes it first"):
        read(tmp_path / "x.any")
