"""Names that tables and reports may hold."""

import pandas as pd

from ct.header import public_paths


def test_public_paths_hide_all_but_the_competitions_own_names():
    paths = [
        "stage_2_train/ID_0a1b2c.dcm",
        "stage_2_train/DOE_JOHN/1.dcm",
        "stage_1_test/1.2.840.dcm",
        "stage_2_train/x/ID_0a.dcm",
    ]
    ids = ["ID_0a1b2c", "aaaaaaaaaaaa", "bbbbbbbbbbbb", "ID_0a"]
    shown = public_paths(pd.Series(paths, dtype=str), ids)
    assert list(shown) == [paths[0], "stage_2_train/aaaaaaaaaaaa", "stage_1_test/bbbbbbbbbbbb", "stage_2_train/ID_0a"]
    assert list(public_paths(pd.Series([], dtype=str), [])) == []
