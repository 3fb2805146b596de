"""Packed models with right digests and wrong content: one line of error before any scoring."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from safetensors.numpy import load_file, save_file

from ct.errors import InputError, MachineFault
from ct.labels import LABELS
from pipeline.scoring import weight_checks
from pipeline.scoring.packed_model import model_of_folder
from stage2_stack.components.component import load_component
from stage2_stack.foreign_boosters import first_fault

BOOSTER = "boosters/lightgbm-any-fold1-seed0.txt"
WEIGHTS = "weights/cnn-fold0.safetensors"


@pytest.fixture
def folder(older_version, tmp_path):
    """A packed model with a Markov chain, a probe and a booster. It may be changed."""
    return shutil.copytree(older_version / "model", tmp_path / "model")


def pack_again(folder, listed=None):
    """Write the digests of the changed files, as an attacker would."""
    about = json.loads((folder / "model.json").read_text())
    about["files"] = {
        path.relative_to(folder).as_posix(): hashlib.blake2b(
            path.read_bytes(), digest_size=16
        ).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "model.json"
    } | (listed or {})
    (folder / "model.json").write_text(json.dumps(about))


def assert_refused(folder, message):
    with pytest.raises(InputError, match=message) as caught:
        model_of_folder(folder)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def with_value(path, keys, value):
    """Change a value of a JSON or YAML file, or remove it (None of ...)."""
    reads, writes = (
        (yaml.safe_load, yaml.safe_dump) if path.suffix == ".yaml" else (json.loads, json.dumps)
    )
    whole = inner = reads(path.read_text())
    for key in keys[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = value
    path.write_text(writes(whole))


def test_a_packed_model_is_read(folder):
    (folder / ".DS_Store").write_bytes(b"of macOS")
    model = model_of_folder(folder)
    assert (
        set(model.boosters) == {BOOSTER.split("/")[1]} and len(model.weights) == 2 and model.probes
    )
    assert model.stage2 == json.loads((folder / "stage2.json").read_text())  # the same numbers
    pack_again(folder)
    assert model_of_folder(folder).stage2 == model.stage2


# files


def test_a_file_that_is_not_listed_is_refused(folder):
    shutil.copy(folder / WEIGHTS, folder / "weights" / "other.safetensors")
    assert_refused(folder, "weights/other.safetensors is not among the files")


@pytest.mark.parametrize(
    "reader", ["pathlib.Path.read_text", "pipeline.scoring.weight_checks.safe_open"]
)
def test_an_input_error_of_the_disk_is_a_machine_fault(folder, monkeypatch, reader):
    def fail(*args, **kwargs):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    model_of_folder(folder)
    monkeypatch.setattr(reader, fail)
    with pytest.raises(
        MachineFault,
        match="^the data cannot be read, input/output error: is the disk of .* still there",
    ):
        model_of_folder(folder)


@pytest.mark.parametrize(
    "name", [WEIGHTS, BOOSTER, "probes.safetensors", "stage2.json", "recipe.yaml"]
)
def test_a_needed_file_must_be_listed(folder, name):
    (folder / name).unlink()
    pack_again(folder)
    assert_refused(folder, f"{name} is missing")


def test_links_are_refused(folder, tmp_path):
    for name in ("weights", WEIGHTS):
        shutil.move(folder / name, tmp_path / "elsewhere")
        (folder / name).symlink_to(tmp_path / "elsewhere")
        assert_refused(folder, f"{name} is a link")
        (folder / name).unlink()
        shutil.move(tmp_path / "elsewhere", folder / name)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a//b", "./a", "a\\b", "a\nb", ""])
def test_names_lie_inside_the_folder(folder, name):
    pack_again(folder, {name: "0" * 32})
    assert_refused(folder, "model.json: files = .*inside the folder")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"format": 1e999}',
        "\x00",
        '{"format": NaN}',
        "[]",
        '"ich-stack model 1"',
        '{"format": ' + "9" * 5000 + "}",
    ],
)
def test_a_broken_model_json_is_refused(folder, text):
    (folder / "model.json").write_text(text)
    assert_refused(folder, "is no model folder")


# stage2.json


PLATT = {"slope": 1.0, "intercept": 0.0, "prior": 0.0, "floor": None, "step": 0.0}
STAGE_TWO = {
    "a label less": (["blend", "any"], ..., "blend = .*the label any is missing"),
    "a label more": (["blend", "stroke"], [], "stroke"),
    "a fold less": (["calibration", "any"], [PLATT], "calibration.any: 1 entries for 2 folds"),
    "a falling slope": (["calibration", "any", 0, "slope"], -1, "calibration.any.0.slope = -1"),
    "text": (["calibration", "any", 0, "slope"], "1", "calibration.any.0.slope = '1'"),
    "a huge slope": (["studies", "any", "slope"], 1e300, "studies.any.slope"),
    "an unknown key": (["studies", "any", "eval"], 1, "unknown key 'studies.any.eval'"),
    "a step below 0": (["studies", "any", "step"], -0.5, "studies.any.step"),
    "no prior": (["studies", "any", "prior"], ..., "'studies.any.prior' is missing"),
    "an unknown component": (["blend", "any", 0, "weights"], {"oracle": 1.0}, "oracle"),
    "a component that is not used": (
        ["blend", "any", 0],
        {"calibrations": {"gru": PLATT}, "weights": {"gru": 1.0}, "last": None},
        "gru is not one of its components",
    ),
    "pooled for any": (
        ["blend", "any", 0],
        {"calibrations": {"pooled": PLATT}, "weights": {"pooled": 1.0}, "last": None},
        "pooled is not one of its components",
    ),
    "a weight of 0": (["blend", "any", 0, "weights", "raw"], 0, "weights"),
    "weights of 2": (
        ["blend", "any", 1, "weights"],
        {"raw": 1.0, "lightgbm": 1.0},
        "do not sum to 1",
    ),
    "no weights": (["blend", "any", 0, "weights"], {}, "weights"),
    "no calibration": (["blend", "any", 0, "calibrations"], {}, "no calibration"),
    "other names": (["names", 0], "every", "names: this version builds other features"),
    "names in another order": (
        ["names"],
        [*LABELS[::-1]],
        "names: this version builds other features",
    ),
    "no chain": (["chain"], ..., "chain"),
    "a temperature above 1": (["chain", "any", "temper"], 1.5, "chain.any.temper"),
    "a certain first slice": (["chain", "any", "first"], 1, "chain.any.first"),
    "a prior of 0": (["prior", "any"], 0, "prior.any"),
    "a range upside down": (["training", "slices"], [5, 1], "slices is not a range"),
    "no series": (["training", "series"], ..., "series, the largest number"),
    "a range of text": (["training", "slices"], "many", "training.slices"),
}


@pytest.mark.parametrize("kind", STAGE_TWO)
def test_a_wrong_value_in_stage_two_is_refused(folder, kind):
    keys, value, message = STAGE_TWO[kind]
    with_value(folder / "stage2.json", keys, value)
    pack_again(folder)
    assert_refused(folder, f"--model=.*stage2.json: .*{message}")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"prior": -', '"prior": -1e999, "x": -'),
        ('"prior": -', '"prior": NaN, "x": -'),
        ("{", "[" * 9000),
    ],
)
def test_a_broken_stage_two_json_is_refused(folder, old, new):
    path = folder / "stage2.json"
    path.write_text(path.read_text().replace(old, new, 1))
    pack_again(folder)
    assert_refused(folder, "stage2.json does not read")


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (["stage1", "models", 0, "backbone"], "no_such_net", "timm has no model 'no_such_net'"),
        (["stage1", "models", 0, "backbone"], "test_resnet", f"{WEIGHTS} does not fit"),
        (["stage1", "models", 0, "neighbours"], 1, f"{WEIGHTS} does not fit.*has the shape"),
        (["stage1", "models", 0, "threads"], 10**9, "threads"),
        (["stage1", "models"], [], "models is empty"),
        (["stage1", "imports"], ["x"], "imported models"),
        (["folds", "k"], 3, "entries for 3 folds"),
        (["features", "reach"], 2, "names: this version builds other features"),
        (["stage2", "components"], ["raw"], "lightgbm is not one of its components"),
        (["stage2", "seeds"], 2, "fold1-seed1.txt is missing"),
        (["stage2", "threads"], 10**9, "threads"),
    ],
    ids=str,
)
def test_a_recipe_of_another_model(folder, keys, value, message):
    with_value(folder / "recipe.yaml", keys, value)
    pack_again(folder)
    assert_refused(folder, message)


# weights, probes, boosters


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: a | {"conv_stem.weight": a["conv_stem.weight"][:, :, :1]},
            "conv_stem.weight has the shape",
        ),
        (
            lambda a: {name: value for name, value in a.items() if name != "conv_stem.weight"},
            "lacks 1 arrays, the first conv_stem.weight",
        ),
        (
            lambda a: a | {"more": np.zeros(3, np.float32)},
            "1 arrays more than it should, the first more",
        ),
        (
            lambda a: a | {"conv_stem.weight": a["conv_stem.weight"] * np.float32("nan")},
            "holds no finite float32",
        ),
        (
            lambda a: a | {"conv_stem.weight": a["conv_stem.weight"].astype(np.float64)},
            "holds no finite float32",
        ),
    ],
)
def test_weights_must_fit_the_cnn(folder, change, message):
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS)
    pack_again(folder)
    assert_refused(folder, f"{WEIGHTS} does not fit the model .*{message}")


def test_a_huge_cnn_is_not_built_before_its_weights_are_checked(folder, monkeypatch):
    """The recipe claims 1.8 billion weights (7 GB), the folder holds a few thousand."""
    build = weight_checks.untrained_model

    def watched(config):
        if not torch.empty(0).is_meta:
            raise RuntimeError("built with all its weights")
        return build(config)

    monkeypatch.setattr(weight_checks, "untrained_model", watched)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["stage1"]["models"][0] |= {"backbone": "vit_gigantic_patch14_224", "image_size": 224}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    pack_again(folder)
    assert_refused(folder, f"{WEIGHTS} does not fit the model .*it lacks")


@pytest.mark.parametrize("end", [0, 7, 100, -1])
@pytest.mark.parametrize("name", [WEIGHTS, "probes.safetensors"])
def test_truncated_weights_are_refused(folder, name, end):
    (folder / name).write_bytes((folder / name).read_bytes()[:end])
    pack_again(folder)
    assert_refused(folder, f"{name} does not fit the model .*no safetensors file")


def test_probes_must_fit_the_cnn(folder):
    path = folder / "probes.safetensors"
    whole = load_file(path)
    for change, message in (
        ({"cnn.fold1.centre": whole["cnn.fold1.centre"][:-1]}, "has the shape"),
        (
            {"cnn.fold1.weights": np.full_like(whole["cnn.fold1.weights"], np.inf)},
            "holds no finite",
        ),
    ):
        save_file(whole | change, path)
        pack_again(folder)
        assert_refused(folder, f"probes.safetensors does not fit the model .*{message}")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("split_feature=", "split_feature=9", "a feature that does not exist"),
        ("left_child=1", "left_child=9", "two parents or none"),
        ("feature_names=any ", "feature_names=age ", "reads the feature 'age', which is not there"),
        ("tree\n", "", "has other lines|has no trees"),
    ],
)
def test_a_booster_that_would_crash_lightgbm_is_refused(folder, old, new, message):
    text = (folder / BOOSTER).read_text()
    at = text.index(old) + len(old) - 1
    # keep the number of characters where possible
    rest = text[at + 1 :] if len(new) <= len(old) else text[at + 2 :]
    (folder / BOOSTER).write_text(text[: at + 1 - len(old)] + new + rest)
    pack_again(folder)
    assert_refused(folder, f"{BOOSTER} does not fit the model .*{message}")


# components that need another package


def small_xgboost():
    from stage2_stack.components.label_xgboost import PARAMS, XGBoost
    from stage2_stack.learners.binned_features import BinnedFeatures

    rng, learner = np.random.default_rng(0), XGBoost()
    X = rng.normal(size=(200, 4)).astype(np.float32)
    data = learner.dataset(
        BinnedFeatures(X, list("abcd")),
        np.arange(4),
        np.arange(200),
        (X[:, 0] > 0).astype(float),
        np.zeros(200),
    )
    return learner.save(learner.fit(data, PARAMS, 3, 0, 1)[0])


def test_a_native_crash_of_xgboost_is_one_line(tmp_path):
    pytest.importorskip("xgboost")
    whole = json.loads(small_xgboost())
    (tmp_path / "good.json").write_text(json.dumps(whole))
    tree = whole["learner"]["gradient_booster"]["model"]["trees"][0]
    tree["left_children"][0] = 99_999_999
    (tmp_path / "bad.json").write_text(json.dumps(whole))
    (tmp_path / "text.json").write_text("{}")
    good, bad, text = (
        (str(tmp_path / f"{name}.json"), "xgboost", 4) for name in ("good", "bad", "text")
    )
    assert first_fault([]) is None and first_fault([good, good]) is None
    assert first_fault([good, bad, good]) == (bad[0], "xgboost crashes on it")
    path, why = first_fault([text])
    assert path == text[0] and why.startswith("xgboost does not read it") and "\n" not in why
    assert first_fault([(good[0], "xgboost", 5)]) == (good[0], "it reads 4 columns, not 5")


def test_boosters_are_tried_under_a_limit_of_the_parents_too(tmp_path):
    """A process that may have less memory than the child takes cannot raise the limit."""
    code = (
        "import resource\nfrom stage2_stack import foreign_boosters\n"
        "set_to = resource.setrlimit\n"
        "def as_nobody(which, limits):\n"
        "    if limits[1] > resource.getrlimit(which)[1] > 0:\n"
        "        raise ValueError('not allowed')\n"
        "    set_to(which, limits)\n"
        "set_to(resource.RLIMIT_AS, (4 << 30, 4 << 30))\nresource.setrlimit = as_nobody\n"
        "foreign_boosters.serve()\n"
        "raise SystemExit(resource.getrlimit(resource.RLIMIT_AS) != (4 << 30, 4 << 30))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout[-5:]) == (0, b"ready"), done.stderr


def test_a_network_on_other_features_is_refused():
    from safetensors.torch import save

    from features.columns import slice_columns
    from stage2_stack.learners.gru_network import SeriesNetwork

    names = [*LABELS, "position_rel", "gap_below_mm", "gap_above_mm"]
    logits, place = slice_columns(names)
    state = SeriesNetwork(logits.shape[1], len(place), 5).state_dict()
    network = load_component("gru")
    network.check_file(save(state), names)
    for wrong in (
        {name: value for name, value in state.items() if name != "leave.bias"},
        state | {"enter.weight": state["enter.weight"][:, :-1].contiguous()},
        state | {"leave.bias": torch.tensor([torch.nan])},
        SeriesNetwork(logits.shape[1] + 1, len(place), 5).state_dict(),
    ):
        with pytest.raises(ValueError, match="its (arrays|weights)"):
            network.check_file(save(wrong), names)
    with pytest.raises(ValueError, match="no safetensors"):
        network.check_file(save(state)[:50], names)
