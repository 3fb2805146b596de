"""Rules for every source file: no pickle, UTF-8, seeded chance, one module of processes, types."""

import ast
import re
from pathlib import Path

import pytest
from source_tree import HOUSE, SOURCES, TEXTS, called, functions, imported

PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
NAMELESS = {"utils", "util", "misc", "helpers", "helper", "common", "tools"}
# these read ahead in threads; processes are started by ct/system/parallel_jobs.py alone
THREADS = {"stage1_cnn/batches/batch_reader.py", "ct/pixel_cache/reader.py"}
LONGEST = 100  # characters of a line


def unsafe_loads(tree):
    """Calls that could unpickle, and imports that do."""
    lines = [full for full in imported(tree) if full.split(".")[0] in PICKLES]
    for name, call in called(tree):
        keywords = {k.arg: ast.unparse(k.value) for k in call.keywords}
        if name == "torch.load" and keywords.get("weights_only") != "True":
            lines.append(ast.unparse(call))
        if keywords.get("allow_pickle", "False") != "False":
            lines.append(ast.unparse(call))
        if name.endswith((".read_pickle", ".to_pickle")) or (name == "torch.save"):
            lines.append(ast.unparse(call))
        if name in ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec"):
            lines.append(ast.unparse(call))
    return lines


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
    lines = [] if ast.get_docstring(tree) else ["the module"]
    stack = [(tree, "")]
    while stack:
        node, above = stack.pop()
        for child in node.body:
            if isinstance(
                child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
            ) and not child.name.startswith("_"):
                if not ast.get_docstring(child):
                    lines.append(above + child.name)
                if isinstance(child, ast.ClassDef):
                    stack.append((child, f"{above}{child.name}."))
    return lines


def locale_dependent(tree):
    """Calls that read or write text in the locale's encoding: under Latin-1 they lose work."""
    lines = []
    for name, call in called(tree):
        keywords = {k.arg: ast.unparse(k.value) for k in call.keywords}
        mode = ast.unparse(call.args[1]) if len(call.args) > 1 else keywords.get("mode", "'r'")
        opens = name in ("open", "os.fdopen") and "b" not in mode and mode != "mode"
        text = (
            name.startswith("subprocess.")
            and keywords.get("text", keywords.get("universal_newlines")) == "True"
        )
        if "encoding" not in keywords and (
            opens or text or name.endswith((".read_text", ".write_text"))
        ):
            lines.append(f"{call.lineno}: {ast.unparse(call)}")
    return lines


def untyped(tree):
    """Public functions and methods with an argument or a result that is not annotated."""
    names = []
    for name, node in functions(tree):
        if any(part.startswith("_") and not part.endswith("__") for part in name.split(".")):
            continue
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        arguments += [more for more in (node.args.vararg, node.args.kwarg) if more]
        first = {"self", "cls"} if "." in name else set()
        bare = [each for each in arguments if not each.annotation and each.arg not in first]
        # mypy takes an annotated __init__ to return None
        if bare or (node.returns is None and node.name != "__init__"):
            names.append(name)
    return names


def overlong(text):
    """Numbers of the lines that are too long, or that the formatter is told to leave alone.

    As for ruff, a comment that switches a check off does not count as length.
    """
    numbers = []
    for number, line in enumerate(text.splitlines(), 1):
        counted = re.sub(r"\s+# (noqa|type: ignore).*", "", line)
        if len(counted) > LONGEST or re.search(r"# fmt: (skip|off)", line):
            numbers.append(number)
    return numbers


@pytest.mark.parametrize("name", SOURCES)
def test_no_bare_except_no_star_import_no_nameless_module(name):
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
def test_one_module_starts_processes(name):
    users = process_users(HOUSE[name])
    if name == "ct/system/parallel_jobs.py":
        assert users
    elif name in THREADS:
        assert set(users) <= {"concurrent.futures", "concurrent.futures.ThreadPoolExecutor"}
    elif name == "pipeline/engines/ray_cluster.py":
        assert {user.split(".")[0] for user in users} == {"ray"}
    elif name == "pipeline/engines/local_engine.py":  # it waits for the workers of that module
        assert not {user for user in users if user.endswith("Executor")}
    else:
        assert users == []
    assert not [
        call for call, _ in called(HOUSE[name]) if call in ("os.fork", "os.forkpty", "os.system")
    ]


@pytest.mark.parametrize("name", HOUSE)
def test_everything_public_has_a_docstring(name):
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


@pytest.mark.parametrize("name", HOUSE)
def test_public_functions_are_typed(name):
    assert untyped(HOUSE[name]) == []


@pytest.mark.parametrize("name", [name for name in TEXTS if not name.startswith("tests/")])
def test_lines_are_short_and_formatted(name):
    assert overlong(TEXTS[name]) == []


def test_the_checks_find_what_they_look_for():
    """Each check on a line that breaks it."""
    parse = ast.parse
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
    assert locale_dependent(parse("open(p)")) and locale_dependent(parse("p.read_text()"))
    assert not locale_dependent(parse("open(p, 'rb'); p.read_text(encoding='utf-8')"))
    assert untyped(parse("def f(x) -> int: ...\ndef g(x: int): ...\ndef _h(x): ...")) == ["f", "g"]
    assert untyped(parse("class A:\n    def f(self, *x) -> int: ...")) == ["A.f"]
    assert not untyped(parse("class A:\n    def f(self, *x: int) -> int: ..."))
    long = "x" * 100
    assert overlong(f"{long}\n{long}x\nx  # fmt: {'skip'}\n{long}  # noqa: E731") == [2, 3]
