"""Csv files for spreadsheet programs: no cell is a formula, and private files stay private."""

import os
import shutil
import stat

import numpy as np
import pandas as pd
import pytest
from tiny_dicom import write_slice

import run
from ct.storage.atomic_write import replacing
from ct.tables.spreadsheet import read_sheet, write_sheet
from pipeline.run_context import Run

FORMULAS = ["=1+2", "+4711", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1", "'=1", "''-x"]
PLAIN = ["", "a=b", "'quoted", "stage_2_train/ID_0a.dcm", 'x"y,z', "O'Neill", "two\nlines", "a\r=b"]


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_no_cell_starts_like_a_formula_and_all_are_read_back(tmp_path):
    table = pd.DataFrame({"path": FORMULAS + PLAIN, "kind": "pixels"})
    write_sheet(tmp_path / "a.csv", table, index=False)
    cells = pd.read_csv(tmp_path / "a.csv", dtype=str, keep_default_na=False)["path"]
    assert not cells.str.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d")).any()
    assert cells[len(FORMULAS) :].tolist() == PLAIN  # other cells are unchanged
    pd.testing.assert_frame_equal(read_sheet(tmp_path / "a.csv"), table, check_dtype=False)


def test_numbers_stay_numbers_and_an_index_is_text_as_well(tmp_path):
    index = pd.Index(["=a", "b"], name="study_id")
    write_sheet(
        tmp_path / "a.csv",
        pd.DataFrame({"mm": [-2.5, np.nan], "yes": [True, False], "what": [None, "-x"]}, index),
    )
    assert (
        tmp_path / "a.csv"
    ).read_text() == "study_id,mm,yes,what\n'=a,-2.5,True,\nb,,False,'-x\n"


def test_a_plain_table_has_the_bytes_that_pandas_writes(tmp_path):
    plain = [cell for cell in PLAIN if "\r" not in cell]
    table = pd.DataFrame({"path": plain, "mm": np.linspace(-1, 1, len(plain))})
    for index in (True, False):
        write_sheet(tmp_path / "a.csv", table, index)
        table.to_csv(tmp_path / "b.csv", index=index)
        assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_a_table_without_rows_is_read_back(tmp_path):
    write_sheet(
        tmp_path / "a.csv", pd.DataFrame(columns=["path", "reason"], dtype=str), index=False
    )
    assert list(read_sheet(tmp_path / "a.csv")) == ["path", "reason"]
    assert read_sheet(tmp_path / "a.csv").empty


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_a_private_file_is_private_before_it_has_its_name(tmp_path, umask, monkeypatch):
    modes = []
    to_csv = pd.DataFrame.to_csv

    def write_and_check(self, file, **how):
        to_csv(self, file, **how)
        modes.append(stat.S_IMODE(os.fstat(file.fileno()).st_mode))

    monkeypatch.setattr(pd.DataFrame, "to_csv", write_and_check)
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "a.csv") as part:
            write_sheet(part, pd.DataFrame({"path": ["a"]}), private=True)
        write_sheet(tmp_path / "b.csv", pd.DataFrame({"path": ["a"]}))
    finally:
        os.umask(before)
    assert modes == [0o600, 0o666 & ~umask] and mode(tmp_path / "a.csv") == 0o600


def test_an_existing_file_is_not_used_as_a_private_one(tmp_path):
    """Another user could have created the file, and read it."""
    (tmp_path / "a.csv").touch()
    with pytest.raises(FileExistsError):
        write_sheet(tmp_path / "a.csv", pd.DataFrame({"path": ["a"]}), private=True)


def test_files_with_names_of_people_are_readable_by_their_owner_alone(
    finished, competition, tmp_path
):
    before = os.umask(0)
    try:
        assert (
            run.main(["new", f"--run={tmp_path / 'r'}", "--recipe=micro", f"--data={competition}"])
            == 0
        )
        assert run.main(["ingest", f"--run={tmp_path / 'r'}", "--workers=1"]) == 0
        data = shutil.copytree(competition / "stage_2_test", tmp_path / "data")
        write_slice(data / "=cmd.dcm", name="1.2.3", Rows=None)
        assert (
            run.main(["score", f"--run={finished}", f"--data={data}", f"--to={tmp_path / 'out'}"])
            == 0
        )
    finally:
        os.umask(before)
    for name in ("r/quarantine.csv", "r/key", "out/quarantine.csv", "out/names.csv"):
        assert mode(tmp_path / name) == 0o600, name
    assert "'=cmd.dcm" in (tmp_path / "out/quarantine.csv").read_text()
    assert "=cmd.dcm" in read_sheet(tmp_path / "out/quarantine.csv")["path"].tolist()
    assert mode(Run(tmp_path / "r").dir.slices) == 0o666  # pseudonyms only


def test_an_unfinished_ingest_is_its_owners_alone(competition, tmp_path, monkeypatch):
    """Its work folder holds the paths of all files."""

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.ingestion.pixel_units.write_shard", stop)
    before = os.umask(0)
    try:
        assert (
            run.main(["new", f"--run={tmp_path / 'r'}", "--recipe=micro", f"--data={competition}"])
            == 0
        )
        assert run.main(["ingest", f"--run={tmp_path / 'r'}", "--workers=1"]) == 130
    finally:
        os.umask(before)
    assert mode(tmp_path / "r/ingest.part") == 0o700
    assert any((tmp_path / "r/ingest.part").rglob("*.parquet"))
