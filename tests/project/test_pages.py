"""Every command, link and recipe of README.md, docs/ and their neighbours is one that works."""

import re
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import browser_steps
import pytest
from conftest import ROOT, copy_tree
from tiny_zip import pack

import run
from ct.kaggle_layout import ARCHIVE
from ct.submission import kaggle_command
from pipeline.checked_options import OPTIONS
from pipeline.command_line.flag_check import check_words
from pipeline.recipe import RECIPES, find_recipe, load_recipe

README = (ROOT / "README.md").read_text(encoding="utf-8")
# in the order in which a reader of all of them calls their commands
NAMES = [
    "README.md",
    "docs/kaggle.md",
    "docs/own-studies.md",
    "docs/command-line.md",
    "docs/training.md",
    "docs/scaling.md",
    "docs/stacking.md",
    "docs/recipes.md",
    "docs/architecture.md",
    "docs/extending.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
]
PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in NAMES}
PYTHON = ".venv/bin/python run.py "
RUN_ELSEWHERE = (  # benchmarks that `make bench` does not list
    "benchmarks.fault_injection.signal_at_rename",  # by faults
    "benchmarks.gpu.gpu_checks",  # by make gpu
    "benchmarks.growth",  # by scale_out
    "benchmarks.stacking.simulated_cnns",  # by stack_gain
    "benchmarks.stacking.swapped_labels",  # by hand: a question that is answered
)


def lines_of(*kinds):
    """Every line of the pages' code blocks of these kinds, each once, in order."""
    lines = {}
    for page in PAGES.values():
        for kind, block in re.findall(r"^```(\w*)\n(.*?)^```", page, re.S | re.M):
            if kind in kinds:
                lines.update(dict.fromkeys(block.splitlines()))
    return list(lines)


COMMANDS = lines_of("sh")  # run by test_the_commands_in_their_order
SHOWN = lines_of("")  # not run: they need a GPU, or other data


def titles(page):
    """The anchors that GitHub gives to a page's headings."""
    return {
        re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^##+ (.+)", page, re.M)
    }


def test_every_command_is_accounted_for():
    rest = [line for line in COMMANDS if not line.startswith(PYTHON)]
    made = 'python3 -m venv .venv && .venv/bin/pip install -e ".[dev]"'
    assert rest[:2] == ["make demo", made]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "-m venv .venv" in makefile and '--editable ".[dev]"' in makefile  # make does the same
    # what CONTRIBUTING.md shows beside them is a target of the Makefile
    targets = set(re.findall(r"^([\w-]+):", makefile, re.M))
    for line in rest[2:]:
        assert re.fullmatch(r"make [\w-]+", line) and line.split()[1] in targets, line


@pytest.mark.parametrize(
    "line", [line for line in COMMANDS + SHOWN if " run.py " in line and "torchrun" not in line]
)
def test_words_are_known_and_values_fit(line):
    verb, *words = shlex.split(re.sub(r"^.*?python run.py | > .*", "", line))
    check_words([verb, *words], run.VERBS)
    values = dict(word[2:].replace("-", "_").partition("=")[::2] for word in words)
    values = {name: value or True for name, value in values.items()}
    if verb in OPTIONS:
        OPTIONS[verb].model_validate(values)
    if "recipe" in values:
        load_recipe(find_recipe(values["recipe"]))


def test_every_recipe_is_listed_and_loads():
    names = sorted(path.stem for path in RECIPES.glob("*.yaml"))
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]* \|$", PAGES["docs/recipes.md"], re.M)
    assert sorted(rows) == names
    for name in names:
        assert load_recipe(find_recipe(name)).name == name


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_files_and_headings(name):
    links = re.findall(r"\]\((?!\w+:)([^)#]*)(?:#([^)]+))?\)", PAGES[name])
    for target, heading in links:
        path = ((ROOT / name).parent / target).resolve() if target else ROOT / name
        assert path.is_file(), target
        if heading:
            assert heading in titles(path.read_text(encoding="utf-8")), f"{target}#{heading}"


def test_the_readme_is_short_and_leads_to_every_page():
    assert len(README.splitlines()) <= 160
    assert [name for name in NAMES[1:] if f"]({name})" not in README] == []
    assert README.count("![") == 1 and "### A Kaggle competitor" in README


def test_the_late_submission_is_the_one_that_submit_prints():
    assert kaggle_command("runs/gold/submission.csv", "ICH-Stack gold") in SHOWN


@pytest.mark.parametrize("name", [*NAMES, "benchmarks/RESULTS.md", "Makefile"])
def test_files_benchmarks_and_targets_that_a_page_names_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    for path in re.findall(r"`((?:[\w.]+/)+\w+\.(?:py|yaml|md))(?:::\w+)?`", text):
        assert (ROOT / path).is_file() or path.startswith(("tests/FILE", "runs/")), path
    modules = re.findall(r"python -m (benchmarks\.[\w.]*\w)", text)
    if name == "Makefile":
        listed = re.search(r"^BENCHMARKS := ((?:.*\\\n)*.*)", text, re.M)[1].replace("\\", "")
        modules = [f"benchmarks.{each}" for each in listed.split()]
        assert len(set(modules)) == len(modules)
        assert {*modules, *RUN_ELSEWHERE} == scripts()
    for module in modules:
        file = ROOT / f"{module.replace('.', '/')}.py"
        assert file.is_file() or module == "benchmarks.NAME", module
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    for target in re.findall(r"`make ([\w-]+)`", text):
        assert target in targets, target


def scripts():
    """The modules of benchmarks that are run by themselves."""
    files = [path for path in ROOT.glob("benchmarks/**/*.py") if "__main__" in path.read_text()]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files}


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
@browser_steps.NEEDED
def test_the_demos_report_in_a_browser(clone, browser, tmp_path):
    """With the maps of one study, that of the costliest slice."""
    pytest.importorskip("captum", reason="captum is not installed: pip install -e '.[explain]'")
    demo = clone / "runs" / "demo"
    study = re.search(r'href="#study=(\w+)&amp;slice=', (demo / "report.html").read_text())[1]
    for words in (["explain", f"--studies={study}", "--model=resnet"], ["report"]):
        assert run.main([*words, f"--run={demo}"]) == 0
    browser_steps.check_report(browser, (demo / "report.html").as_uri(), tmp_path)


@pytest.mark.slow
def test_the_commands_in_their_order(clone, real_data):
    """All lines run one after the other; the mini competition stands for Kaggle's data."""
    mini = clone / "mini"
    with tarfile.open(real_data / "rsna_mini.tar.xz") as archive:
        archive.extractall(mini, filter="data")
    pack(mini, clone / ARCHIVE)
    for line in COMMANDS:
        if line.startswith((PYTHON, "make ")):
            done = subprocess.run(
                line, shell=True, cwd=clone, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{line}\n{done.stderr[-2000:]}"
