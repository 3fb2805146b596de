"""The source files of the repository as syntax trees, and what a tree imports and calls."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("ct", "stage1_cnn", "features", "stage2_stack", "report", "pipeline")


def python_files():
    """{path relative to the repository: text} of every Python file that is part of it."""
    files = list(ROOT.glob("*.py"))
    for folder in (*ROOMS, "tests", "benchmarks"):
        files += (ROOT / folder).rglob("*.py")
    return {
        file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8")
        for file in sorted(set(files))
    }


def room_of(name):
    """The first part of a path: `ct` of ct/dicom/header.py, `run` of run.py."""
    return name.split("/")[0].removesuffix(".py")


TEXTS = python_files()
SOURCES = {name: ast.parse(text, name) for name, text in TEXTS.items()}
# what is shipped: without tests and benchmarks
HOUSE = {name: tree for name, tree in SOURCES.items() if room_of(name) in (*ROOMS, "run")}


def imported(tree):
    """The full names of the modules and names that a file imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
            if node.module and not node.level:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def called(tree):
    """(dotted name, call) of every call of a plain or dotted name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def functions(tree, above=""):
    """(name with its classes, node) of the functions and methods of a module or class."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield above + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from functions(node, f"{above}{node.name}.")
