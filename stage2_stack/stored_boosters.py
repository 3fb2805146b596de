"""Models of stage two that come from a file: whether they read, and see the features that there
are, before they are used.
"""

import lightgbm as lgb
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from ct.errors import printable
from ct.labels import LABELS, SUBTYPES
from features.columns import scope_columns, slice_columns
from stage2_stack.booster_text import check_booster_text
from stage2_stack.components import UNTUNED
from stage2_stack.learners import LightGBM
from stage2_stack.pooled import pooled_names

SUFFIXES = {
    "lightgbm": ".txt",
    "pooled": ".txt",
    "xgboost": ".json",
    "catboost": ".cbm",
    "gru": ".safetensors",
}
SHARED = ("pooled", "gru")  # components whose models are of several labels together
FOREIGN = ("xgboost", "catboost")  # that stage2_stack.foreign_boosters tries in a child


def file_names(component: str, label: str, k: int, seeds: int) -> list[str]:
    """Return the names of the files of a component's models of fold k, one a seed."""
    stem = f"{component}-fold{k}" if component in SHARED else f"{component}-{label}-fold{k}"
    return [f"{stem}-seed{seed}{SUFFIXES[component]}" for seed in range(seeds)]


def columns_seen(label: str, names: list[str]) -> int:
    """Return how many of the features `names` a label's booster that is not tuned sees."""
    return len(scope_columns(names, label, UNTUNED))


def check_model(component: str, raw: bytes, names: list[str]) -> None:
    """Raise ValueError where the bytes of a file are no model of a component on the features
    `names`; not for FOREIGN ones.
    """
    if component == "gru":
        _check_network(raw, names)
    elif component not in FOREIGN:
        _check_lightgbm(
            raw, pooled_names(names) if component == "pooled" else names, component == "pooled"
        )


def _check_lightgbm(raw, known, all_of_them):
    seen = check_booster_text(raw.decode("ascii", "replace"))
    if (all_of_them and seen != known) or (strange := sorted(set(seen) - set(known))):
        raise ValueError(
            f"it sees the feature {printable(strange[0])!r}, which there is not"
            if not all_of_them
            else "it sees other features than the pooled ones"
        )
    try:
        LightGBM().load(raw)
    except lgb.basic.LightGBMError as error:
        raise ValueError(f"LightGBM does not read it ({printable(error)})") from None


def _check_network(raw, names):
    """Raise ValueError where the weights are not those of stage2_stack.gru.Reader on these
    features.
    """
    try:
        state = load(raw)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"it is no safetensors file ({printable(error)})") from None
    said, place = slice_columns(names)
    kinds, places = said.shape[1], len(place)
    hidden = state["enter.bias"].size if "enter.bias" in state else 0
    entering = 2 * kinds + len(SUBTYPES) - 1 + 1 + 2 * places + len(LABELS)
    wanted = {
        "said_scale": (2, kinds),
        "place_scale": (2, places),
        "enter.weight": (hidden, entering),
        "enter.bias": (hidden,),
    }
    for end in ("l0", "l0_reverse"):
        wanted |= dict.fromkeys(
            (f"read.weight_ih_{end}", f"read.weight_hh_{end}"), (3 * hidden, hidden)
        )
        wanted |= dict.fromkeys((f"read.bias_ih_{end}", f"read.bias_hh_{end}"), (3 * hidden,))
    wanted |= {"leave.weight": (1, 3 * hidden), "leave.bias": (1,)}
    if {name: array.shape for name, array in state.items()} != wanted:
        raise ValueError(
            "its arrays have other names or shapes than those of the network on these features"
        )
    if not all(array.dtype == np.float32 and np.isfinite(array).all() for array in state.values()):
        raise ValueError("its weights are no finite float32 numbers")
