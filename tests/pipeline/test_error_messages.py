"""Error lines name what the user typed and the program's files, nothing below the user's data."""

import errno
import os
import shutil

import pytest
from conftest import error_line
from tiny_zip import pack

import run
from ct.errors import InputError
from ct.kaggle_layout import find_competition, hidden_folders
from pipeline.command_line.error_messages import RECIPES, REMEDIES, shown_file


@pytest.mark.parametrize(
    ("name", "words", "shown"),
    [
        ("data/x", ["score", "--data=data", "--to=out"], "a file below data"),
        ("data", ["score", "--data=data"], "data"),
        ("data", ["score", "--data", "data", "--to=o"], "data"),
        ("labels.csv", ["new", "--labels=./labels.csv"], "./labels.csv"),
        ("r/key", ["ingest", "--run=r"], "r/key"),
        ("r/key", ["ingest", "--run", "r"], "r/key"),
        ("out/page.html.part", ["score", "--to=out"], "out/page.html.part"),
        ("outside", ["score", "--to=out"], "a file"),
        ("out.ich-stack.part", ["score", "--to=./out"], "./out"),
        ("out.ich-stack.part/stage_2_train/ID_a.dcm", ["synth", "--out=out"], "out"),
        ("d.ich-stack.part", ["score", "--to=out", "--data=d"], "a file"),
        ("a", ["new", "--run=a/b/r"], os.path.abspath("a")),
        ("runs/demo/key", ["demo"], "runs/demo/key"),
        ("runs/data/stage_2_train/DOE^JOHN.dcm", ["all", "--run=runs/a"], "a file"),
        ("runs/demo/DOE^JOHN.dcm", ["all", "--run=runs/a"], "a file"),
        ("r/data/DOE^JOHN.dcm", ["new", "--run=r", "--data=r/data"], "a file below r/data"),
        ("d/r/key", ["new", "--run=d/r", "--data=d"], "d/r/key"),
        ("d/DOE^JOHN.dcm", ["score", "--to=d", "--data=d"], "a file below d"),
        (f"{RECIPES}/x.yaml", ["new"], f"{RECIPES}/x.yaml"),
        (3, ["new"], "a file"),
        (b"data", ["new", "--data=data"], "a file"),
    ],
)
def test_which_files_are_named(name, words, shown):
    assert shown_file(name, words) == shown


def test_an_error_of_the_system_names_no_file_of_the_data(
    competition, tmp_path, capsys, monkeypatch
):
    def fail(data):
        raise OSError(
            errno.EIO, f"broken, '{data}/Jane Doe'", f"{data}/stage_2_test/Jane Doe/a.dcm"
        )

    monkeypatch.setattr("ct.kaggle_layout._descend", fail)
    assert (
        run.main(["new", f"--run={tmp_path / 'r'}", "--recipe=micro", f"--data={competition}"]) == 1
    )
    line = error_line(capsys)
    assert (
        line.startswith(f"error: a file below {competition}: input/output error")
        and "Jane" not in line
    )
    monkeypatch.setattr(
        "ct.kaggle_layout._descend",
        lambda data: (_ for _ in ()).throw(OSError(f"no, '{data}/Jane Doe'")),
    )
    assert (
        run.main(["new", f"--run={tmp_path / 'r'}", "--recipe=micro", f"--data={competition}"]) == 1
    )
    assert error_line(capsys) == "error: no\n"


@pytest.mark.parametrize(
    ("verb", "flag", "name", "number"),
    [
        ("new", "run", "y" * 300, errno.ENAMETOOLONG),
        ("new", "run", "round/x", errno.ELOOP),
        ("synth", "out", "y" * 300, errno.ENAMETOOLONG),
        ("synth", "out", "y" * 250, errno.ENAMETOOLONG),  # it is written under a longer name
    ],
)
def test_an_impossible_path_is_named_with_a_remedy(
    verb, flag, name, number, competition, tmp_path, capsys
):
    (tmp_path / "round").symlink_to("round")
    more = ["--recipe=micro", f"--data={competition}"] if verb == "new" else ["--studies=2"]
    assert run.main([verb, f"--{flag}={tmp_path / name}", *more]) == 1
    assert (
        error_line(capsys)
        == f"error: {tmp_path / name}: {os.strerror(number).lower()}; {REMEDIES[number]}\n"
    )


JANE = "Jane Doe/1961"


@pytest.fixture
def below(competition, tmp_path):
    """A competition below folders that are named after a person."""
    shutil.copytree(competition, tmp_path / "data" / JANE)
    return tmp_path / "data"


def test_folders_below_the_data_are_not_named(below, tmp_path, capsys):
    inner, words = (
        below / JANE,
        ["new", f"--run={tmp_path / 'r'}", "--recipe=micro", f"--data={below}"],
    )
    for name, spoilt, message in (
        (
            "stage_2_sample_submission.csv",
            None,
            f"--data={below}: stage_2_sample_submission.csv does not exist",
        ),
        (
            "stage_2_sample_submission.csv",
            "ID,Label\noops,1\n",
            f"{below}/stage_2_sample_submission.csv: row 'oops'",
        ),
        ("stage_2_train.csv", None, f"--data={below}: stage_2_train.csv does not exist"),
        ("stage_2_test", None, f"--data={below} has no folder stage_2_test"),
        ("stage_2_train", None, f"--data={below} holds no folder stage_2_train"),
    ):
        shutil.move(inner / name, tmp_path / "aside")
        if spoilt:
            (inner / name).write_text(spoilt)
        assert run.main(words) == 1
        line = error_line(capsys)
        assert message in line and "Jane" not in line and "1961" not in line, line
        (inner / name).unlink(missing_ok=True)
        shutil.move(tmp_path / "aside", inner / name)
    shutil.copytree(inner, below / "Jim Doe")
    shutil.move(below / JANE, below / "Jane")
    (below / "Jane Doe").rmdir()
    assert run.main(words) == 1
    line = error_line(capsys)
    assert "several competitions" in line and "Jane" not in line and "Jim" not in line


@pytest.mark.parametrize("zipped", [False, True])
def test_bad_labels_of_a_competition_below_are_named_without_its_folders(
    below, tmp_path, capsys, zipped
):
    csv = below / JANE / "stage_2_train.csv"
    csv.write_text(csv.read_text().replace(",1\n", ",2\n", 1))
    data = pack(below, tmp_path / "data.zip") if zipped else below
    assert run.main(["new", f"--run={tmp_path / 'r'}", "--recipe=micro", f"--data={data}"]) == 0
    assert run.main(["ingest", f"--run={tmp_path / 'r'}"]) == 1
    line = error_line(capsys)
    assert (
        f"{data}/stage_2_train.csv: " in line
        and "has the label '2'" in line
        and "Jane" not in line
        and "1961" not in line
    )


def test_other_errors_are_unchanged(below):
    with pytest.raises(InputError, match="^another line$"), hidden_folders(below):
        raise InputError("another line")
    with pytest.raises(InputError, match=f"^{below}/x/other.csv$"), hidden_folders(""):
        raise InputError(f"{below}/x/other.csv")
    assert find_competition(below).root == below / JANE


def test_train_files_are_named_by_pseudonym(below, tmp_path, capsys):
    """The line names the slice, not the path: unreadable header, slice in both sets, no labels."""
    inner, words = below / JANE, ["new", "--recipe=micro", f"--data={below}"]
    named = inner / "stage_2_train" / "Jane Doe"
    files = sorted((inner / "stage_2_train").glob("**/*.dcm"))
    named.mkdir()
    shutil.copy(files[0], inner / "stage_2_test" / "Jane Doe.dcm")
    assert (
        run.main([*words, f"--run={tmp_path / 'both'}"])
        == 0
        == run.main(["folds", f"--run={tmp_path / 'both'}"]) - 1
    )
    capsys.readouterr()
    assert run.main(["ingest", f"--run={tmp_path / 'both'}", "--workers=1"]) == 1
    line = error_line(capsys)
    assert "is in train and in test (stage_2_train/ID_" in line and "Jane" not in line, line
    (inner / "stage_2_test" / "Jane Doe.dcm").unlink()
    for file in files:
        file.unlink()
    (named / "Jane Doe.dcm").write_text("none")
    assert run.main([*words, f"--run={tmp_path / 'none'}"]) == 0
    assert run.main(["ingest", f"--run={tmp_path / 'none'}", "--workers=1"]) == 1
    line = error_line(capsys)
    assert (
        "no file of train has a header that reads; the first: train/" in line and "Jane" not in line
    ), line
