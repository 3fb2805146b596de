"""The linters of `make lint`, of pre-commit and of CONTRIBUTING.md are the same."""

import re

import yaml
from conftest import ROOT


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def lint_commands():
    """The commands of the Makefile's target `lint`."""
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", text_of("Makefile"), re.M)[1]
    return [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe.splitlines()]


def test_the_hooks_run_what_make_lint_runs_and_fetch_nothing():
    [repository] = yaml.safe_load(text_of(".pre-commit-config.yaml"))["repos"]
    assert repository["repo"] == "local"
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}
    assert [hook["entry"] for hook in repository["hooks"]] == lint_commands()
    # whole checks, as make runs them: not of the changed files alone
    assert not any(hook["pass_filenames"] for hook in repository["hooks"])


def test_lint_checks_form_and_types():
    tools = [command.split()[0] for command in lint_commands()]
    assert tools == [".venv/bin/ruff", ".venv/bin/ruff", ".venv/bin/mypy"]


def test_ci_runs_lint_and_both_kinds_of_tests():
    targets = re.findall(r"^make (\S+)", text_of(".ci/run"), re.M)
    assert targets == ["lint", "test", "test-slow"]


def test_every_target_is_explained():
    targets = re.search(r"^\.PHONY: (.+)", text_of("Makefile"), re.M)[1].split()
    explained = text_of("CONTRIBUTING.md") + text_of("README.md")
    assert [name for name in targets if f"make {name}" not in explained] == ["clean"]
