"""The run that benchmarks/growth.py measures is one that the stages accept, and its lines."""

import pandas as pd
import pytest

from benchmarks.growth import Measured, at, grown
from benchmarks.large_tables.gold_run import header_rows, split_tables, write_headers
from benchmarks.large_tables.gold_stages import index
from benchmarks.large_tables.repeated_studies import made_up_studies
from ct.dicom.header_table import CHUNK_COLUMNS
from ct.labels import LABELS
from ct.slices import check_slice_table
from ct.storage.file_formats import read_table


@pytest.fixture(scope="module")
def tables():
    import numpy as np

    return split_tables(made_up_studies(np.random.default_rng(0), 20), 1500)


def test_the_index_of_its_headers_is_its_slice_table(tables, tmp_path):
    train, test = tables
    write_headers(tmp_path / "headers", train, test)
    cost, made = index(tmp_path)
    slices = read_table(made[0] / "slices.parquet")
    expected = pd.concat([train, test]).loc[slices.index]
    for name in (*LABELS, "split", "patient_id", "study_id", "place", "series_slices"):
        pd.testing.assert_series_equal(slices[name], expected[name], check_dtype=False)
    assert len(slices) == len(train) + len(test) and len(test) > 100
    check_slice_table(slices)
    assert cost.cpu > 0 and cost.memory > 0


def test_headers_are_in_the_form_that_ingest_keeps(tables):
    rows = header_rows("train", tables[0])
    assert list(rows.columns) == list(CHUNK_COLUMNS) and rows["path"].is_monotonic_increasing
    assert rows["path"].iloc[0] == f"stage_2_train/{rows.index[0]}.dcm"


def test_a_line_through_the_two_largest_sizes():
    sizes = [Measured(10, 9.0, 100, 5), Measured(20, 12.0, 150, 10), Measured(40, 22.0, 350, 20)]
    assert at(sizes, 400, "seconds") == pytest.approx(202)
    assert at(sizes, 400, "memory") == 3950 and at(sizes, 400, "disk") == 200
    # a slice costs .9, .6 and .55 s; 10, 7.5 and 8.75 bytes
    assert grown(sizes) == {
        "seconds": pytest.approx(0.55 / 0.6),
        "memory": pytest.approx(8.75 / 7.5),
    }
