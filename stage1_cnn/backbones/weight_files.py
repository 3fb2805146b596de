"""Read a file of weights without executing anything, and find a backbone's arrays in it."""

import argparse
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

# where trainers keep the weights in what they save, in timm's order: averaged ones first
PLACES = ("state_dict_ema", "model_ema", "state_dict", "model")
BEGINNINGS = {  # of files that are no weights
    b"<": "it is a web page; download the file itself",
    b"version https://git-lfs": "it is a pointer of Git LFS; fetch the file by `git lfs pull`",
}


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return {name: array} of a .safetensors file, or of one that torch.save wrote.

    Raises ValueError, in one line, for a file of another kind or without one set of arrays, and
    OSError and safetensors' and torch's errors for one that cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(64)
    for beginning, fault in BEGINNINGS.items():
        if start.lstrip().startswith(beginning):
            raise ValueError(fault)
    if start[8:9] == b"{":
        return safetensors.torch.load_file(path)
    if start[:2] != b"PK" and start[:1] != b"\x80":  # a zip or a pickle
        raise ValueError("it is neither a .safetensors file nor one that torch.save wrote")
    return _arrays_of(_content(path))


def _content(path: Path) -> Any:
    """Return what torch.save wrote, if it is made of arrays and plain values alone."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # timm's options
            return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception:  # what torch raises depends on the damage, and asks to run what it refuses
        raise ValueError(
            "it is damaged, or holds Python objects other than arrays, which could run code; "
            "download it again, or save the model's state_dict() alone"
        ) from None


def _arrays_of(content: Any) -> dict[str, Tensor]:
    """Return {name: array} of what a trainer saved: the arrays themselves, or a mapping to them."""
    if not isinstance(content, Mapping):
        raise ValueError(f"it holds a {type(content).__name__} instead of arrays with names")
    for place in PLACES:
        if isinstance(content.get(place), Mapping):
            return _arrays_of(content[place])
    arrays = _tensors_of(content)
    inner = [
        str(name)
        for name, value in content.items()
        if isinstance(value, Mapping) and len(_tensors_of(value)) > len(arrays)
    ]
    if len(inner) > 1:
        raise ValueError(_several_sets(inner))
    if inner:
        return _arrays_of(content[inner[0]])
    if not arrays:
        raise ValueError("it is empty: it holds no arrays")
    return arrays


def _tensors_of(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def without_prefix(weights: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """Return the weights under a backbone's names, without the prefix that a trainer put before.

    names: of the backbone's arrays. The prefix must be before at least half of them, and before
    more of them than bear no prefix; otherwise the weights are returned as they are, and timm
    may know their names. Raises ValueError where two sets of weights have as many.
    """
    found: Counter[str] = Counter()
    for name in weights:
        parts = name.split(".")
        for number in range(len(parts)):
            if ".".join(parts[number:]) in names:
                found["".join(f"{part}." for part in parts[:number])] += 1
    count = max(found.values(), default=0)
    prefixes = [prefix for prefix in found if found[prefix] == count]
    if 2 * count < len(names) or "" in prefixes:
        return dict(weights)
    if len(prefixes) > 1:
        raise ValueError(_several_sets(prefixes))
    return {
        name.removeprefix(prefixes[0]): value
        for name, value in weights.items()
        if name.startswith(prefixes[0])
    }


def _several_sets(names: Collection[str]) -> str:
    shown = " and ".join(repr(name[:40]) for name in sorted(names)[:2])
    return f"it holds several sets of weights, as {shown}; save one of them alone"


def misfit(weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Return how weights differ from a backbone, "" where they do not: for a message.

    state: the backbone's own arrays without its last layers. It is the first array of another
    shape, or that no array bears a known name. Other input channels are no difference: timm adapts
    them.
    """
    shared = [name for name in weights if name in state]
    if not weights:
        return "it holds no arrays"
    if not shared:
        return (
            f"none of its {len(weights)} arrays has a name of the backbone's, "
            f"{next(iter(weights))[:60]!r} instead of {next(iter(state))!r}"
        )
    for name in shared:
        own, expected = tuple(weights[name].shape), tuple(state[name].shape)
        if own[:1] + own[2:] != expected[:1] + expected[2:]:
            return f"its array {name} is {own}, that of the backbone {expected}"
    return ""
