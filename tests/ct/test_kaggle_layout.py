"""Find a competition: its folders and csv files, in a folder or below it."""

import os

import pytest

from ct.errors import InputError
from ct.kaggle_layout import find_competition


def write_layout(root, stage="stage_2"):
    """A competition's folders and csv files, with one empty file in each folder."""
    for part in ("train", "test"):
        (root / f"{stage}_{part}").mkdir(parents=True)
        (root / f"{stage}_{part}" / "ID_0.dcm").touch()
    (root / f"{stage}_train.csv").touch()
    (root / f"{stage}_sample_submission.csv").touch()
    return root


@pytest.mark.parametrize("prefix", ["", "x", "x/y/z"])
@pytest.mark.parametrize("stage", ["stage_2", "stage_1"])
def test_a_competition_is_found_under_a_prefix(tmp_path, prefix, stage):
    root = write_layout(tmp_path / "data" / prefix, stage)
    (tmp_path / "data/.cache").mkdir()
    (tmp_path / "data/__MACOSX").mkdir()
    competition = find_competition(tmp_path / "data")
    assert (competition.root, competition.train_dir) == (root, root / f"{stage}_train")
    assert (competition.test_dir, competition.labels_csv) == (
        root / f"{stage}_test",
        root / f"{stage}_train.csv",
    )
    assert competition.sample_csv == root / f"{stage}_sample_submission.csv"


def test_stage_2_supersedes_stage_1(tmp_path):
    write_layout(write_layout(tmp_path), "stage_1")
    assert find_competition(tmp_path).train_dir.name == "stage_2_train"


def test_csv_files_may_lie_elsewhere(tmp_path):
    root = write_layout(tmp_path / "data")
    (root / "stage_2_train.csv").rename(tmp_path / "labels.csv")
    (root / "stage_2_sample_submission.csv").rename(tmp_path / "sample.csv")
    labels, sample = tmp_path / "labels.csv", tmp_path / "sample.csv"
    competition = find_competition(root, str(labels), str(sample))
    assert (competition.labels_csv, competition.sample_csv) == (labels, sample)


@pytest.mark.parametrize(
    ("damage", "data", "message"),
    [
        (None, "nowhere", "does not exist"),
        (None, "data/stage_2_train.csv", "is a file"),
        (None, "data/stage_2_train", "name the folder around it"),
        (None, "empty", "is empty"),
        (
            "rm data/stage_2_train/ID_0.dcm && rmdir data/stage_2_train",
            "data",
            "no folder stage_2_train",
        ),
        (
            "rm data/stage_2_test/ID_0.dcm && rmdir data/stage_2_test",
            "data",
            "no folder stage_2_test",
        ),
        ("rm data/stage_2_train/ID_0.dcm", "data", "holds no files"),
        (
            "rm data/stage_2_test/ID_0.dcm; touch data/stage_2_test/.hidden",
            "data",
            "holds no files",
        ),
        ("rm data/stage_2_train.csv", "data", "stage_2_train.csv does not exist.*--labels"),
        (
            "rm data/stage_2_sample_submission.csv",
            "data",
            "sample_submission.csv does not exist.*--sample",
        ),
        ("mkdir two && cp -r data two/a && cp -r data two/b", "two", "several competitions"),
    ],
)
def test_what_is_missing_is_named_in_one_line(tmp_path, monkeypatch, damage, data, message):
    monkeypatch.chdir(tmp_path)
    write_layout(tmp_path / "data")
    (tmp_path / "empty").mkdir()
    if damage:
        assert os.system(damage) == 0
    with pytest.raises(InputError, match=message) as error:
        find_competition(data)
    assert "\n" not in str(error.value)
