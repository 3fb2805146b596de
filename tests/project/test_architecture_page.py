"""docs/architecture.md is true: folders, imports, functions, tests and concepts are those there."""

import ast
import re

import pytest
from source_tree import HOUSE, ROOMS, ROOT, SOURCES, functions
from test_architecture import GRAPH, MAY_IMPORT, folder_graph

import stage2_stack

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
DISK = {"open", "read_text", "write_text", "read_bytes", "write_bytes", "mkdir", "unlink"}
READS_FILES = {  # modules of rooms that leave the disk to others
    "stage1_cnn/backbones/weight_files.py": "pretrained weights",
    "stage1_cnn/backbones/weight_packages.py": "pretrained weights",
    "stage2_stack/foreign_boosters.py": "a booster file, in a child process",
}


def rows(title):
    """The cells of each row of the table below a heading, without the backticks."""
    section = re.search(rf"^##+ {re.escape(title)}\n(.*?)(?=^##|\Z)", PAGE, re.M | re.S)[1]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def quoted(cell):
    return re.findall(r"`([^`]+)`", cell)


def test_the_rooms_and_their_imports_are_those_that_are_enforced():
    table = {
        quoted(room)[0].strip("/").removesuffix(".py"): imports
        for room, _, imports, _ in rows("The rooms")
    }
    assert list(table) == [*ROOMS, "run"]
    for room in ("stage1_cnn", "features", "stage2_stack", "report", "run"):
        assert set(quoted(table[room])) == MAY_IMPORT[room]


def test_the_folders_and_their_imports_are_those_of_the_source():
    graph = folder_graph(GRAPH)
    expected = {}
    for folder, others in graph.items():
        room = folder.split("/")[0]
        expected[folder] = {other for other in others if other.startswith(f"{room}/")}
    listed = {}
    for folder, _, imports in rows("The folders of the rooms"):
        [path] = quoted(folder)
        room = path.split("/")[0]
        listed[path.strip("/")] = {f"{room}/{name}" for name in quoted(imports)}
    assert listed == expected


@pytest.mark.parametrize(
    "row", rows("The flow of one slice's probability"), ids=lambda row: row[-1]
)
def test_the_functions_of_the_flow_exist(row):
    [(module, name)] = re.findall(r"`([\w.]+):([\w.]+)`", row[1])
    names = [each for each, _ in functions(SOURCES[module.replace(".", "/") + ".py"])]
    assert name in names


def test_every_rule_has_a_test_that_exists():
    table = rows("What must always hold")
    assert [row[0] for row in table] == [str(number) for number in range(1, 13)]
    for _, rule, tests in table:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", tests)
        assert named, rule
        for file, name in named:
            assert name in [each for each, _ in functions(SOURCES[file])], f"{file}::{name}"


def test_the_concepts_of_stage_two_are_those_of_its_package():
    listed = [quoted(row[0])[0] for row in rows("The concepts of stage two")]
    described = re.findall(r"^([A-Z]\w+)  ", stage2_stack.__doc__, re.M)
    assert listed == described and 5 <= len(listed) < 12
    defined = set()
    for name, tree in HOUSE.items():
        if name.startswith("stage2_stack/"):
            defined |= {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    assert set(listed) <= defined


def test_the_glossary_is_sorted():
    terms = [row[0] for row in rows("Glossary")]
    assert len(terms) >= 15 and terms == sorted(terms, key=str.lower)


@pytest.mark.parametrize("name", HOUSE)
def test_rooms_that_leave_the_disk_to_others_do(name):
    if name.split("/")[0] in ("stage1_cnn", "features", "stage2_stack"):
        assert name in READS_FILES or file_users(HOUSE[name]) == []


def file_users(tree):
    """Calls that read or write files, and imports of modules that do."""
    uses = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = ast.unparse(node.func)
            if function.split(".")[-1] in DISK or function in ("np.load", "np.save"):
                uses.append(function)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            uses += (
                [module] if module.startswith(("ct.storage", "ct.run_dir", "ct.sources")) else []
            )
    return uses


def test_the_check_of_the_disk_finds_what_it_looks_for():
    parse = ast.parse
    assert file_users(parse("open(p)")) == ["open"]
    assert file_users(parse("Path(p).write_text('')")) == ["Path(p).write_text"]
    assert file_users(parse("from ct.storage.file_formats import read_table")) != []
    assert file_users(parse("from ct.labels import LABELS\nf(x)")) == []
