"""Pseudonyms of identifiers, and the paths that tables and reports may hold."""

import re

import pandas as pd

from ct.privacy.pseudonyms import LegacyKey, pseudonym, public_paths

KEY = b"key"


def test_pseudonyms():
    for kind, digits in {"slice": 9, "patient": 8, "study": 10, "series": 10}.items():
        own = f"ID_{'0123456789abcdef'[-digits:]}"
        assert pseudonym(own, KEY, kind) == own
        text = "The quick brown fox jumps over the lazy dog"
        assert pseudonym(text, KEY, kind) == "f7bc83f43053"  # Wikipedia's example of HMAC
        others = (
            "ID_",
            "ID_xyz",
            "ID_0A",
            "xID_0",
            "1.2.840",
            "Müller",
            "\udcff",
            own[:-1],
            f"{own}0",
            own.upper(),
        )
        for other in (
            *others,
            f"{own} ",
            f"{own}\n",
            f" {own}",
            own.replace("I", "i"),
            f"{own[:-1]}g",
            f"{own[:-1]}٣",
        ):
            name = pseudonym(other, KEY, kind)
            assert len(name) == 12 and int(name, 16) >= 0
            assert name != pseudonym(other, b"another key", kind)
            # a run of an older version keeps any number of digits
            any_length = re.fullmatch("ID_[0-9a-f]+", other)
            assert pseudonym(other, LegacyKey(KEY), kind) == (other if any_length else name)


def test_public_paths_hide_all_but_the_competitions_own_names():
    paths = [
        "stage_2_train/ID_00000a1b2.dcm",
        "stage_2_train/DOE_JOHN/1.dcm",
        "stage_1_test/1.2.840.dcm",
        "stage_2_train/x/ID_00000a1b2.dcm",
        "stage_2_train/ID_00000a1b.dcm",  # eight digits: no slice of the competition
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
