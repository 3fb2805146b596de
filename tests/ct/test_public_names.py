"""Names that tables and reports may hold."""

import pandas as pd

from ct.privacy.pseudonyms import public_paths


def test_public_paths_hide_all_but_the_competitions_own_names():
    paths = [
        "stage_2_train/ID_00000a1b2.dcm",
        "stage_2_train/DOE_JOHN/1.dcm",
        "stage_1_test/1.2.840.dcm",
        "stage_2_train/x/ID_00000a1b2.dcm",
        "stage_2_train/ID_00000a1b.dcm",  # eight digits are nobody's slice
        "stage_2_train/ID_00000a1b2c.dcm",
        "stage_2_train/ID_00000a1b2.DOE",
    ]
    ids = [
        "ID_00000a1b2",
        "aaaaaaaaaaaa",
        "bbbbbbbbbbbb",
        "cccccccccccc",
        "dddddddddddd",
        "eeeeeeeeeeee",
        "ffffffffffff",
    ]
    shown = public_paths(pd.Series(paths, dtype=str), ids)
    assert list(shown) == [
        paths[0],
        *(f"{path.split('/')[0]}/{name}" for path, name in zip(paths[1:], ids[1:], strict=True)),
    ]
    assert list(public_paths(pd.Series([], dtype=str), [])) == []
