"""The machine: locales without UTF-8, shells, folders on the path, clashing libraries."""

import os
import shlex
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

import run
from pipeline.command_line.printed_commands import run_command, with_flags

# the plainest locale, as on old clusters
ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


def python(*words, cwd=ROOT, **environment):
    """Run Python in a process of its own, with the checkout on its path."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    words = [sys.executable, *map(str, words)]
    return subprocess.run(
        words,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        cwd=cwd,
        env=environment,
        check=False,
    )


def test_that_locale_is_no_utf8():
    done = python("-c", "import locale; print(locale.getpreferredencoding(False))", **ASCII)
    assert "utf" not in done.stdout.lower()


@pytest.mark.slow
def test_report_and_score_lose_nothing_in_a_locale_that_is_not_utf8(older_version, tmp_path):
    kept = shutil.copytree(older_version / "run", tmp_path / "r")
    (kept / "report.html").unlink()
    done = python(ROOT / "run.py", "report", f"--run={kept}", **ASCII)
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr
    assert "charset" in (kept / "report.html").read_text(encoding="utf-8")
    words = [
        f"--data={older_version / 'dicom'}",
        f"--model={older_version / 'model'}",
        "--device=cpu",
        "--workers=1",
    ]
    done = python(ROOT / "run.py", "score", *words, f"--to={tmp_path / 'out'}", **ASCII)
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr
    assert (tmp_path / "out" / "page.html").read_text(encoding="utf-8").endswith("</html>")


def test_a_letter_that_the_terminal_cannot_show_is_escaped(older_version, tmp_path):
    kept = shutil.copytree(older_version / "run", tmp_path / "r ü")
    done = python(ROOT / "run.py", "status", f"--run={kept}", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and "r \\xfc: recipe kept" in done.stdout


@pytest.mark.parametrize("name", ["run 9", "$(touch x)", "it's", "a;b", "ü"])
def test_printed_commands_can_be_copied(name, older_version, competition, tmp_path, capsys):
    assert shlex.split(run_command("all", run=name)) == ["python", "run.py", "all", f"--run={name}"]
    assert shlex.split(with_flags("new", run=name, data="DIR")) == [
        "new",
        f"--run={name}",
        "--data=DIR",
    ]
    folder = tmp_path / name
    assert run.main(["new", f"--run={folder}", "--recipe=micro", f"--data={competition}"]) == 0
    next_line = capsys.readouterr().out.partition("next: ")[2].strip()
    assert shlex.split(next_line) == ["python", "run.py", "all", f"--run={folder}"]
    assert run.main(["status", f"--run={folder}"]) == 0
    assert shlex.split(capsys.readouterr().out.partition("next: ")[2])[3] == f"--run={folder}"
    assert run.main(["status", f"--run={folder}-gone"]) == 1
    remedy = capsys.readouterr().err.split("`")[1]
    assert shlex.split(remedy)[1] == f"--run={folder}-gone"


@pytest.mark.parametrize("inside", [None, "__init__.py"])
def test_a_folder_called_dl_is_not_taken_for_pythons(tmp_path, inside):
    """gdcm's module imports `dl`, and takes any folder of that name on the path for it."""
    (tmp_path / "dl").mkdir()
    if inside:
        (tmp_path / "dl" / inside).touch()
    code = (
        "import sys; sys.path.insert(0, {!r}); {}import gdcm; import ct.dicom.hounsfield; "
        "print('read')"
    )
    # the fault there would be
    assert "no attribute" in python("-c", code.format(str(tmp_path), "")).stderr
    assert (
        python("-c", code.format(str(tmp_path), "import ct.dicom.hounsfield; ")).stdout == "read\n"
    )


# module of a stage -> what it does not need, and therefore does not load: the two crash together on
# macOS
IMPORTS = {
    "pipeline.stages.train": "lightgbm",
    "pipeline.commands.explain": "lightgbm",
    "pipeline.stages.ingest": "lightgbm torch",
    "pipeline.stages.submit": "torch",
    "pipeline.stages.tune": "torch",
    "pipeline.stages.stack": "torch",
}


@pytest.mark.slow
@pytest.mark.parametrize("module", IMPORTS)
def test_no_stage_loads_both_torch_and_lightgbm(module):
    code = (
        f"import sys, pipeline.commands.dispatch, {module}; "
        "print(*({'torch', 'lightgbm'} & set(sys.modules)))"
    )
    loaded = set(python("-c", code).stdout.split())
    assert not loaded & set(IMPORTS[module].split())


@pytest.mark.slow
def test_where_they_crash_together_every_stage_runs_in_its_own_process(
    competition, finished, tmp_path, capfd, monkeypatch
):
    from pipeline.commands import all as verb_all

    kept = shutil.copytree(finished, tmp_path / "r")
    capfd.readouterr()
    (kept / "report.html").unlink()
    (kept / "receipts" / "stack.json").unlink()
    monkeypatch.setattr(verb_all, "PROCESS_PER_STAGE", True)
    monkeypatch.setattr(
        "pipeline.stage_runner.run_stage", lambda *args: pytest.fail("in this process")
    )
    assert run.main(["all", f"--run={kept}", "--workers=1"]) == 0
    out = capfd.readouterr().out
    assert (
        "tune: fresh, nothing to do" in out
        and "all: stack, report made" in out
        and (kept / "report.html").exists()
    )
    assert (
        run.main(["all", f"--run={kept}"]) == 0 and "everything is fresh" in capfd.readouterr().out
    )
    (kept / "report.html").unlink()
    assert run.main(["all", f"--run={kept}", "--quiet"]) == 0
    assert capfd.readouterr().out == "" and (kept / "report.html").exists()
    (kept / "report.html").unlink()
    recipe = (kept / "recipe.yaml").read_text()
    (kept / "recipe.yaml").write_text(recipe.replace(str(competition), "/gone"))
    (kept / "slices.parquet").write_bytes(b"")
    with pytest.raises(SystemExit) as ended:
        run.main(["all", f"--run={kept}"])
    assert ended.value.code == 1 and capfd.readouterr().err.count("error: ") == 1


def test_a_stage_in_its_own_process_gets_its_options():
    from pipeline.checked_options import AllOptions
    from pipeline.commands.all import stage_command

    options = AllOptions(run="r", workers=3, trials=5, gpus="0,2")
    assert stage_command("tune", options)[2:] == ["tune", "--run=r", "--workers=3"]
    assert stage_command("train", options)[2:] == ["train", "--run=r", "--workers=3", "--gpus=0,2"]
    assert stage_command("folds", options)[2:] == ["folds", "--run=r"]
