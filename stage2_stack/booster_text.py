"""The structure of LightGBM's text format, version 4, checked before LightGBM reads it: its parser
trusts what it reads.

Text that is damaged or written on purpose makes it read and write outside of its arrays, or walk in
circles. What passes here is what `Booster.model_to_string` writes for a binary objective on plain
numbers: trees whose arrays have the lengths that they should, whose children make one tree, and
whose splits are on columns that there are.
"""

import math
import re

HEADER = {  # line of the header -> what it holds; None: checked by itself
    "version": "v4",
    "num_class": "1",
    "num_tree_per_iteration": "1",
    "label_index": "0",
    "max_feature_idx": None,
    "objective": "binary sigmoid:1",
    "feature_names": None,
    "feature_infos": None,
    "tree_sizes": None,
}
SPLITS = ("split_feature", "split_gain", "threshold", "decision_type", "left_child", "right_child")
LEAVES = ("leaf_value", "leaf_weight", "leaf_count")
NODES = ("internal_value", "internal_weight", "internal_count")
TREE = ("num_leaves", "num_cat", *SPLITS, *LEAVES, *NODES, "is_linear", "shrinkage")
WHOLE = (
    "split_feature",
    "decision_type",
    "left_child",
    "right_child",
    "internal_count",
    "leaf_count",
)
MOST_LEAVES = 131_072  # LightGBM's own limit
NUMBER = re.compile(r"-?\d{1,400}(?:\.\d{1,400})?(?:e[-+]?\d{1,3})?")
INTEGER = re.compile(r"-?\d{1,9}")
RANGE = re.compile(r"none|\[-?[\d.e+-]+:-?[\d.e+-]+\]")
TAIL = re.compile(
    r"end of trees\n\nfeature_importances:\n(?:[^\n=]+=\d{1,9}\n)*\nparameters:\n(?:\[\w+: [-+.,\w ]*\]\n)*"
    r"\nend of parameters\n\npandas_categorical:null\n"
)
# bit 0: categorical, not ours
DECISIONS = {default_left | missing << 2 for default_left in (0, 2) for missing in (0, 1, 2)}


def check_booster_text(text: str) -> list[str]:
    """Return the f feature names of a booster in LightGBM's text format. Raises ValueError with the
    first thing amiss.
    """
    if not text.isascii():
        raise ValueError("it is no ASCII text")
    begin, end = text.find("\n\nTree=0\n") + 2, text.rfind("end of trees\n")
    if begin < 2 or end < begin:
        raise ValueError("it has no trees")
    names, sizes = _header(text[: begin - 1])
    for number, size in enumerate(sizes):
        if size < 1 or begin + size > end:
            raise ValueError(f"tree {number} does not end where it should")
        _tree(text[begin : begin + size], number, len(names))
        begin += size
    if begin != end or not TAIL.fullmatch(text, end):
        raise ValueError("after its trees stands something else than it should")
    return names


def _header(text):
    """Return the feature names and the sizes of the trees, characters."""
    first, *lines = text.splitlines()
    pairs = [line.split("=", 1) for line in lines]
    if (
        first != "tree"
        or [pair[0] for pair in pairs] != list(HEADER)
        or any(len(pair) != 2 for pair in pairs)
    ):
        raise ValueError("its header has other lines than it should")
    header = dict(pairs)
    for key, wanted in HEADER.items():
        if wanted is not None and header[key] != wanted:
            raise ValueError(f"{key} is {header[key][:40]!r}, not {wanted!r}")
    names, infos = header["feature_names"].split(" "), header["feature_infos"].split(" ")
    if (
        len(set(names)) < len(names)
        or "" in names
        or header["max_feature_idx"] != str(len(names) - 1)
    ):
        raise ValueError(
            "its feature names are not as many as it says, or not all of them different"
        )
    if len(infos) != len(names) or not all(RANGE.fullmatch(info) for info in infos):
        raise ValueError("its features' ranges are not one a feature")
    return names, _numbers(header["tree_sizes"], "tree_sizes", INTEGER)


def _tree(block, number, features):
    """Check one tree's lines, from "Tree=" to the blank lines behind it."""
    first, *lines = block.rstrip("\n").split("\n")
    pairs = [line.split("=", 1) for line in lines]
    if (
        first != f"Tree={number}"
        or [pair[0] for pair in pairs] != list(TREE)
        or not block.endswith("\n\n\n")
    ):
        raise ValueError(f"tree {number} has other lines than it should")
    tree = dict(pairs)
    if tree["num_cat"] != "0" or tree["is_linear"] != "0":
        raise ValueError(
            f"tree {number} has categorical splits or linear leaves, which no booster here has"
        )
    leaves = _numbers(tree["num_leaves"], "num_leaves", INTEGER)
    if (
        len(leaves) != 1
        or not 1 <= leaves[0] <= MOST_LEAVES
        or len(_numbers(tree["shrinkage"], "shrinkage")) != 1
    ):
        raise ValueError(f"tree {number} has {tree['num_leaves'][:20]!r} leaves")
    leaves, values = leaves[0], {}
    for key in (*SPLITS, *LEAVES, *NODES):
        values[key] = _numbers(tree[key], key, INTEGER if key in WHOLE else NUMBER)
        wanted = leaves - (key not in LEAVES)
        if len(values[key]) != wanted and not (
            leaves == 1 and key != "leaf_value" and len(values[key]) <= 1
        ):
            raise ValueError(f"tree {number} has {len(values[key])} values of {key}, not {wanted}")
    if leaves > 1:
        _check_splits(values, number, leaves, features)


def _check_splits(values, number, leaves, features):
    if not all(0 <= feature < features for feature in values["split_feature"]):
        raise ValueError(f"tree {number} splits on a feature that there is not")
    if not DECISIONS.issuperset(values["decision_type"]):
        raise ValueError(f"tree {number} has a kind of split that there is not")
    children = [*values["left_child"], *values["right_child"]]
    # ~leaf below 0; each node but the root once
    if sorted(children) != [*range(-leaves, 0), *range(1, leaves - 1)]:
        raise ValueError(f"tree {number} has nodes with two parents or none")
    for side in ("left_child", "right_child"):
        # LightGBM numbers them from the root
        if any(0 <= child <= parent for parent, child in enumerate(values[side])):
            raise ValueError(f"tree {number} has a node above its parent")


def _numbers(text, key, pattern=NUMBER):
    """Return the finite numbers of a line. Raises ValueError."""
    if not text:
        return []
    words = text.split(" ")
    if bad := next((word for word in words if not pattern.fullmatch(word)), None):
        raise ValueError(f"{key} holds {bad[:40]!r}")
    values = [int(word) if pattern is INTEGER else float(word) for word in words]
    if not all(map(math.isfinite, values)):
        raise ValueError(f"{key} holds an infinite number")
    return values
