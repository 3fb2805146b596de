"""Tables of stage one name their kind; those of older versions hold probabilities."""

import numpy as np
import pandas as pd
import pytest

from ct.labels import LABELS
from ct.storage.file_formats import read_table, write_table
from ct.storage.prediction_files import kind_of, read_predictions_of, write_predictions

IDS = pd.Index(["ID_a", "ID_b", "ID_c"], name="slice_id")


def table_of(rows):
    values = np.repeat(np.array(rows, np.float32)[:, None], 6, axis=1)
    return pd.DataFrame(values, IDS, list(LABELS))


def test_logits_come_back_as_they_are_and_are_not_clipped(tmp_path):
    path = tmp_path / "logits.parquet"
    write_predictions(path, table_of([-40, np.nan, 0]), "logits")
    read = read_predictions_of(path)
    assert read.kind == "logits" and kind_of(read_table(path)) == "logits"
    np.testing.assert_array_equal(read.logits(1e-5)[:, 0], np.float32([-40, np.nan, 0]))
    # float32 probabilities would have 0 and 1 here, whose logits are lost
    np.testing.assert_allclose(read.probabilities()[:, 5], [np.exp(-40), np.nan, 0.5], rtol=1e-6)


def test_a_table_without_a_kind_holds_probabilities_which_are_clipped(tmp_path):
    older, named = tmp_path / "older.parquet", tmp_path / "named.parquet"
    p = table_of([0, np.nan, 0.5])
    write_table(older, p)
    write_predictions(named, p, "probabilities")
    for path in (older, named):
        read = read_predictions_of(path)
        assert read.kind == "probabilities"
        np.testing.assert_allclose(read.logits(1e-5)[:, 0], [-11.5129, np.nan, 0], atol=1e-3)
        np.testing.assert_array_equal(read.probabilities(), p)
    assert read_table(named).attrs and not read_table(older).attrs
    write_predictions(tmp_path / "unnamed.parquet", p, None)
    assert (tmp_path / "unnamed.parquet").read_bytes() == older.read_bytes()
    assert not p.attrs


def test_rows_are_joined_by_slice_id_and_keep_their_kind(tmp_path):
    write_predictions(tmp_path / "t.parquet", table_of([1, 2, 3]), "logits")
    read = read_predictions_of(tmp_path / "t.parquet", pd.Index(["ID_c", "ID_x", "ID_a"]))
    assert read.kind == "logits"
    np.testing.assert_array_equal(read.values[:, 0], np.float32([3, np.nan, 1]))


def test_a_kind_of_a_later_version_is_refused(tmp_path):
    table = table_of([1, 2, 3])
    table.attrs = {"predictions": "odds"}
    write_table(tmp_path / "t.parquet", table)
    with pytest.raises(ValueError, match="'odds', neither logits nor probabilities"):
        read_predictions_of(tmp_path / "t.parquet")
