"""LightGBM's text: all that it writes passes, and no damaged text that could crash its parser."""

import re
from functools import cache

import lightgbm as lgb
import numpy as np
import pytest

from stage2_stack.learners.lightgbm_text import check_booster_text

NAMES = ["any", "any_z+1", "any_smooth5mm", "tilt_deg"]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, len(NAMES))).astype(np.float32)
X[::7, 1], X[:, 3] = np.nan, 0.0


@cache
def booster(rounds=4, **params):
    y = (X[:, 0] + np.nan_to_num(X[:, 1]) > 0).astype(float)
    params = {"objective": "binary", "verbosity": -1, "num_threads": 1, "seed": 1, **params}
    return lgb.train(params, lgb.Dataset(X, y, feature_name=NAMES), rounds).model_to_string()


@pytest.mark.parametrize(
    "params",
    [
        {"num_leaves": 7},
        {"num_leaves": 2, "zero_as_missing": True},
        {"min_data_in_leaf": 300},  # no split at all
        {"use_missing": False, "lambda_l2": 1e9},
        {
            "rounds": 120,
            "num_leaves": 31,
            "min_data_in_leaf": 2,
            "bagging_fraction": 0.5,
            "bagging_freq": 1,
        },
    ],
    ids=str,
)
def test_what_lightgbm_writes_passes(params):
    assert check_booster_text(booster(**params)) == NAMES


def line(key, change, tree=0):
    """Return a function that changes a line of a tree, and the tree's size in the header."""

    def edit(text):
        start = text.index(f"Tree={tree}\n")
        match = re.compile(rf"^{key}=(.*)$", re.M).search(text, start)
        new = change(match[1].split(" "))
        changed = text[: match.start(1)] + " ".join(new) + text[match.end(1) :]
        sizes = re.search(r"^tree_sizes=(.*)$", changed, re.M)
        counts = sizes[1].split(" ")
        counts[tree] = str(int(counts[tree]) + len(changed) - len(text))
        return changed[: sizes.start(1)] + " ".join(counts) + changed[sizes.end(1) :]

    return edit


def swap(old, new):
    return lambda text: text.replace(old, new, 1)


DAMAGED = {
    "feature": (
        line("split_feature", lambda v: ["4", *v[1:]]),
        "splits on a feature that does not exist",
    ),
    "feature below 0": (line("split_feature", lambda v: ["-1", *v[1:]]), "splits on a feature"),
    "feature of 10 digits": (
        line("split_feature", lambda v: ["4294967296", *v[1:]]),
        "split_feature holds",
    ),
    "fewer features": (line("split_feature", lambda v: v[1:]), "values of split_feature"),
    "no thresholds": (line("threshold", lambda v: [""]), "values of threshold"),
    "more leaves": (line("num_leaves", lambda v: ["9"]), "values of"),
    "huge leaves": (line("num_leaves", lambda v: ["999999999"]), "leaves"),
    "no leaves": (line("num_leaves", lambda v: ["0"]), "leaves"),
    "child beyond": (line("left_child", lambda v: ["99", *v[1:]]), "two parents or none"),
    "leaf beyond": (line("left_child", lambda v: ["-99", *v[1:]]), "two parents or none"),
    "circle": (line("left_child", lambda v: ["0", *v[1:]]), "two parents or none"),
    "categorical split": (line("decision_type", lambda v: ["1", *v[1:]]), "kind of split"),
    "categories": (line("num_cat", lambda v: ["1"]), "categorical splits"),
    "linear": (line("is_linear", lambda v: ["1"]), "linear leaves"),
    "infinite leaf": (line("leaf_value", lambda v: ["1e999", *v[1:]]), "infinite number"),
    "nan leaf": (line("leaf_value", lambda v: ["nan", *v[1:]]), "leaf_value holds 'nan'"),
    "a line less": (line("leaf_count", lambda v: [*v, "\nx=1"]), "other lines"),
    "sizes": (
        swap("tree_sizes=", "tree_sizes=9"),
        "does not end where it should|is not what LightGBM writes",
    ),
    "no sizes": (
        lambda text: re.sub(r"tree_sizes=.*", "tree_sizes=", text),
        "is not what LightGBM writes",
    ),
    "classes": (swap("num_class=1", "num_class=9"), "num_class is '9'"),
    "trees a round": (
        swap("num_tree_per_iteration=1", "num_tree_per_iteration=0"),
        "num_tree_per_iteration",
    ),
    "objective": (swap("binary sigmoid:1", "none"), "objective"),
    "features": (swap("max_feature_idx=3", "max_feature_idx=300"), "feature names"),
    "a name twice": (swap("any_z+1 ", "any "), "feature names"),
    "ranges": (lambda text: re.sub(r"feature_infos=.*", "feature_infos=0:1:2", text), "ranges"),
    "version": (swap("version=v4", "version=v3"), "version"),
    "parameters": (swap("[num_leaves: ", '[num_leaves: "'), "is not what LightGBM writes"),
    "categories of pandas": (
        swap("pandas_categorical:null", "pandas_categorical:[1"),
        "is not what LightGBM writes",
    ),
    "nothing": (lambda text: "", "has no trees"),
    "an umlaut": (swap("any_z+1", "any_ü"), "no ASCII"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_text_is_refused(kind):
    edit, message = DAMAGED[kind]
    text = edit(booster(num_leaves=7))
    assert text != booster(num_leaves=7)
    with pytest.raises(ValueError, match=message):
        check_booster_text(text)


def test_two_nodes_that_are_each_others_parents_are_refused():
    """Every node and leaf occurs once, but a cycle of two is not reachable, and would never end."""
    text = booster(num_leaves=4)
    assert "\nnum_leaves=4\n" in text
    for key, children in (("left_child", ["-1", "2", "1"]), ("right_child", ["-2", "-3", "-4"])):
        text = line(key, lambda _, children=children: children)(text)
    with pytest.raises(ValueError, match="above its parent"):
        check_booster_text(text)


def test_of_random_damage_all_that_passes_predicts():
    text, rng, passed = booster(num_leaves=7), np.random.default_rng(3), 0
    for _ in range(1500):
        damaged = list(text[: text.index("end of trees")])
        for at in rng.integers(len(damaged), size=rng.integers(1, 4)):
            damaged[at] = "0123456789-.e \n=x"[rng.integers(17)]
        damaged = "".join(damaged) + text[text.index("end of trees") :]
        try:
            names = check_booster_text(damaged)
        except ValueError:
            continue
        passed += damaged != text
        assert np.isfinite(
            lgb.Booster(model_str=damaged).predict(X[:20, : len(names)], raw_score=True)
        ).all()
    assert passed > 20
