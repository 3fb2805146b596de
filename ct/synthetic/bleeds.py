"""Bleeds in a synthetic head, and mimics: findings of one slice that resemble a bleed.

A bleed covers neighbouring slices and tapers towards both ends of its run; a mimic has the same
shape in a single slice. So one slice is ambiguous, and its neighbours decide, as they do for a
radiologist who scrolls.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ct.synthetic.phantom import Anatomy

HEIGHTS = {  # range of the middle of a run, heights as in ct/synthetic/head_geometry.py
    "epidural": (0.36, 0.78),
    "intraparenchymal": (0.36, 0.78),
    "intraventricular": (0.46, 0.58),
    "subarachnoid": (0.30, 0.80),
    "subdural": (0.40, 0.82),
}
THICKNESS_MM = {"epidural": (13, 24), "subdural": (5.5, 12), "intraparenchymal": (8, 17)}
HALF_WIDTH = {"epidural": (0.40, 0.65), "subdural": (0.8, 1.4), "subarachnoid": (0.9, 1.8)}
VISIBLE_MM2 = 25.0  # image and label of a slice leave out a smaller area of blood
OEDEMA, ISODENSE = 17, 34  # HU
PLANT_ATTEMPTS = 50


@dataclass(frozen=True)
class Bleed:
    """One bleed, or one mimic. Angles are as in HeadGeometry, 0 at the front."""

    kind: str
    middle: float  # slice number, halves allowed
    half_length: float  # half the length of its run, slices
    hu: float
    angle: float  # radians
    half_width: float  # radians; for an intraventricular bleed, its level
    thickness: float  # mm; for an intraventricular bleed, above 0.6: it fills one ventricle
    centre: tuple[float, float]  # x, y as fractions of the half axes
    bumps: NDArray[np.float32]  # (64, 64) smooth noise of variance 1, for an irregular edge


def draw_bleed(rng: np.random.Generator, kind: str, anatomy: Anatomy, length: int) -> Bleed:
    """Return a random bleed of `kind` over about `length` slices, where this kind occurs."""
    heights = np.array(anatomy.heights)
    low, high = HEIGHTS[kind]
    inside = np.flatnonzero((heights >= low) & (heights <= high))
    if not len(inside):  # a head cut in few slices
        inside = np.array([np.abs(heights - (low + high) / 2).argmin()])
    side = rng.choice([-1, 1])
    bumps = ndimage.gaussian_filter(rng.standard_normal((64, 64), dtype=np.float32), 5, mode="wrap")
    return Bleed(
        kind=kind,
        middle=float(rng.choice(inside)) + (0.5 if length % 2 == 0 else 0.0),
        half_length=length / 2,
        hu=float(rng.uniform(55, 75) if rng.random() < 0.75 else rng.uniform(46, 55)),
        angle=float(side * rng.uniform(*((0.9, 2.2) if kind == "subdural" else (0.5, 2.5)))),
        half_width=float(rng.uniform(*HALF_WIDTH.get(kind, (0, 1)))),
        thickness=float(rng.uniform(*THICKNESS_MM.get(kind, (0, 1)))),
        centre=(float(side * rng.uniform(0.28, 0.55)), float(rng.uniform(-0.5, 0.5))),
        bumps=bumps / bumps.std(),
    )


def bleed_weights(anatomy: Anatomy, bleed: Bleed) -> NDArray[np.float32]:
    """Return where a bleed is: weights (n, size, size) in [0, 1].

    They are 0 outside one contiguous run of slices, each with at least VISIBLE_MM2 of visible
    blood.
    """
    weights = np.zeros_like(anatomy.hu)
    for k, size in _run(bleed, len(weights)):
        weights[k] = SHAPES[bleed.kind](anatomy, k, bleed, size)
    _keep_visible(weights, anatomy.pixel_mm)
    return weights


def paint_bleed(
    rng: np.random.Generator,
    anatomy: Anatomy,
    bleed: Bleed,
    weights: NDArray[np.float32],
    faintest: float = 0.4,
) -> None:
    """Paint the bleed at `weights` into `anatomy.hu`, in place.

    Each slice has its own contrast, from `faintest` to 1, less at the ends of the run.
    """
    for k, size in _run(bleed, len(weights)):
        if not weights[k].any():
            continue
        central = abs(k - bleed.middle) < 0.6 * bleed.half_length
        contrast = float(rng.uniform(faintest, 1)) * (1 if central else 0.75)
        if bleed.kind == "intraparenchymal":
            rim = np.clip(_blob(anatomy, k, bleed, size, margin=5) - weights[k], 0, 1)
            anatomy.hu[k] += rim * contrast * (OEDEMA - anatomy.hu[k])
        anatomy.hu[k] += weights[k] * (ISODENSE + contrast * (bleed.hu - ISODENSE) - anatomy.hu[k])


def plant_bleed(
    rng: np.random.Generator, anatomy: Anatomy, kind: str, length: int
) -> NDArray[np.float32]:
    """Draw a bleed of `kind` over about `length` slices and paint it.

    Returns its weights, as bleed_weights does. The bleed is visible in at least three slices; in
    one slice of a head that is cut in fewer than eight. Raises AssertionError where none fits.
    """
    fewest = min(3, max(1, len(anatomy.hu) // 4))
    # some do not fit where they are drawn: no sulci, no ventricle, too close to an end
    for _ in range(PLANT_ATTEMPTS):
        bleed = draw_bleed(rng, kind, anatomy, length)
        weights = bleed_weights(anatomy, bleed)
        if visible_slices(weights, anatomy.pixel_mm).sum() >= fewest:
            paint_bleed(rng, anatomy, bleed, weights)
            return weights
    raise AssertionError(f"no room for {kind} blood in a head cut at {anatomy.heights}")


def visible_slices(weights: NDArray[np.float32], pixel_mm: float) -> NDArray[np.bool_]:
    """Return whether blood is visible in each slice, (n,). weights: (n, size, size)"""
    return (weights > 0.5).sum((1, 2)) * pixel_mm**2 >= VISIBLE_MM2


def _run(bleed: Bleed, slices: int) -> Iterator[tuple[int, float]]:
    """Yield (slice number, relative size in (0, 1]) over the run of a bleed, small at its ends."""
    first = max(0, int(np.ceil(bleed.middle - bleed.half_length)))
    last = min(slices, int(bleed.middle + bleed.half_length) + 1)
    for k in range(first, last):
        from_middle = abs(k - bleed.middle) / (bleed.half_length + 0.5)
        if abs(k - bleed.middle) < bleed.half_length:
            yield k, float(np.sqrt(1 - from_middle**2))


def _keep_visible(weights: NDArray[np.float32], pixel_mm: float) -> None:
    """Set all weights to 0 outside the longest contiguous run of visible slices, in place."""
    runs, _ = ndimage.label(visible_slices(weights, pixel_mm))
    if runs.any():
        longest = np.bincount(runs[runs > 0]).argmax()
        weights[runs != longest] = 0
    else:
        weights[:] = 0


def _angle_from(anatomy: Anatomy, bleed: Bleed) -> NDArray[np.floating]:
    """Return the angular distance from the bleed's middle, (size, size), 1 at its edge."""
    difference = (anatomy.angle - bleed.angle + np.pi) % (2 * np.pi) - np.pi
    return np.abs(difference) / bleed.half_width


def _lens(anatomy: Anatomy, k: int, bleed: Bleed, size: float) -> NDArray[np.floating]:
    """Return the weights of an epidural bleed: a biconvex lens between vault and dura.

    It is short, since the dura is attached at the sutures.
    """
    u = _angle_from(anatomy, bleed) / (0.6 + 0.4 * size)
    thickness = bleed.thickness * size * np.clip(1 - u**2, 0, None)
    edge = anatomy.soft_edge(thickness - anatomy.depth(k))
    return anatomy.brain[k] * edge * (thickness > 0.5)


def _crescent(anatomy: Anatomy, k: int, bleed: Bleed, size: float) -> NDArray[np.floating]:
    """Return the weights of a subdural bleed: a crescent along the inner table of one side.

    It crosses sutures, but not the midline.
    """
    u = _angle_from(anatomy, bleed)
    thickness = bleed.thickness * size * np.clip(1 - u**4, 0, None)
    one_side = anatomy.soft_edge(anatomy.x * np.sign(bleed.angle) - 2)
    edge = anatomy.soft_edge(thickness - anatomy.depth(k))
    return anatomy.brain[k] * one_side * edge * (thickness > 0.5)


def _blob(
    anatomy: Anatomy, k: int, bleed: Bleed, size: float, margin: float = 0.0
) -> NDArray[np.floating]:
    """Return the weights of an intraparenchymal bleed: an irregular blob inside the brain.

    margin: mm by which it is larger, for its rim of oedema
    """
    x = anatomy.x - bleed.centre[0] * anatomy.head.half_width
    y = anatomy.y - bleed.centre[1] * anatomy.head.half_length
    at = ((x + 32).astype(np.int32) % 64) * 64 + ((y + 32 + 3 * k).astype(np.int32) % 64)
    radius = (bleed.thickness + margin) * size * (1 + 0.16 * bleed.bumps.ravel()[at])
    within = anatomy.soft_edge((anatomy.depth(k) - 3) / 2)
    return anatomy.brain[k] * within * anatomy.soft_edge(radius - np.hypot(x, y))


def _fluid_level(anatomy: Anatomy, k: int, bleed: Bleed, size: float) -> NDArray[np.floating]:
    """Return the weights of an intraventricular bleed: blood up to a level in the ventricles.

    The patient lies on the back, where the blood settles.
    """
    level = (0.12 + 0.25 * bleed.half_width) * anatomy.head.half_length * (1.4 - 0.4 * size)
    fill = anatomy.soft_edge(anatomy.y - level)
    if bleed.thickness > 0.6:  # a cast of one whole ventricle
        fill = np.maximum(fill, anatomy.soft_edge(anatomy.x * np.sign(bleed.angle)))
    return anatomy.ventricles[k] * fill


def _sulcal(anatomy: Anatomy, k: int, bleed: Bleed, size: float) -> NDArray[np.floating]:
    """Return the weights of a subarachnoid bleed: blood instead of CSF in the sulci of a sector.

    At the base of the brain, it fills the cisterns and fissures.
    """
    u = _angle_from(anatomy, bleed) / (0.7 + 0.3 * size)
    base = float(np.clip((0.42 - anatomy.heights[k]) / 0.06, 0, 1))
    sector = np.maximum(np.clip((1 - u) * 4, 0, 1), base * (anatomy.depth(k) > 12))
    return sector * np.clip(anatomy.csf[k] * 3, 0, 1) * anatomy.brain[k]


# kind -> function of (anatomy, slice number, bleed, relative size) that returns (size, size)
SHAPES: dict[str, Callable[[Anatomy, int, Bleed, float], NDArray[np.floating]]] = {
    "epidural": _lens,
    "intraparenchymal": _blob,
    "intraventricular": _fluid_level,
    "subarachnoid": _sulcal,
    "subdural": _crescent,
}
