"""The changes of docs/extending.md apply as they are written, are short, and work."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT, copy_tree

PAGE = (ROOT / "docs" / "extending.md").read_text()
CHANGES = dict(
    zip(
        ("backbone", "feature", "stacker"),
        re.findall(r"```diff\n(.*?)```", PAGE, re.S),
        strict=True,
    )
)
CHECKS = {
    "backbone": """
from pipeline.recipe import find_recipe, load_recipe
from stage1_cnn.backbones.timm_models import check_backbone
from stage1_cnn.model import check_trainable
recipe = load_recipe(find_recipe("small"))
added = recipe.stage1.models[-1]
assert added.name == "ghostnet" and len(recipe.stage1.models) == 3
check_backbone(added.backbone)
check_trainable(added, recipe.pixels.size)
""",
    "feature": """
import numpy as np
from features.build import build_features
from features.columns import describe
from features.config import FeatureConfig
from tiny_tables import slice_table
studies = ("train", 0, [0, 5, 10, 15]), ("train", 1, [0, 5, 10])
slices = slice_table(*studies, skull_cm2=50.0, brain_cm2=150.0)
X, names = build_features(slices, {"cnn": np.zeros((7, 6))}, FeatureConfig())
assert describe("bone_share") == "bone area over bone and brain area"
assert (X[:, names.index("bone_share")] == 0.25).all()
""",
    "stacker": """
import numpy as np
from ct.labels import LABELS
from stage2_stack.ablation import ablation
from stage2_stack.config import StackConfig
from stage2_stack.stack_context import StackData
from stage2_stack.stacker import fit_stack
rng = np.random.default_rng(0)
y = (rng.random((600, 6)) < 0.3).astype(float)
parts = [rng.normal(size=(600, 6)) + strength * y for strength in (0.5, 2.0)]
X = np.hstack(parts).astype(np.float32)
names = [*LABELS, *(f"{label}_probe" for label in LABELS)]
data = StackData(X, y, np.arange(600) % 3, np.arange(600), names)
not_tuned = {label: [{"stacked": False, "params": {}, "rounds": 0}] * 3 for label in LABELS}
config = StackConfig(components=("raw", "probe"))
stacks = fit_stack(data, X[None, :5].repeat(3, axis=0), not_tuned, config, 0)
raw, probe, blend = ablation(stacks, y, np.ones(600, bool), data.patients, 0)
assert probe["name"] == "probe of the embeddings"
assert blend["loss"]["weighted"] < raw["loss"]["weighted"] - 0.05
""",
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of what git tracks or would."""
    return copy_tree(tmp_path_factory.mktemp("extended") / "ich-stack")


@pytest.mark.parametrize("what", CHANGES)
def test_the_change_applies_and_works(what, copy):
    assert len(re.findall(r"^[+-](?![+-])", CHANGES[what], re.M)) < 20
    patch = copy / f"{what}.patch"
    patch.write_text(CHANGES[what])
    subprocess.run(["git", "apply", patch.name], cwd=copy, check=True)
    environment = {"PYTHONPATH": f"{copy}:{copy / 'tests'}", "OMP_NUM_THREADS": "1"}
    of_copy = f"import features\nassert features.__file__.startswith({str(copy)!r})\n"
    words = [sys.executable, "-c", of_copy + CHECKS[what]]
    done = subprocess.run(
        words, cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
