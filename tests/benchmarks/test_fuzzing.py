"""A short run of benchmarks/fuzz.py: some hundred damaged inputs, always the same ones."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT


def fuzz(*words):
    words = [sys.executable, "-m", "benchmarks.fuzz", *words]
    return subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)


def test_no_damaged_dicom_file_does_harm():
    done = fuzz("--kind=dicom", "--cases=200")
    assert done.returncode == 0, done.stdout + done.stderr
    cells = done.stdout.splitlines()[-1].split("|")[2:]
    total, read, refused, *bad = (int(cell) for cell in cells[:7])
    assert (total, sum(bad)) == (200, 0) and read > 30 and refused > 80


@pytest.mark.parametrize(
    ("kind", "cases"),
    [
        ("tables", 150),
        ("recipes", 150),
        ("zips", 80),
        pytest.param("models", 12, marks=pytest.mark.slow),
    ],
)
def test_no_damaged_table_recipe_zip_or_model_does_harm(kind, cases):
    done = fuzz(f"--kind={kind}", f"--cases={cases}", "--seed=1")
    assert done.returncode == 0, done.stdout + done.stderr
    total, read, refused, *bad = (
        int(cell) for cell in done.stdout.splitlines()[-1].split("|")[2:9]
    )
    assert (total, sum(bad)) == (cases, 0) and read >= 1 and refused > cases / 2


@pytest.mark.parametrize(
    ("body", "outcome", "message"),
    [
        ("raise KeyError('x')", "uncaught", "KeyError"),
        ("return 'two\\nlines'", "uncaught", "no line for a user"),
        ("import os; os.abort()", "died", "exit status -6"),
        ("bytearray(1 << 40)", "large", "more than 2 GB"),
        ("return 'refused so'", "refused", ""),
    ],
)
def test_the_fuzzer_reports_each_outcome(tmp_path, body, outcome, message):
    """With a kind that misbehaves."""
    (tmp_path / "benchmarks" / "fuzzing").mkdir(parents=True)
    (tmp_path / "benchmarks" / "fuzzing" / "odd.py").write_text(
        "def make_seeds(folder):\n    return []\n"
        "def mutate(rng, seeds, folder):\n    return 'nothing'\n"
        f"def attempt(folder):\n    {body}\n"
    )
    for name in ("fuzz.py", "command_line.py"):
        text = (ROOT / "benchmarks" / name).read_text()
        text = text.replace("KINDS = {", 'KINDS = {"odd": (2, 1),', 1)
        (tmp_path / "benchmarks" / name).write_text(text)
    (tmp_path / "benchmarks" / "__init__.py").touch()
    words = [sys.executable, "-m", "benchmarks.fuzz", "--kind=odd"]
    env = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path, env=env)
    header, _, row = done.stdout.splitlines()[1:4]
    counts = dict(
        zip(
            (c.strip() for c in header.split("|")), (c.strip() for c in row.split("|")), strict=True
        )
    )
    assert counts[outcome] == counts["cases"] == "2" and message in done.stderr
    assert done.returncode == (outcome != "refused")
