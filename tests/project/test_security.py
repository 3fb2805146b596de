"""SECURITY.md: each promise names tests that are there, and the page matches the code."""

import ast
import re

import pytest
from conftest import ROOT

PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
PROMISED = PAGE.partition("## What is promised")[2].partition("## Who may read what")[0]
NAMED = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PROMISED)
ROWS = [
    line for line in PROMISED.splitlines() if line.startswith("| ") and line != "| promise | test |"
]


@pytest.mark.parametrize(("file", "name"), sorted(set(NAMED)))
def test_the_tests_are_there(file, name):
    functions = [
        node
        for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    ]
    assert any(
        function.name.startswith("test_") if not name else function.name == name
        for function in functions
    )


@pytest.mark.parametrize("row", ROWS)
def test_every_promise_has_one(row):
    promise, test = row.strip("| ").split(" | ")
    assert promise and re.fullmatch(r"(`tests/[\w/]+\.py(::\w+)?`(, )?)+", test)


def test_the_page_has_its_promises_and_is_linked():
    assert len(ROWS) >= 15 and "Not a medical device" in PAGE
    assert "SECURITY.md" in (ROOT / "README.md").read_text(encoding="utf-8")
