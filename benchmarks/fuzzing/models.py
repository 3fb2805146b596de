"""Damaged model folders, their digests recomputed as a stranger would; what loads predicts."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
from kept_runs import unpack
from safetensors.torch import load_file, save
from yaml import safe_dump, safe_load

from benchmarks.fuzzing.byte_damage import damaged, damaged_text, damaged_values
from ct.errors import InputError
from ct.labels import LABELS
from pipeline.scoring.packed_model import model_of_folder
from stage1_cnn.model import load_model
from stage2_stack.learners.binned_features import BinnedFeatures

PLATT = {"slope": 1.0, "intercept": 0.0, "prior": -2.0, "floor": None, "step": 0.0}
BOOSTER = "boosters/lightgbm-any-fold1-seed0.txt"


def make_seeds(folder):
    """Return the paths of two packed models.

    One has LightGBM, a Markov chain and a probe, the other a GRU and XGBoost besides.
    """
    plain = unpack(folder / "kept") / "model"
    rich = Path(shutil.copytree(plain, folder / "rich"))
    stage2, recipe = (
        json.loads((rich / "stage2.json").read_text("utf-8")),
        safe_load((rich / "recipe.yaml").read_text("utf-8")),
    )
    recipe["stage2"]["components"] += ["gru"]
    stage2["blend"]["subdural"] = [_blend("gru"), _blend("raw")]
    (rich / "boosters" / "gru-fold0-seed0.safetensors").write_bytes(_network(stage2["names"]))
    _write(rich, stage2, recipe)
    foreign = Path(shutil.copytree(rich, folder / "foreign"))
    if (booster := _xgboost(stage2["names"])) is not None:
        recipe["stage2"]["components"] += ["xgboost"]
        stage2["blend"]["epidural"] = [_blend("xgboost"), _blend("raw")]
        (foreign / "boosters" / "xgboost-epidural-fold0-seed0.json").write_bytes(booster)
    _write(foreign, stage2, recipe)
    for model in (plain, rich, foreign):
        model_of_folder(model)
    return plain, rich, foreign


def _blend(component):
    return {"calibrations": {component: PLATT}, "weights": {component: 1.0}, "last": None}


def _write(folder, stage2, recipe):
    (folder / "stage2.json").write_text(json.dumps(stage2), encoding="utf-8")
    (folder / "recipe.yaml").write_text(safe_dump(recipe), encoding="utf-8")
    digests_again(folder)


def _network(names):
    from features.columns import slice_columns
    from stage2_stack.learners.gru_network import SeriesNetwork

    logit_columns, place = slice_columns(names)
    return save(SeriesNetwork(logit_columns.shape[1], len(place), 8).state_dict())


def _xgboost(names):
    try:
        from stage2_stack.components.label_xgboost import PARAMS, XGBoost
    except ImportError:
        return None
    from features.columns import scope_columns

    columns, rng, learner = (
        scope_columns(names, "epidural", "study"),
        np.random.default_rng(0),
        XGBoost(),
    )
    X = rng.normal(size=(200, len(names))).astype(np.float32)
    data = learner.dataset(
        BinnedFeatures(X, names),
        columns,
        np.arange(200),
        (X[:, columns[0]] > 0).astype(float),
        np.zeros(200),
    )
    return learner.save(learner.fit(data, PARAMS, 4, 0, 1)[0])


def digests_again(folder):
    """Write the digests of the files that are there now into model.json."""
    about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    about["files"] = {
        path.relative_to(folder).as_posix(): hashlib.blake2b(
            path.read_bytes(), digest_size=16
        ).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "model.json"
    }
    (folder / "model.json").write_text(json.dumps(about), encoding="utf-8")


def mutate(rng, seeds, folder):
    """Write one damaged model folder."""
    seed = seeds[int(rng.choice([0, 0, 0, 0, 0, 1, 1, 1, 1, 2]))]
    model = Path(shutil.copytree(seed, folder / "model", copy_function=shutil.copyfile))
    kinds = {
        "values": 0.3,
        "booster": 0.3,
        "arrays": 0.1,
        "bytes": 0.15,
        "files": 0.1,
        "about": 0.05,
    }
    kind = "foreign" if seed == seeds[2] else str(rng.choice(list(kinds), p=list(kinds.values())))
    return f"{seed.name}, {globals()[f'_{kind}'](rng, model)}"


def _values(rng, model):
    name = str(rng.choice(["stage2.json", "stage2.json", "recipe.yaml"]))
    read, write = (safe_load, safe_dump) if name.endswith("yaml") else (json.loads, json.dumps)
    path = model / name
    path.write_text(
        write(damaged_values(rng, read(path.read_text(encoding="utf-8")))), "utf-8", "replace"
    )
    digests_again(model)
    return f"values of {name}"


def _booster(rng, model):
    """Damage a booster's numbers, lines or bytes; sometimes correct the sizes of its trees."""
    path, kind = model / BOOSTER, int(rng.integers(4))
    text = path.read_text(encoding="utf-8")
    if kind < 2:
        for _ in range(int(rng.choice([1, 1, 3]))):
            places = [
                at
                for at in range(text.index("Tree=0"), text.index("end of trees"))
                if text[at].isdigit()
            ]
            at = places[int(rng.integers(len(places)))]
            text = text[:at] + str(rng.choice([*"0123456789", "-"])) + text[at + 1 :]
    elif kind == 2:
        text, _ = damaged_text(rng, text)
    else:
        text = damaged(rng, text.encode())[0].decode("latin-1")
    if rng.random() < 0.5 and "Tree=0" in text and "end of trees" in text:
        trees = text[text.index("Tree=0") : text.index("end of trees")].split("Tree=")[1:]
        sizes = " ".join(str(len(tree) + 5) for tree in trees)
        text = "\n".join(
            f"tree_sizes={sizes}" if line.startswith("tree_sizes=") else line
            for line in text.split("\n")
        )
    path.write_text(text, "utf-8", "replace")
    digests_again(model)
    return f"booster {kind}"


def _arrays(rng, model):
    """Change the shape, the type, a value or the name of an array of weights, or leave it out."""
    path = sorted(model.rglob("*.safetensors"))[
        int(rng.integers(len(list(model.rglob("*.safetensors")))))
    ]
    arrays, kind = load_file(path), int(rng.integers(6))
    name = sorted(arrays)[int(rng.integers(len(arrays)))]
    array = arrays.pop(name)
    if kind == 0:
        arrays[name] = array.reshape(-1)[:-1].clone()
    elif kind == 1:
        arrays[name] = array.half()
    elif kind == 2:
        arrays[name] = array * float(rng.choice([np.nan, np.inf, 1e30, 0.0]))
    elif kind == 3:
        arrays[name + "x"] = array
    elif kind == 4:
        arrays[name] = array[None].contiguous()
    path.write_bytes(save(arrays))
    digests_again(model)
    return f"{path.name}: {name} {kind}"


def _bytes(rng, model):
    files = sorted(
        path for path in model.rglob("*") if path.is_file() and path.name != "model.json"
    )
    path = files[int(rng.integers(len(files)))]
    raw = path.read_bytes()
    head = raw if path.suffix != ".safetensors" else raw[:3000]  # where its header lies
    path.write_bytes(damaged(rng, head)[0] + raw[len(head) :])
    digests_again(model)
    return f"bytes of {path.name}"


def _files(rng, model):
    """Take a file away, add one, link one; with digests redone, or not."""
    files = sorted(
        path for path in model.rglob("*") if path.is_file() and path.name != "model.json"
    )
    path, kind = files[int(rng.integers(len(files)))], int(rng.integers(5))
    if kind == 0:
        path.unlink()
    elif kind == 1:
        shutil.copyfile(path, path.with_name("more" + path.suffix))
    elif kind == 2:
        path.rename(model / "elsewhere")
        path.symlink_to(model / "elsewhere")
    elif kind == 3:
        path.write_bytes(b"")
    else:
        path.unlink()
        path.mkdir()
    if rng.random() < 0.6:
        digests_again(model)
    return f"{path.name} {kind}"


def _about(rng, model):
    path = model / "model.json"
    if rng.random() < 0.5:
        path.write_text(
            json.dumps(damaged_values(rng, json.loads(path.read_text(encoding="utf-8")))),
            "utf-8",
            "replace",
        )
    else:
        path.write_bytes(damaged(rng, path.read_bytes())[0])
    return "model.json"


def _foreign(rng, model):
    """Damage XGBoost's trees, whose reader does not check its file."""
    paths = list((model / "boosters").glob("xgboost*"))
    if not paths:
        return _booster(rng, model)
    whole = json.loads(paths[0].read_text(encoding="utf-8"))
    trees = whole["learner"]["gradient_booster"]["model"]["trees"]
    tree = trees[int(rng.integers(len(trees)))]
    key = str(
        rng.choice(
            [
                "left_children",
                "right_children",
                "split_indices",
                "base_weights",
                "split_conditions",
                "default_left",
            ]
        )
    )
    tree[key][int(rng.integers(len(tree[key])))] = int(
        rng.choice([-1, -7, 0, 1, 5, 99, 10**6, 2**31 - 1])
    )
    paths[0].write_text(json.dumps(whole), encoding="utf-8")
    digests_again(model)
    return f"xgboost {key}"


def attempt(folder):
    """Read the model; one that is accepted predicts probabilities."""
    os.chdir(folder)
    try:
        model = model_of_folder("model")
    except InputError as error:
        return str(error)
    for config in model.recipe.stage1.models:
        load_model(config, load_file(model.weights[config.name, 0]))
    names = model.stage2["names"]
    X = np.random.default_rng(0).normal(0, 3, (6, len(names))).astype(np.float32)
    X[::2, ::3] = np.nan
    for k in range(model.recipe.folds.k):
        probs = model.stacker(k).predict(X, names, np.array([0, 4]))
        if probs.shape != (6, len(LABELS)) or not ((probs >= 0) & (probs <= 1)).all():
            raise ValueError("a model that was taken predicts what is no probability")
    model.study_calibrations()
    return ""
