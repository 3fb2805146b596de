"""The house rules that a program can check: who imports whom, no pickle, docstrings, what starts
quickly.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAY_IMPORT = {  # each package of the house, and which others it may see
    "ct": set(),
    "stage1_cnn": {"ct"},
    "features": {"ct"},
    "stage2_stack": {"ct", "features"},
    "report": {"ct"},
    "pipeline": {"ct", "stage1_cnn", "features", "stage2_stack", "report"},
    "run": {"ct", "pipeline"},
}
NOT_IN = {  # outside packages that a room keeps away from
    "ct": {"torch", "torchvision", "timm", "lightgbm", "optuna", "fire"},
    "features": {"torch", "timm", "lightgbm", "optuna"},
    "report": {"torch", "timm", "lightgbm", "optuna"},
    "stage1_cnn": {"lightgbm", "optuna"},
    "stage2_stack": {"torch", "timm"},
}
BUT = {"stage2_stack/gru.py": {"torch"}}  # the one module of a room that may
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
NAMELESS = {"utils", "util", "misc", "helpers", "helper", "common", "tools"}
THREADS = {
    "stage1_cnn/batch_reader.py",
    "ct/pixel_cache/reader.py",
}  # read ahead in threads; processes are ct/system/engine.py's alone


def sources():
    """{path relative to the repository: syntax tree} of every Python file that is part of it."""
    files = [
        *ROOT.glob("*.py"),
        *(
            f
            for folder in (*MAY_IMPORT, "tests", "benchmarks")
            for f in (ROOT / folder).rglob("*.py")
        ),
    ]
    return {
        f.relative_to(ROOT).as_posix(): ast.parse(f.read_text(), str(f)) for f in sorted(set(files))
    }


SOURCES = sources()
HOUSE = {
    name: tree
    for name, tree in SOURCES.items()
    if name.split("/")[0].removesuffix(".py") in MAY_IMPORT
}


def package(name):
    return name.split("/")[0].removesuffix(".py")


def imported(tree):
    """The full names of the modules that a file imports, wherever in it."""
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


def strangers(name, tree):
    """What the file `name` imports that it should not."""
    here = package(name)
    tops = {full.split(".")[0] for full in imported(tree) if not full.startswith(".")}
    others = (tops & {*MAY_IMPORT, "tests", "benchmarks"}) - {here} - MAY_IMPORT[here]
    return sorted(others | (tops & NOT_IN.get(here, set()) - BUT.get(name, set())))


def unsafe_loads(tree):
    """Calls that could unpickle, and imports that do."""
    found = [full for full in imported(tree) if full.split(".")[0] in PICKLES]
    for name, call in called(tree):
        given = {k.arg: ast.unparse(k.value) for k in call.keywords}
        if name == "torch.load" and given.get("weights_only") != "True":
            found.append(ast.unparse(call))
        if given.get("allow_pickle", "False") != "False":
            found.append(ast.unparse(call))
        if name.endswith((".read_pickle", ".to_pickle")) or (name == "torch.save"):
            found.append(ast.unparse(call))
        if name in ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec"):
            found.append(ast.unparse(call))
    return found


def process_users(tree):
    """Imports that start processes of one's own."""
    names = {"multiprocessing", "concurrent", "ray", "joblib", "torch.multiprocessing"}
    return [
        full
        for full in imported(tree)
        if full.split(".")[0] in names or full.startswith("torch.multiprocessing")
    ]


def bare_excepts(tree):
    return [n.lineno for n in ast.walk(tree) if isinstance(n, ast.ExceptHandler) and n.type is None]


def star_imports(tree):
    return [
        n.lineno
        for n in ast.walk(tree)
        if isinstance(n, ast.ImportFrom) and any(a.name == "*" for a in n.names)
    ]


def undocumented(tree):
    """Public functions, classes and methods without a docstring, and the module if it has none."""
    found = [] if ast.get_docstring(tree) else ["the module"]
    stack = [(tree, "")]
    while stack:
        node, above = stack.pop()
        for child in node.body:
            if isinstance(
                child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
            ) and not child.name.startswith("_"):
                if not ast.get_docstring(child):
                    found.append(above + child.name)
                if isinstance(child, ast.ClassDef):
                    stack.append((child, f"{above}{child.name}."))
    return found


def locale_dependent(tree):
    """Calls that read or write text in whatever encoding the locale has: under Latin-1 they lose a
    run's work.
    """
    found = []
    for name, call in called(tree):
        given = {k.arg: ast.unparse(k.value) for k in call.keywords}
        mode = ast.unparse(call.args[1]) if len(call.args) > 1 else given.get("mode", "'r'")
        opens = name in ("open", "os.fdopen") and "b" not in mode and mode != "mode"
        text = (
            name.startswith("subprocess.")
            and given.get("text", given.get("universal_newlines")) == "True"
        )
        if "encoding" not in given and (
            opens or text or name.endswith((".read_text", ".write_text"))
        ):
            found.append(f"{call.lineno}: {ast.unparse(call)}")
    return found


def test_the_house_is_there():
    assert {package(name) for name in HOUSE} == set(MAY_IMPORT)
    assert len(HOUSE) > 30 and "tests/project/test_architecture.py" in SOURCES


@pytest.mark.parametrize("name", HOUSE)
def test_imports_run_one_way(name):
    assert strangers(name, HOUSE[name]) == []


@pytest.mark.parametrize("name", SOURCES)
def test_nothing_sloppy(name):
    assert bare_excepts(SOURCES[name]) == []
    assert star_imports(SOURCES[name]) == []
    assert not {*Path(name).with_suffix("").parts} & NAMELESS


@pytest.mark.parametrize("name", HOUSE)
def test_no_pickle(name):
    assert unsafe_loads(HOUSE[name]) == []


@pytest.mark.parametrize("name", HOUSE)
def test_text_is_utf8_whatever_the_locale(name):
    assert locale_dependent(HOUSE[name]) == []


@pytest.mark.parametrize("name", HOUSE)
def test_one_module_knows_processes(name):
    users = process_users(HOUSE[name])
    if name == "ct/system/engine.py":
        assert users
    elif name in THREADS:
        assert set(users) <= {"concurrent.futures", "concurrent.futures.ThreadPoolExecutor"}
    else:
        assert users == []
    assert not [
        call for call, _ in called(HOUSE[name]) if call in ("os.fork", "os.forkpty", "os.system")
    ]


@pytest.mark.parametrize("name", HOUSE)
def test_everything_public_says_what_it_is(name):
    assert undocumented(HOUSE[name]) == []


@pytest.mark.parametrize("name", HOUSE)
def test_chance_comes_from_seeded_generators(name):
    """Never from numpy's or Python's global state, whose seed any import may change."""
    calls = [call for call, _ in called(HOUSE[name])]
    loose = [
        call
        for call in calls
        if call.startswith(("np.random.", "random.")) and "default_rng" not in call
    ]
    assert loose == []
    unseeded = [
        ast.unparse(node)
        for call, node in called(HOUSE[name])
        if call.endswith("default_rng") and not node.args
    ]
    assert unseeded == []


def test_the_checks_see_what_they_should():
    """Each check against a line that breaks it."""
    parse = ast.parse
    assert strangers("ct/a.py", parse("from stage1_cnn.model import x")) == ["stage1_cnn"]
    assert strangers("ct/a.py", parse("def f():\n    import torch.nn")) == ["torch"]
    assert strangers("features/a.py", parse("import pipeline.options, ct.labels")) == ["pipeline"]
    assert strangers("stage2_stack/a.py", parse("from run import main")) == ["run"]
    assert strangers("stage2_stack/stacker.py", parse("import torch")) == ["torch"]
    assert strangers("stage2_stack/gru.py", parse("import torch, timm")) == ["timm"]
    assert strangers("report/a.py", parse("from ct import run_dir\nimport report.load")) == []
    assert strangers("pipeline/a.py", parse("import run, report, tests")) == ["run", "tests"]
    for line in (
        "import pickle",
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "np.load(p, allow_pickle=True)",
        "np.load(p, allow_pickle=x)",
        "pd.read_pickle(p)",
        "from pickle import load",
        "yaml.load(f)",
    ):
        assert unsafe_loads(parse(line)), line
    assert not unsafe_loads(
        parse("torch.load(p, weights_only=True); np.load(p, allow_pickle=False); yaml.safe_load(f)")
    )
    assert process_users(parse("from concurrent.futures import ProcessPoolExecutor"))[-1].endswith(
        "ProcessPoolExecutor"
    )
    assert process_users(parse("import torch.multiprocessing as mp"))
    assert bare_excepts(parse("try:\n    x\nexcept:\n    pass")) and star_imports(
        parse("from x import *")
    )
    assert undocumented(
        parse('"""m"""\nclass A:\n    """a"""\n    def b(self): pass\n    def _c(self): pass')
    ) == ["A.b"]


SLOW = ("torch", "timm", "lightgbm", "optuna", "matplotlib")


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("run, pipeline.options", SLOW),
        ("pipeline.recipe, pipeline.freshness", SLOW),
        ("ct.run_dir, ct.labels, ct.dicom.hounsfield", SLOW),
        ("run, pipeline.commands.dispatch", ("pydicom", "scipy", "torch", "lightgbm")),
        ("pipeline.stages.stack", ("torch", "xgboost", "catboost")),
    ],
)
def test_modules_start_without_what_they_do_not_need(modules, absent):
    """The command line without what is slow, `status` without DICOM, stage two without torch."""
    code = f"import sys, {modules}; print(sorted(set({absent}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr
