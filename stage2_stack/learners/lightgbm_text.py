"""Check the structure of LightGBM's text format, version 4, before LightGBM reads it.

LightGBM's parser does not check its input: damaged or malicious text makes it read and write
outside its arrays, or loop forever. What passes here is what `Booster.model_to_string` writes for a
binary objective on plain numbers: arrays of the right lengths, children that form one tree, and
splits on existing columns.
"""

import math
import re
from collections.abc import Mapping, Sequence

# line of the header -> its value; None: checked separately
HEADER: dict[str, str | None] = {
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
INTEGERS = (  # arrays of whole numbers
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
    r"end of trees\n\nfeature_importances:\n(?:[^\n=]+=\d{1,9}\n)*"
    r"\nparameters:\n(?:\[\w+: [-+.,\w ]*\]\n)*\nend of parameters\n\npandas_categorical:null\n"
)
# bit 0 is a categorical split, which no booster here has
DECISIONS = {default_left | missing << 2 for default_left in (0, 2) for missing in (0, 1, 2)}


def check_booster_text(text: str) -> list[str]:
    """Return the f feature names of a booster in LightGBM's text format.

    Raises ValueError with the first fault.
    """
    if not text.isascii():
        raise ValueError("it is no ASCII text")
    begin, end = text.find("\n\nTree=0\n") + 2, text.rfind("end of trees\n")
    if begin < 2 or end < begin:
        raise ValueError("it has no trees")
    names, sizes = _check_header(text[: begin - 1])
    for number, size in enumerate(sizes):
        if size < 1 or begin + size > end:
            raise ValueError(f"tree {number} does not end where it should")
        _check_tree(text[begin : begin + size], number, len(names))
        begin += size
    if begin != end or not TAIL.fullmatch(text, end):
        raise ValueError("the text after its trees is not what LightGBM writes")
    return names


def _check_header(text: str) -> tuple[list[str], list[int]]:
    """Return the feature names and the sizes of the trees in characters."""
    first, *lines = text.splitlines()
    pairs = [line.split("=", 1) for line in lines]
    if (
        first != "tree"
        or [pair[0] for pair in pairs] != list(HEADER)
        or any(len(pair) != 2 for pair in pairs)
    ):
        raise ValueError("its header has other lines than it should")
    header = dict(pairs)
    for key, value in HEADER.items():
        if value is not None and header[key] != value:
            raise ValueError(f"{key} is {header[key][:40]!r}, not {value!r}")
    names, infos = header["feature_names"].split(" "), header["feature_infos"].split(" ")
    if (
        len(set(names)) < len(names)
        or "" in names
        or header["max_feature_idx"] != str(len(names) - 1)
    ):
        raise ValueError("its feature names do not match max_feature_idx, or are not all different")
    if len(infos) != len(names) or not all(RANGE.fullmatch(info) for info in infos):
        raise ValueError("its ranges are not one for each feature")
    return names, _integers(header["tree_sizes"], "tree_sizes")


def _check_tree(block: str, number: int, features: int) -> None:
    """Check one tree's lines, from "Tree=" to the blank lines after it."""
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
    counts = _integers(tree["num_leaves"], "num_leaves")
    if (
        len(counts) != 1
        or not 1 <= counts[0] <= MOST_LEAVES
        or len(_numbers(tree["shrinkage"], "shrinkage")) != 1
    ):
        raise ValueError(f"tree {number} has {tree['num_leaves'][:20]!r} leaves")
    leaves, integers = counts[0], {}
    for key in (*SPLITS, *LEAVES, *NODES):
        if key in INTEGERS:
            integers[key] = _integers(tree[key], key)
            count = len(integers[key])
        else:
            count = len(_numbers(tree[key], key))
        expected = leaves - (key not in LEAVES)
        if count != expected and not (leaves == 1 and key != "leaf_value" and count <= 1):
            raise ValueError(f"tree {number} has {count} values of {key}, not {expected}")
    if leaves > 1:
        _check_splits(integers, number, leaves, features)


def _check_splits(
    values: Mapping[str, Sequence[int]], number: int, leaves: int, features: int
) -> None:
    """Check that the splits are on existing columns and that the nodes form one tree."""
    if not all(0 <= feature < features for feature in values["split_feature"]):
        raise ValueError(f"tree {number} splits on a feature that does not exist")
    if not DECISIONS.issuperset(values["decision_type"]):
        raise ValueError(f"tree {number} has a kind of split that does not exist")
    children = [*values["left_child"], *values["right_child"]]
    # a leaf is ~number, below 0; each leaf and each node but the root occurs once
    if sorted(children) != [*range(-leaves, 0), *range(1, leaves - 1)]:
        raise ValueError(f"tree {number} has nodes with two parents or none")
    for side in ("left_child", "right_child"):
        # LightGBM numbers them from the root
        if any(0 <= child <= parent for parent, child in enumerate(values[side])):
            raise ValueError(f"tree {number} has a node above its parent")


def _numbers(text: str, key: str) -> list[float]:
    """Return the finite numbers of a line. Raises ValueError."""
    values = [float(word) for word in _words(text, key, NUMBER)]
    if not all(map(math.isfinite, values)):
        raise ValueError(f"{key} holds an infinite number")
    return values


def _integers(text: str, key: str) -> list[int]:
    """Return the whole numbers of a line. Raises ValueError."""
    return [int(word) for word in _words(text, key, INTEGER)]


def _words(text: str, key: str, pattern: re.Pattern[str]) -> list[str]:
    """Return the words of a line that all match a pattern. Raises ValueError."""
    words = text.split(" ") if text else []
    bad = next((word for word in words if not pattern.fullmatch(word)), None)
    if bad is not None:
        raise ValueError(f"{key} holds {bad[:40]!r}")
    return words
