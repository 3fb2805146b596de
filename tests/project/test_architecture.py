"""Who imports whom: between the rooms, between their folders; what a folder may hold."""

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from source_tree import HOUSE, ROOT, SOURCES, imported, room_of

MAY_IMPORT = {  # room: the other rooms that it may import
    "ct": set(),
    "stage1_cnn": {"ct"},
    "features": {"ct"},
    "stage2_stack": {"ct", "features"},
    "report": {"ct"},
    "pipeline": {"ct", "stage1_cnn", "features", "stage2_stack", "report"},
    "run": {"ct", "pipeline"},
}
NOT_IN = {  # room: packages that it may not import
    "ct": {"torch", "torchvision", "timm", "lightgbm", "optuna", "fire"},
    "features": {"torch", "timm", "lightgbm", "optuna"},
    "report": {"torch", "timm", "lightgbm", "optuna"},
    "stage1_cnn": {"lightgbm", "optuna"},
    "stage2_stack": {"torch", "timm"},
}
TORCH_USER = "stage2_stack/learners/gru_network.py"
BUT = {TORCH_USER: {"torch"}}  # the one module of a room that may import them
MOST = 14  # modules in a folder
IN_SEVERAL_ROOMS = {"config", "search_space", "__init__"}
NAMED_TUPLES = {"_asdict", "_fields", "_make", "_replace"}  # public in spite of their underscore


def forbidden_imports(name, tree):
    """What the file `name` imports that it should not."""
    here = room_of(name)
    tops = {full.split(".")[0] for full in imported(tree) if not full.startswith(".")}
    others = (tops & {*MAY_IMPORT, "tests", "benchmarks"}) - {here} - MAY_IMPORT[here]
    return sorted(others | (tops & NOT_IN.get(here, set()) - BUT.get(name, set())))


def modules_of(names):
    """{dotted name: path} of the modules at these paths; a package has its folder's name."""
    dotted = {name: name.removesuffix(".py").replace("/", ".") for name in names}
    return {module.removesuffix(".__init__"): name for name, module in dotted.items()}


def module_graph(trees):
    """{path: the paths of the modules that it imports}."""
    modules = modules_of(trees)
    graph = {}
    for name, tree in trees.items():
        names = set()
        imports = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
        for node in imports:
            for alias in node.names:
                if isinstance(node, ast.Import):
                    names.add(alias.name)
                else:
                    full = f"{node.module}.{alias.name}"
                    names.add(full if full in modules else node.module)
        graph[name] = {modules[full] for full in names if full in modules} - {name}
    return graph


def folder_graph(graph):
    """{sub-folder of a room: the other sub-folders that it imports}, from a graph of modules."""
    folders = {}
    for name, others in graph.items():
        here = str(Path(name).parent)
        if "/" in here:
            there = {str(Path(other).parent) for other in others} - {here}
            folders.setdefault(here, set()).update(path for path in there if "/" in path)
    return folders


def circles(graph):
    """The nodes that lie on a circle of a graph, sorted."""

    def reached(start):
        seen, to_visit = set(), list(graph.get(start, ()))
        while to_visit:
            node = to_visit.pop()
            if node not in seen:
                seen.add(node)
                to_visit += graph.get(node, ())
        return seen

    return sorted(node for node in graph if node in reached(node))


def private_names(trees):
    """{path: the private names of other modules that it imports or accesses}."""
    own = {name: own_names(tree) for name, tree in trees.items()}
    everywhere = set().union(*own.values()) - NAMED_TUPLES
    uses = {}
    for name, tree in trees.items():
        names = []
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in MAY_IMPORT:
                names += [alias.name for alias in node.names if is_private(alias.name)]
            elif isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls"):
                names += [node.attr] if node.attr in everywhere - own[name] else []
        if names:
            uses[name] = names
    return uses


def is_private(name):
    """Whether a name begins with one underscore."""
    return re.match(r"_[^_]", name) is not None


def own_names(tree):
    """The private names that a module defines: functions, classes, variables, attributes."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
    return set(filter(is_private, names))


def crowded(names):
    """{folder: number of modules} where there are more than a reader takes in at once."""
    counts = Counter(str(Path(name).parent) for name in names if Path(name).name != "__init__.py")
    return {folder: count for folder, count in counts.items() if count > MOST}


def repeated_basenames(names):
    """The names that modules of several folders share."""
    counts = Counter(Path(name).stem for name in names)
    return sorted(stem for stem in counts if counts[stem] > 1 and stem not in IN_SEVERAL_ROOMS)


GRAPH = module_graph(HOUSE)


def test_every_room_is_checked():
    assert {room_of(name) for name in HOUSE} == set(MAY_IMPORT)
    assert len(HOUSE) > 30 and "tests/project/test_architecture.py" in SOURCES


@pytest.mark.parametrize("name", HOUSE)
def test_imports_run_one_way(name):
    assert forbidden_imports(name, HOUSE[name]) == []


def test_no_module_imports_itself_by_way_of_others():
    assert circles(GRAPH) == []


def test_folders_of_a_room_import_one_way():
    folders = folder_graph(GRAPH)
    assert {"ct/dicom", "pipeline/stages"} <= set(folders)
    assert circles(folders) == []


def test_private_names_stay_in_their_module():
    assert private_names(HOUSE) == {}


def test_folders_are_small():
    assert crowded(HOUSE) == {}
    assert crowded(name for name in SOURCES if name.startswith("benchmarks/")) == {}


def test_a_basename_stands_for_one_module():
    assert repeated_basenames(HOUSE) == []


def test_the_checks_find_what_they_look_for():
    """Each check on lines that break it."""
    parse = ast.parse
    assert forbidden_imports("ct/a.py", parse("from stage1_cnn.model import x")) == ["stage1_cnn"]
    assert forbidden_imports("ct/a.py", parse("def f():\n    import torch.nn")) == ["torch"]
    assert forbidden_imports(
        "features/a.py", parse("import pipeline.checked_options, ct.labels")
    ) == ["pipeline"]
    assert forbidden_imports("stage2_stack/a.py", parse("from run import main")) == ["run"]
    assert forbidden_imports("stage2_stack/stacker.py", parse("import torch")) == ["torch"]
    assert forbidden_imports(TORCH_USER, parse("import torch, timm")) == ["timm"]
    assert (
        forbidden_imports(
            "report/a.py", parse("from ct import run_dir\nimport report.run_artifacts")
        )
        == []
    )
    assert forbidden_imports("pipeline/a.py", parse("import run, report, tests")) == [
        "run",
        "tests",
    ]
    trees = {
        "ct/x/a.py": parse("from ct.y import b"),
        "ct/y/b.py": parse("def f():\n    import ct.x.c"),
        "ct/x/c.py": parse("import ct.labels"),
    }
    graph = module_graph(trees)
    assert graph == {"ct/x/a.py": {"ct/y/b.py"}, "ct/y/b.py": {"ct/x/c.py"}, "ct/x/c.py": set()}
    assert circles(graph) == [] and circles(folder_graph(graph)) == ["ct/x", "ct/y"]
    # an import for the type checker alone counts, too
    trees["ct/x/c.py"] = parse("if TYPE_CHECKING:\n    from ct.x.a import A")
    assert circles(module_graph(trees)) == sorted(trees)
    trees = {"ct/a.py": parse("def _f(): ..."), "ct/b.py": parse("from ct.a import _f")}
    assert private_names(trees) == {"ct/b.py": ["_f"]}
    trees["ct/b.py"] = parse("import ct.a\nct.a._f()\nself._f()\nos._exit(1)\nrow._replace()")
    assert private_names(trees) == {"ct/b.py": ["_f"]}
    assert crowded(f"ct/m{number}.py" for number in range(MOST + 1)) == {"ct": MOST + 1}
    assert repeated_basenames(["ct/a.py", "report/a.py", "ct/config.py", "report/config.py"]) == [
        "a"
    ]


SLOW = ("torch", "timm", "lightgbm", "optuna", "matplotlib")


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("run, pipeline.checked_options", SLOW),
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
