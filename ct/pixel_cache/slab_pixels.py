"""Average the pixels of slabs (slab_plan.py) in HU."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import shift

from ct.dicom.hounsfield import read_hu
from ct.pixel_cache.slab_plan import Member
from ct.sources.file_reader import read_each
from ct.sources.source import Source

LEAST_MOVE = 0.1  # pixels; a slice that lies off by less is not moved

Decoded = tuple[Any, str, bool]  # as `read_each` yields it


def member_paths(slabs: Sequence[tuple[Member, ...]]) -> list[str]:
    """Return the files of slabs in the order in which `read_slabs` reads them, each once."""
    return list(dict.fromkeys(member.path for members in slabs for member in members))


def read_slabs(files: Source, slabs: Sequence[tuple[Member, ...]]) -> Iterator[Decoded]:
    """Yield for each slab what `read_each` yields for a slice: (HU, repaired), reason, transient.

    files: those of `member_paths`, in that order. A slab is the weighted mean of the members that
    decode; where none does, its value is None. The reason is that of the first that does not.
    Raises MachineFault.
    """
    names = member_paths(slabs)
    last_use = {member.path: n for n, members in enumerate(slabs) for member in members}
    unread = zip(names, read_each(read_hu, files), strict=True)
    held: dict[str, Decoded] = {}
    for number, members in enumerate(slabs):
        while any(member.path not in held for member in members):
            name, decoded = next(unread)
            held[name] = decoded
        yield _mean(members, held)
        held = {name: decoded for name, decoded in held.items() if last_use[name] > number}


def _mean(members: Sequence[Member], decoded: dict[str, Decoded]) -> Decoded:
    """Return the mean of the members that decode, as `read_slabs` yields it."""
    readable = [member for member in members if decoded[member.path][0] is not None]
    failed = [decoded[member.path] for member in members if member not in readable]
    transient = any(decoding[2] for decoding in failed)
    if not readable:
        return None, failed[0][1], transient
    shape = decoded[readable[0].path][0][0].shape
    total, weights, repaired = np.zeros(shape, np.float64), 0.0, False
    for member in readable:
        hu, own_repaired = decoded[member.path][0]
        if hu.shape != shape:  # of a series with several sizes
            continue
        total += member.weight * _moved(hu, member)
        weights += member.weight
        repaired |= own_repaired
    reason = failed[0][1] if failed else ""
    return (np.rint(total / weights).astype(np.int16), repaired), reason, transient


def _moved(hu: NDArray[np.int16], member: Member) -> NDArray[np.floating]:
    """Return a slice moved over its slab, between pixels by linear interpolation."""
    if max(abs(member.down), abs(member.right)) < LEAST_MOVE:
        return hu.astype(np.float32)
    moved: NDArray[np.floating] = shift(
        hu.astype(np.float32), (member.down, member.right), order=1, mode="nearest"
    )
    return moved
