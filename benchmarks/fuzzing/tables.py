"""Damaged csv and parquet tables: slice lists, predictions, labels, sample submissions."""

import gzip
import io
import os
import zipfile
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.fuzzing.byte_damage import damaged, damaged_text, nasty
from ct.errors import InputError
from ct.labels import LABELS, read_labels
from ct.slices import order_slices
from ct.submission import read_sample
from ct.tables.prediction_table import read_predictions
from ct.tables.slice_list import read_slice_list

KEY, STUDIES, SLICES = b"key", 3, 4


def make_seeds(folder):
    """Return {name: DataFrame of text}."""
    rows = [(study, place) for study in range(STUDIES) for place in range(SLICES)]
    ids = [f"ID_{study:04x}{place:05x}" for study, place in rows]
    slices = pd.DataFrame(
        {
            "SOPInstanceUID": ids,
            "PatientID": [f"ID_{study:08x}" for study, _ in rows],
            "StudyInstanceUID": [f"ID_{study:010x}" for study, _ in rows],
            "SeriesInstanceUID": [f"ID_a{study:09x}" for study, _ in rows],
            "ImagePositionPatient": [f"['-125.0', '-10.5', '{5.0 * place}']" for _, place in rows],
            "ImageOrientationPatient": "['1', '0', '0', '0', '0.95', '-0.3']",
            "PixelSpacing": "['0.5', '0.5']",
            "WindowCenter": "40",
            "RescaleIntercept": "-1024",
            **dict.fromkeys(LABELS, "0"),
            "fold": [str(study % 2) for study, _ in rows],
        }
    )
    oof = pd.DataFrame(
        {
            "SOPInstanceUID": ids,
            **dict.fromkeys(LABELS, "0.25"),
            "fold": [str(study % 2) for study, _ in rows],
        }
    )
    long = pd.DataFrame(
        {"ID": [f"{name}_{label}" for name in ids for label in LABELS], "Label": "0"}
    )
    return {
        "slices": slices,
        "oof": oof,
        "long": long,
        "labels": long,
        "sample": long.assign(Label="0.5"),
    }


def mutate(rng, seeds, folder):
    """Write one damaged table."""
    name = str(rng.choice(list(seeds)))
    table, how = seeds[name].astype(object), int(rng.integers(4))
    what = []
    if how in (0, 3):
        table, done = _other_cells(rng, table)
        what.append(done)
    if name in ("slices", "oof", "long") and rng.random() < 0.4:
        raw, done = _parquet(rng, table)
        path, what = folder / f"{name}.parquet", [*what, done]
        if how in (1, 3):
            raw, done = damaged(rng, raw, tail=0.7)
            what.append(done)
    else:
        text = table.to_csv(
            index=bool(rng.random() < 0.1),
            sep=str(rng.choice([",", ",", ",", ",", ",", ";", "\t"])),
        )
        if how == 2:
            text, done = damaged_text(rng, text)
            what.append(done)
        raw = text.encode(
            str(rng.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32"])), "surrogatepass"
        )
        packing = str(rng.choice(["", "", ".gz", ".zip"]))
        raw, path = _packed(raw, packing), folder / f"{name}.csv{packing}"
        if how in (1, 3):
            raw, done = damaged(rng, raw)
            what.append(done)
    path.write_bytes(raw)
    return f"{path.name}: {', '.join(what)}"


def _other_cells(rng, table):
    """Replace cells, rename, repeat, drop columns, repeat rows."""
    kind, column = int(rng.integers(6)), int(rng.integers(table.shape[1]))
    if kind < 3:
        for _ in range(int(rng.choice([1, 2, 12]))):
            table.iloc[int(rng.integers(len(table))), column] = nasty(rng)
        return table, f"cells of {table.columns[column]}"
    if kind == 3:
        names = [
            nasty(rng)[:200] if number == column else name
            for number, name in enumerate(table.columns)
        ]
        return table.set_axis(pd.Index(names, dtype=object), axis=1), "a column renamed"
    if kind == 4:
        return table.iloc[:, [*range(table.shape[1]), column]], "a column twice"
    return table.iloc[[*range(len(table)), int(rng.integers(len(table)))]], "a row twice"


def _parquet(rng, table):
    """Return a parquet file's bytes, with columns of odd types."""
    names, columns, done = [_utf8(name) for name in table.columns], [], "parquet"
    for number in range(table.shape[1]):
        column = pa.array([_utf8(v) for v in table.iloc[:, number]])
        kind = int(rng.integers(14)) if rng.random() < 0.15 else -1
        if kind == 0:
            column = column.dictionary_encode()
        elif kind == 1:
            column = pa.array([None if i % 3 else v for i, v in enumerate(column.to_pylist())])
        elif kind == 2:
            column = pa.array([[v] for v in column.to_pylist()])
        elif kind == 3:
            column = pa.array([{"a": v} for v in column.to_pylist()])
        elif kind == 4:
            column = pa.array([v.encode() for v in column.to_pylist()])
        elif kind == 5:
            column = pa.nulls(len(column))
        elif kind >= 6:
            bits = np.arange(len(column)) % 2
            types = [
                bool,
                np.int8,
                np.uint64,
                np.float16,
                np.float64,
                "datetime64[D]",
                "datetime64[ns]",
            ]
            column = pa.array(
                [Decimal(int(bit)) for bit in bits] if kind == 13 else bits.astype(types[kind - 6])
            )
        done += f" {kind}" * (kind >= 0)
        columns.append(column)
    out = io.BytesIO()
    pq.write_table(
        pa.Table.from_arrays(columns, names=names),
        out,
        row_group_size=int(rng.choice([1, 5, 1000])),
    )
    return out.getvalue(), done


def _utf8(text):
    return str(text).encode("utf-8", "replace").decode()


def _packed(raw, packing):
    if packing == ".gz":
        return gzip.compress(raw, mtime=0)
    if packing == ".zip":
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("table.csv", raw)
        return out.getvalue()
    return raw


def attempt(folder):
    """Read the table by its name."""
    os.chdir(folder)
    path = next(Path().iterdir())
    try:
        match path.name.partition(".")[0]:
            case "slices":
                order_slices(read_slice_list(path, KEY))
            case "labels":
                read_labels(path)
            case "sample":
                read_sample(path)
            case _:
                read_predictions(path, "oof")
    except InputError as error:
        return str(error)
    return ""
