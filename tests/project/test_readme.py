"""Every command of the README is one that works."""

import re
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import chromium as reader
import pytest
from conftest import ROOT, copy_tree

import run
from ct.submission import kaggle_command
from pipeline.command_line.flag_check import check_words
from pipeline.options import OPTIONS
from pipeline.recipe import RECIPES, find_recipe, load_recipe

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.S | re.M)
COMMANDS = [line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]
# not run: they need a GPU, or other data
SHOWN = [line for kind, block in BLOCKS if not kind for line in block.splitlines()]
PYTHON = ".venv/bin/python run.py "


def test_every_command_is_accounted_for():
    rest = [line for line in COMMANDS if not line.startswith(PYTHON)]
    assert rest == ["make demo", 'python3 -m venv .venv && .venv/bin/pip install -e ".[dev]"']
    makefile = (ROOT / "Makefile").read_text()
    assert "-m venv .venv" in makefile and '--editable ".[dev]"' in makefile  # make does the same


@pytest.mark.parametrize(
    "line", [line for line in COMMANDS + SHOWN if " run.py " in line and "torchrun" not in line]
)
def test_words_are_known_and_values_fit(line):
    verb, *words = shlex.split(re.sub(r"^.*?python run.py | > .*", "", line))
    check_words([verb, *words], run.VERBS)
    given = dict(word[2:].replace("-", "_").partition("=")[::2] for word in words)
    given = {name: value or True for name, value in given.items()}
    if verb in OPTIONS:
        OPTIONS[verb].model_validate(given)
    if "recipe" in given:
        load_recipe(find_recipe(given["recipe"]))


def test_every_recipe_is_listed_and_loads():
    names = sorted(path.stem for path in RECIPES.glob("*.yaml"))
    assert (
        sorted(re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]* \|$", README, re.M)[-len(names) :])
        == names
    )
    for name in names:
        assert load_recipe(find_recipe(name)).name == name


def test_links_within_the_page_find_their_section():
    titles = {
        re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^## (.+)", README, re.M)
    }
    found = re.findall(r"\]\(#([^)]+)\)", README)
    assert len(found) >= 3 and set(found) <= titles


def test_the_late_submission_is_the_one_that_submit_prints():
    assert kaggle_command("runs/gold/submission.csv", "ICH-Stack gold") in SHOWN


def test_pictures_and_linked_files_are_there():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).is_file(), target


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of what git tracks or would, with this environment."""
    folder = copy_tree(tmp_path_factory.mktemp("clone") / "ich-stack")
    # a stand-in of its own: make must not install the copy into the real one
    (folder / ".venv").mkdir()
    for entry in Path(sys.prefix).iterdir():
        if entry.name != "ready":
            (folder / ".venv" / entry.name).symlink_to(entry)
    (folder / ".venv" / "ready").touch()
    return folder


@pytest.mark.slow
def test_make_demo(clone):
    """`make demo` ends well, and stage two is worth its while."""
    import json

    done = subprocess.run(["make", "demo"], cwd=clone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    demo = clone / "runs" / "demo"
    assert (demo / "submission.csv").is_file() and (demo / "report.html").is_file()
    scores = json.loads((demo / "stage2" / "scores.json").read_text())
    assert scores["stage_two"]["weighted"]["loss"] < scores["calibrated"]["weighted"]["loss"]
    again = subprocess.run(["make", "demo"], cwd=clone, capture_output=True, text=True, check=True)
    assert "everything is fresh" in again.stdout


@pytest.mark.slow
@reader.NEEDED
def test_the_demos_report_in_a_browser(clone, browser, tmp_path):
    """With the maps of one study, that of the costliest slice."""
    pytest.importorskip("captum", reason="captum is not installed: pip install -e '.[explain]'")
    demo = clone / "runs" / "demo"
    study = re.search(r'href="#study=(\w+)&amp;slice=', (demo / "report.html").read_text())[1]
    for words in (["explain", f"--studies={study}", "--model=resnet"], ["report"]):
        assert run.main([*words, f"--run={demo}"]) == 0
    reader.walk(browser, (demo / "report.html").as_uri(), tmp_path)


@pytest.mark.slow
def test_the_commands_in_their_order(clone, real_data):
    """All lines run one after the other; the mini competition stands for Kaggle's data."""
    with tarfile.open(real_data / "rsna_mini.tar.xz") as archive:
        archive.extractall(clone / "rsna-intracranial-hemorrhage-detection", filter="data")
    for line in COMMANDS:
        if line.startswith(PYTHON):
            done = subprocess.run(
                line, shell=True, cwd=clone, capture_output=True, text=True, check=False
            )  # noqa: S602
            assert done.returncode == 0, f"{line}\n{done.stderr[-2000:]}"
