"""The file formats of a run folder: parquet, .npy, safetensors, JSON, YAML, text.

Each write is atomic: a `.part` file is flushed and renamed (ct/storage/atomic_write.py).
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import DTypeLike, NDArray
from pyarrow.parquet import read_metadata
from safetensors.numpy import load_file, save_file

from ct.errors import InputError
from ct.storage.atomic_write import replacing


def write_table(path: Path | str, table: pd.DataFrame, lasting: bool = True) -> None:
    """Write a DataFrame as parquet, with its index. lasting: as in `replacing`."""
    with replacing(path, lasting) as part:
        table.to_parquet(part, compression="zstd")


def read_table(path: Path | str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a parquet table, or some of its columns, with its index."""
    return pd.read_parquet(require(path), columns=columns)


def table_rows(path: Path | str) -> int:
    """Return the number of rows of a parquet table."""
    return int(read_metadata(require(path)).num_rows)


def write_array(path: Path | str, array: NDArray[Any]) -> None:
    """Write an array as .npy."""
    with replacing(path) as part, open(part, "wb") as file:
        np.save(file, array, allow_pickle=False)


def read_array(path: Path | str) -> NDArray[Any]:
    """Open a .npy array as a read-only memory map."""
    return np.load(require(path), mmap_mode="r", allow_pickle=False)


def new_memory_map(
    path: Path | str, dtype: DTypeLike, shape: tuple[int, ...], fortran_order: bool = False
) -> "np.memmap[Any, np.dtype[Any]]":
    """Return a new .npy file as a memory map to fill. Raises OSError where the disk is too full.

    The disk space is reserved first: on a full disk, writing to a map of a sparse file would end
    the process by SIGBUS.
    """
    array = np.lib.format.open_memmap(path, "w+", dtype, shape, fortran_order)
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    return array


def join_arrays(path: Path | str, parts: Sequence[Path | str]) -> None:
    """Concatenate .npy files along the first axis into one .npy file.

    Only one of them is in memory at a time.
    """
    shapes = [read_array(part) for part in parts]
    rows = sum(len(array) for array in shapes)
    with replacing(path) as target:
        whole = new_memory_map(target, shapes[0].dtype, (rows, *shapes[0].shape[1:]))
        start = 0
        for part in parts:
            array = read_array(part)
            whole[start : start + len(array)] = array
            start += len(array)
        whole.flush()
        del whole


def write_arrays(path: Path | str, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a dict of arrays as safetensors."""
    with replacing(path) as part:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, part)


def read_arrays(path: Path | str) -> dict[str, NDArray[Any]]:
    """Read the dict of arrays of a safetensors file."""
    return load_file(require(path))


def write_json(path: Path | str, value: Any) -> None:
    """Write plain values as JSON, keys in their order; NaN and infinity become null."""
    with replacing(path) as part:
        part.write_text(
            json.dumps(plain_values(value), indent=1, allow_nan=False) + "\n", encoding="utf-8"
        )


def read_json(path: Path | str) -> Any:
    """Read a JSON file."""
    return json.loads(require(path).read_text(encoding="utf-8"))


def write_yaml(path: Path | str, value: Any) -> None:
    """Write plain values as YAML, keys in their order."""
    with replacing(path) as part:
        part.write_text(yaml.safe_dump(value, sort_keys=False, width=120), encoding="utf-8")


def write_text(path: Path | str, text: str, lasting: bool = True) -> None:
    """Write a text file. lasting: as in `replacing`."""
    with replacing(path, lasting) as part:
        part.write_text(text, encoding="utf-8")


def require(path: Path | str) -> Path:
    """Return `path`. Raises InputError where it does not exist."""
    path = Path(path)
    if not path.exists():
        raise InputError(
            f"{path} is not there; run the stage that makes it first (`status` shows which)"
        )
    return path


def plain_values(value: Any) -> Any:
    """Return a value as JSON types: str keys, lists, Python numbers; None for NaN and infinity."""
    if isinstance(value, dict):
        return {str(k): plain_values(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain_values(v) for v in value]
    if isinstance(value, np.generic):
        return plain_values(value.item())
    return None if isinstance(value, float) and not np.isfinite(value) else value
