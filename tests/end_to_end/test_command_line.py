"""The command line stops at a wrong word before any work, and suggests the word that was meant."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

import run
from ct.errors import InputError
from pipeline.command_line.error_messages import REMEDIES
from pipeline.command_line.flag_check import flags_of


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["trian", "--run=r"], 2, "no verb 'trian', did you mean 'train'?"),
        (["tune", "--run=r", "--trails=3"], 2, "no flag --trails, did you mean '--trials'?"),
        (["train"], 2, "train needs --run"),
        (["new", "--run=r"], 2, "new needs --recipe"),
        (["new", "--run=r", "--recipe=x"], 1, "give one of --data (the images) and --slices"),
        (
            ["new", "--run=r", "--recipe=x", "--data=d", "--slices=s"],
            1,
            "give one of --data (the images) and --slices",
        ),
        (["new", "--run=r", "--recipe=x", "--slices=s", "--labels=l"], 1, "--labels is for --data"),
        (["import-predictons", "--run=r"], 2, "did you mean 'import-predictions'?"),
        (["import_predictions", "--run=r"], 2, "import-predictions needs --name"),
        (["import-predictions", "--run=r", "--name=a"], 1, "needs --oof"),
        (
            ["import_predictions", "--run=r", "--name=a", "--oof=f", "--remove"],
            1,
            "--remove goes without --oof",
        ),
        (["import-predictions", "--run=r", "--name=a/b", "--oof=f"], 1, "name = 'a/b'"),
        (
            ["import-predictions", "--run=r", "--name=a", "--oof=f", "--trust_off"],
            2,
            "did you mean '--trust-oof'?",
        ),
        (["tune", "r"], 2, "unexpected 'r'"),
        (["tune", "--run=r", "3"], 2, "unexpected '3'"),
        (["tune", "-r", "x"], 2, "unexpected '-r'"),
        (["tune", "--run=a", "--run=b"], 2, "--run is given twice"),
        (
            ["tune", "--run=r", "--trials"],
            2,
            "tune: --trials needs a value, written --trials=VALUE",
        ),
        (["tune", "--run", "--trials=3"], 2, "--run needs a value"),
        (["status", "--json", "--run"], 2, "--run needs a value"),
        (["--run=a_b", "train"], 2, "unexpected '--run=a_b'; the verb comes first"),
        (["--version"], 2, "the verb comes first"),
        (
            ["synth", "--out=/dev/null/x", "--studies=2"],
            1,
            "a file, but a folder is needed",
        ),
        (
            ["new", "--run=r", "--recipe=none.yaml", "--data=d"],
            1,
            "--recipe=none.yaml: no such file",
        ),
        (["tune", "--run=r", "--trials=1.5"], 1, "trials = '1.5'"),
        (["tune", "--run=r", "--trials=0"], 1, "greater than or equal to 1"),
        (["train", "--run=r", "--gpus=0,x"], 1, "separated by commas: --gpus=0,2"),
        (["report", "--run=r", "--studies=a"], 2, "no flag --studies, did you mean '--study'?"),
        (["explain", "--run=r", "--study=a"], 2, "no flag --study, did you mean '--studies'?"),
        (["submit", "--run=r", "--stage=three"], 1, "stage = 'three'"),
        (["search", "--run=r", "--stage=three"], 1, "stage = 'three'"),
        (["search", "--run=r", "--stage=two", "--fold=1"], 1, "fold = '1': only for --stage=one"),
        (["search", "--run=r", "--timeout=soon"], 1, "timeout = 'soon'"),
        (["search", "--run=r", "--modle=a"], 2, "no flag --modle, did you mean '--model'?"),
        (
            ["new", "--run=r", "--recipe=x", "--data=d", "--allow-unlabelled=maybe"],
            1,
            "allow_unlabelled = 'maybe'",
        ),
        # fire alone would make it the number 1000.0
        (["train", "--run=1e3"], 1, "--run=1e3: no such run"),
        (["synth", "--out", "x", "--studies=1"], 1, "studies = '1'"),
        (["train", "--run=r", "--quite"], 2, "no flag --quite, did you mean '--quiet'?"),
        (["train", "--run=r", "--quiet=1"], 2, "--quiet takes no value"),
        (["train", "--run=r", "--quiet", "1"], 2, "unexpected '1'"),
        (["train", "--run=r", "--quiet"], 1, "--run=r: no such run"),
        (["status", "--run=r", "--json=maybe"], 1, "as_json = 'maybe'"),
        (["completion", "--run=r"], 2, "completion: no flag --run"),
    ],
)
def test_unknown_words_stop_before_any_work(words, status, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run.main(words) == status
    out, err = capsys.readouterr()
    assert message in err
    assert err.startswith("error: ") and err.count("\n") == 1
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_without_words_every_verb_is_printed(capsys):
    assert run.main([]) == 0
    out = capsys.readouterr().out
    for verb in run.VERBS:
        assert f"\n  {verb} " in out
    assert max(map(len, out.splitlines())) <= 110


def test_help_of_new_says_that_data_and_slices_exclude_each_other(capsys):
    assert run.main(["new", "--help"]) == 0
    assert "Needs --run, --recipe, and one of --data and --slices." in capsys.readouterr().out


@pytest.mark.parametrize("verb", run.VERBS)
def test_help_describes_every_flag(verb, capsys):
    assert run.main([verb, "--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {flag} " in out for flag in [*flags_of(run.VERBS[verb]), "--quiet"])
    assert "False" not in out and "as for" not in out
    for words in (["help", verb], ["--help", verb], [verb, "-h"]):
        assert run.main(words) == 0 and capsys.readouterr().out == out


@pytest.mark.parametrize(
    "flag", ["--allow-unlabelled", "--allow_unlabelled", "--allow-unlabelled=true"]
)
def test_flags_reach_the_plan_checked_and_typed(flag, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "pipeline.commands.dispatch.execute", lambda verb, options: seen.append((verb, options))
    )
    assert run.main(["all", "--run", "0,1", "--trials=7", flag]) == 0
    verb, options = seen[0]
    assert verb == "all"
    assert options.model_dump() == {
        "run": "0,1",
        "trials": 7,
        "engine": "local",
        "address": None,
        "workers": None,
        "gpus": None,
        "shard": None,
        "missing": None,
        "allow_unlabelled": True,
        "quarantine_unreadable": False,
    }


def test_an_interrupt_prints_no_traceback(monkeypatch, capsys):
    def interrupted(verb, options):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.commands.dispatch.execute", interrupted)
    assert run.main(["status", "--run=r"]) == 130
    assert "the same command continues" in capsys.readouterr().err


def test_demo_refuses_to_continue_with_other_data(capsys, tmp_path, monkeypatch):
    from ct.storage.file_formats import write_json
    from pipeline.commands import demo
    from pipeline.recipe import find_recipe, load_recipe, save_recipe

    write_json(tmp_path / "d-data" / "synth.json", {"studies": 60, "seed": 0})
    save_recipe(tmp_path / "d" / "recipe.yaml", load_recipe(find_recipe("demo")))
    monkeypatch.setattr(demo, "run_all_stages", lambda options: print("worked"))
    for flag, message in (
        ("--seed=7", "was made with --seed=0"),
        ("--studies=8", "was made with --studies=60"),
    ):
        assert run.main(["demo", f"--run={tmp_path / 'd'}", flag]) == 1
        assert message in capsys.readouterr().err
    for same in ([], ["--seed=0"], ["--studies=60", "--seed=0"]):
        assert run.main(["demo", f"--run={tmp_path / 'd'}/", *same]) == 0  # with or without a slash
        assert capsys.readouterr().out == "worked\n"


def test_quiet_prints_only_errors(monkeypatch, capsys):
    def execute(verb, options):
        print(verb)
        print("a bar", file=sys.stderr)
        if options.run == "bad":
            raise InputError("no such thing")

    monkeypatch.setattr("pipeline.commands.dispatch.execute", execute)
    assert run.main(["train", "--quiet", "--run=good"]) == 0 and capsys.readouterr() == ("", "")
    assert run.main(["train", "--run=bad", "--quiet"]) == 1 and capsys.readouterr() == (
        "",
        "error: no such thing\n",
    )
    assert run.main(["train", "--run=good"]) == 0 and capsys.readouterr() == ("train\n", "a bar\n")


def test_status_prints_the_next_command(finished, tmp_path, capsys):
    copy = shutil.copytree(finished, tmp_path / "r")
    assert run.main(["status", f"--run={copy}"]) == 0
    assert (
        capsys.readouterr().out.splitlines()[-1] == f"  all are fresh; see {copy / 'report.html'}"
    )
    (copy / "receipts" / "submit.json").unlink()
    assert run.main(["status", f"--run={copy}"]) == 0
    assert (
        capsys.readouterr().out.splitlines()[-1]
        == f"  8 of 9 are fresh; next: python run.py all --run={copy}"
    )


def test_status_json_is_printed_even_when_quiet(finished, capsys):
    assert run.main(["status", f"--run={finished}", "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["stages"]["report"]["state"] == "fresh"
    assert run.main(["status", f"--run={finished}", "--quiet"]) == 0 and capsys.readouterr() == (
        "",
        "",
    )


@pytest.mark.parametrize("number", REMEDIES)
def test_system_errors_give_a_remedy(number, monkeypatch, capsys):
    def fails(verb, options):
        raise OSError(number, os.strerror(number), "r/b")

    monkeypatch.setattr("pipeline.commands.dispatch.execute", fails)
    assert run.main(["train", "--run=r"]) == 1
    error = capsys.readouterr().err
    assert error == f"error: r/b: {os.strerror(number).lower()}; {REMEDIES[number]}\n"


def test_a_log_file_has_its_lines_in_order(tmp_path):
    """Python alone buffers what is printed to a file, and writes errors and bars before it."""
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
        "import run; run.main([]); print('last', file=sys.stderr)"
    )
    with open(tmp_path / "log", "w", encoding="utf-8") as log:
        subprocess.run([sys.executable, "-c", script], stdout=log, stderr=log, check=True)
    assert (tmp_path / "log").read_text().splitlines()[-1] == "last"


@pytest.mark.parametrize(
    ("words", "offers"),
    [
        (["ich-stack", "tr"], {"train"}),
        (["ich-stack", "tune", "--t"], {"--trials", "--timeout"}),
        (["ich-stack", "tune", "--q"], {"--quiet"}),
        (["ich-stack", "tune", "runs"], set()),  # files, by `-o default`
    ],
)
def test_bash_completes_verbs_and_flags(words, offers, capsys):
    assert run.main(["completion"]) == 0
    typed = " ".join(words)
    script = "\n".join(
        (
            capsys.readouterr().out,
            f"COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}",
            '_ich_stack; echo "${COMPREPLY[@]}"',
        )
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == offers and not done.stderr
