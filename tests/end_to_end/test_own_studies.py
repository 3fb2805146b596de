"""Studies of the user's own, with a label table and without a test set."""

import shutil
import tarfile

import pandas as pd
import pytest

import run
from ct.labels import LABELS, read_labels
from ct.storage.file_formats import read_table

SHORT = {
    "epidural": "EDH",
    "intraparenchymal": "IPH",
    "intraventricular": "IVH",
    "subarachnoid": "SAH",
    "subdural": "SDH",
}


def own_studies(train, folder):
    """A folder named after a person with the train files, and wide labels by file name."""
    shutil.copytree(train, folder / "data" / "DOE_JANE")
    labels = read_labels(train.with_name(f"{train.name}.csv"))[0]
    wide = labels.drop(columns="any").rename(columns=SHORT).iloc[:, ::-1].astype(int)
    wide["file"] = wide.index + ".dcm"
    wide.reset_index(drop=True).to_csv(folder / "wide.csv")
    return labels


def call(*words):
    return run.main([str(word) for word in words])


def test_labels_join_by_file_name_and_folders_stay_private(tmp_path, competition, capsys):
    labels = own_studies(competition / "stage_2_train", tmp_path)
    target, data = f"--run={tmp_path / 'r'}", f"--data={tmp_path / 'data'}"
    assert call("new", target, "--recipe=micro", data, f"--labels={tmp_path / 'wide.csv'}") == 0
    assert call("ingest", target, "--workers=1") == 0
    slices = read_table(tmp_path / "r" / "slices.parquet")
    assert (slices["split"] == "train").all()
    known = slices[list(LABELS)].sort_index()
    pd.testing.assert_frame_equal(known, labels.loc[known.index], check_names=False)
    assert slices["path"].str.startswith("own/").all()
    printed = capsys.readouterr()
    assert "labels by file, column file" in printed.out and "DOE_JANE" not in printed.out


def test_labels_of_studies_do_not_train(tmp_path, competition, capsys):
    own_studies(competition / "stage_2_train", tmp_path)
    wide = pd.read_csv(tmp_path / "wide.csv").drop(columns="file")[:1].assign(folder="DOE_JANE")
    wide.to_csv(tmp_path / "studies.csv", index=False)
    words = (f"--run={tmp_path / 'r'}", "--recipe=micro", f"--data={tmp_path / 'data'}")
    assert call("new", *words, f"--labels={tmp_path / 'studies.csv'}") == 1
    error = capsys.readouterr().err
    assert "labels of studies, not of slices" in error and error.count("\n") == 1
    assert call("new", *words) == 1
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
def test_real_studies_without_a_test_set_come_to_a_report(tmp_path, real_data, capsys):
    with tarfile.open(real_data / "rsna_mini.tar.xz") as archive:
        archive.extractall(tmp_path / "mini", filter="data")
    train = next((tmp_path / "mini").rglob("stage_2_train"))
    own_studies(train, tmp_path)
    target, data = f"--run={tmp_path / 'r'}", f"--data={tmp_path / 'data'}"
    assert call("new", target, "--recipe=micro", data, f"--labels={tmp_path / 'wide.csv'}") == 0
    assert call("all", target) == 0
    assert (tmp_path / "r" / "report.html").is_file()
    assert not (tmp_path / "r" / "submission.csv").exists()
    assert "there is nothing to submit: these are studies of your own" in capsys.readouterr().out
