"""The run that benchmarks/growth.py measures is one that the stages accept, and its lines."""

import numpy as np
import pandas as pd
import pytest

from benchmarks.growth import Measured, at, grown
from benchmarks.large_tables import import_stages
from benchmarks.large_tables.gold_run import header_rows, split_tables, write_headers
from benchmarks.large_tables.gold_stages import index
from benchmarks.large_tables.repeated_studies import made_up_studies
from ct.dicom.header_table import CHUNK_COLUMNS
from ct.labels import LABELS
from ct.run_dir import RunDir
from ct.slices import check_slice_table
from ct.storage.file_formats import read_array, read_json, read_table
from pipeline.stage_data.component_fits import read_fits


@pytest.fixture(scope="module")
def tables():
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


def test_the_run_of_imported_models_passes_its_stages(tmp_path, monkeypatch):
    monkeypatch.setattr(import_stages, "MAX_ROUNDS", 2)
    tables = split_tables(made_up_studies(np.random.default_rng(0), 20), 600)
    import_stages.write_imports(tmp_path, *tables, imports=3)
    run = RunDir(tmp_path / "run")
    for name, stage in import_stages.STAGES.items():
        if name != "blend":  # as for the recipe `gold`
            cost, made = stage(tmp_path)
            assert cost.cpu > 0 and all(path.exists() for path in made), name
    assert len(read_table(run.slices)) == len(tables[0]) + len(tables[1])
    names = list(read_json(run.stage2 / "features" / "names.json"))
    assert read_array(run.stage2 / "features" / "train.npy").shape == (len(tables[0]), len(names))
    assert len(names) == 789 and {"any_by_first", "any_by_import01", "any_by_last"} < set(names)
    assert read_json(run.stage2 / "tune" / "subdural-fold0.json")["trials"] == 1
    models = {path.name: read_fits(path) for path in run.fits.glob("*.safetensors")}
    assert set(models) == {"lightgbm-any.safetensors", "lightgbm-subdural.safetensors"}
    assert list(models["lightgbm-any.safetensors"]["any"].files) == [0]  # one outer fold
