"""Blood in a made-up head, and what looks like it.

A bleed runs over neighbouring slices and tapers towards both ends of its run; a mimic has the same
shape in one slice alone. So one slice is ambiguous, and the slices below and above it settle the
matter, as they do for a radiologist who scrolls.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

HEIGHTS = {  # where the middle of a run may lie, as heights of ct/synthetic/phantom.py
    "epidural": (0.36, 0.78),
    "intraparenchymal": (0.36, 0.78),
    "intraventricular": (0.46, 0.58),
    "subarachnoid": (0.30, 0.80),
    "subdural": (0.40, 0.82),
}
VISIBLE_MM2 = 25.0  # less blood than that in a slice is left out of picture and label
OEDEMA, ISODENSE = 17, 34  # HU


@dataclass(frozen=True)
class Bleed:
    """One bleed, or one mimic. `reach` and `thick` in mm, `angle` and `wide` in radians as in
    Anatomy, `hu` of its blood.
    """

    kind: str
    middle: float  # slice number, halves allowed
    half: float  # half the length of its run, slices
    hu: float
    angle: float
    wide: float
    thick: float
    centre: tuple  # x, y as fractions of the half axes
    bumps: np.ndarray  # (64, 64) smooth noise, variance 1: the irregular edge


def draw_bleed(rng, kind, anatomy, length):
    """A random bleed of `kind` over about `length` slices, somewhere its kind occurs."""
    heights = np.array(anatomy.heights)
    low, high = HEIGHTS[kind]
    inside = np.flatnonzero((heights >= low) & (heights <= high))
    if not len(inside):  # a head cut in few slices
        inside = [np.abs(heights - (low + high) / 2).argmin()]
    side = rng.choice([-1, 1])
    thick = {"epidural": (13, 24), "subdural": (5.5, 12), "intraparenchymal": (8, 17)}.get(
        kind, (0, 1)
    )
    wide = {"epidural": (0.40, 0.65), "subdural": (0.8, 1.4), "subarachnoid": (0.9, 1.8)}.get(
        kind, (0, 1)
    )
    bumps = ndimage.gaussian_filter(rng.standard_normal((64, 64), dtype=np.float32), 5, mode="wrap")
    return Bleed(
        kind=kind,
        middle=float(rng.choice(inside)) + (0.5 if length % 2 == 0 else 0.0),
        half=length / 2,
        hu=float(rng.uniform(55, 75) if rng.random() < 0.75 else rng.uniform(46, 55)),
        angle=float(side * rng.uniform(*((0.9, 2.2) if kind == "subdural" else (0.5, 2.5)))),
        wide=float(rng.uniform(*wide)),
        thick=float(rng.uniform(*thick)),
        centre=(float(side * rng.uniform(0.28, 0.55)), float(rng.uniform(-0.5, 0.5))),
        bumps=bumps / bumps.std(),
    )


def bleed_weights(anatomy, bleed):
    """Where a bleed lies: weights (n, size, size) in [0, 1].

    All zero but for one contiguous run of slices, in each of which at least VISIBLE_MM2 of it can
    be seen.
    """
    weights = np.zeros_like(anatomy.hu)
    for k, size in _run(bleed, len(weights)):
        weights[k] = SHAPES[bleed.kind](anatomy, k, bleed, size)
    _keep_visible(weights, anatomy.pixel_mm)
    return weights


def paint_bleed(rng, anatomy, bleed, weights, faintest=0.4):
    """Paint the bleed that lies at `weights` into `anatomy.hu` in place.

    Each slice has its own contrast, from `faintest` to 1, and less at the ends of the run.
    """
    for k, size in _run(bleed, len(weights)):
        if not weights[k].any():
            continue
        contrast = float(rng.uniform(faintest, 1)) * (
            1 if abs(k - bleed.middle) < 0.6 * bleed.half else 0.75
        )
        if bleed.kind == "intraparenchymal":
            rim = np.clip(_blob(anatomy, k, bleed, size, grow=5) - weights[k], 0, 1)
            anatomy.hu[k] += rim * contrast * (OEDEMA - anatomy.hu[k])
        anatomy.hu[k] += weights[k] * (ISODENSE + contrast * (bleed.hu - ISODENSE) - anatomy.hu[k])


def plant_bleed(rng, anatomy, kind, length):
    """Draw a bleed of `kind` over about `length` slices and paint it. Returns its weights (see
    `lay`).

    It can be seen in three slices at least, or in one of a head that is cut in fewer than eight.
    """
    fewest = min(3, max(1, len(anatomy.hu) // 4))
    # a few end up where there is no room: no sulci, no ventricle, too near to an end
    for _ in range(50):
        bleed = draw_bleed(rng, kind, anatomy, length)
        weights = bleed_weights(anatomy, bleed)
        if visible_slices(weights, anatomy.pixel_mm).sum() >= fewest:
            paint_bleed(rng, anatomy, bleed, weights)
            return weights
    raise AssertionError(f"no room for {kind} blood in a head cut at {anatomy.heights}")


def visible_slices(weights, pixel_mm):
    """Whether blood can be seen in each slice: (n,) bool from weights (n, size, size)."""
    return (weights > 0.5).sum((1, 2)) * pixel_mm**2 >= VISIBLE_MM2


def _run(bleed, slices):
    """(slice, relative size in (0, 1]) over the run of a bleed, thinner towards its ends."""
    for k in range(
        max(0, int(np.ceil(bleed.middle - bleed.half))),
        min(slices, int(bleed.middle + bleed.half) + 1),
    ):
        from_middle = abs(k - bleed.middle) / (bleed.half + 0.5)
        if abs(k - bleed.middle) < bleed.half:
            yield k, float(np.sqrt(1 - from_middle**2))


def _keep_visible(weights, pixel_mm):
    """Leave only the longest contiguous stretch of slices in which the blood can be seen (in
    place).
    """
    stretches, _ = ndimage.label(visible_slices(weights, pixel_mm))
    if stretches.any():
        longest = np.bincount(stretches[stretches > 0]).argmax()
        weights[stretches != longest] = 0
    else:
        weights[:] = 0


def _away(anatomy, bleed):
    """Angle from the bleed's own, relative to its half width: (size, size), 1 at its edge."""
    return np.abs((anatomy.angle - bleed.angle + np.pi) % (2 * np.pi) - np.pi) / bleed.wide


def _lens(anatomy, k, bleed, size):
    """Epidural: a biconvex lens between vault and dura; it does not reach far, since the dura holds
    at the sutures.
    """
    u = _away(anatomy, bleed) / (0.6 + 0.4 * size)
    thick = bleed.thick * size * np.clip(1 - u**2, 0, None)
    return anatomy.brain[k] * anatomy.soft(thick - anatomy.depth(k)) * (thick > 0.5)


def _crescent(anatomy, k, bleed, size):
    """Subdural: a crescent along the inner table of one side; it crosses sutures, never the
    midline.
    """
    u = _away(anatomy, bleed)
    thick = bleed.thick * size * np.clip(1 - u**4, 0, None)
    one_side = anatomy.soft(anatomy.x * np.sign(bleed.angle) - 2)
    return anatomy.brain[k] * one_side * anatomy.soft(thick - anatomy.depth(k)) * (thick > 0.5)


def _blob(anatomy, k, bleed, size, grow=0.0):
    """Intraparenchymal: an irregular blob inside the brain; `grow` mm larger for its rim of
    oedema.
    """
    x = anatomy.x - bleed.centre[0] * anatomy.head.half_width
    y = anatomy.y - bleed.centre[1] * anatomy.head.half_length
    at = ((x + 32).astype(np.int32) % 64) * 64 + ((y + 32 + 3 * k).astype(np.int32) % 64)
    edge = (bleed.thick + grow) * size * (1 + 0.16 * bleed.bumps.ravel()[at])
    within = anatomy.soft((anatomy.depth(k) - 3) / 2)
    return anatomy.brain[k] * within * anatomy.soft(edge - np.hypot(x, y))


def _level(anatomy, k, bleed, size):
    """Intraventricular: blood sinks to the back of the ventricles of a lying patient and fills them
    to a level.
    """
    level = (0.12 + 0.25 * bleed.wide) * anatomy.head.half_length * (1.4 - 0.4 * size)
    fill = anatomy.soft(anatomy.y - level)
    if bleed.thick > 0.6:  # a cast of one whole ventricle
        fill = np.maximum(fill, anatomy.soft(anatomy.x * np.sign(bleed.angle)))
    return anatomy.ventricles[k] * fill


def _sulci(anatomy, k, bleed, size):
    """Subarachnoid: blood instead of CSF in the sulci of a sector, and in the cisterns and fissures
    at the base.
    """
    u = _away(anatomy, bleed) / (0.7 + 0.3 * size)
    base = float(np.clip((0.42 - anatomy.heights[k]) / 0.06, 0, 1))
    sector = np.maximum(np.clip((1 - u) * 4, 0, 1), base * (anatomy.depth(k) > 12))
    return sector * np.clip(anatomy.csf[k] * 3, 0, 1) * anatomy.brain[k]


SHAPES = {
    "epidural": _lens,
    "intraparenchymal": _blob,
    "intraventricular": _level,
    "subarachnoid": _sulci,
    "subdural": _crescent,
}


def add_mimics(rng, anatomy, rate=0.07):
    """Paint into single slices what a reader of that slice alone may take for blood, into bleeding
    and healthy heads alike.

    Each slice draws on its own: a shape of each of the five kinds (partial volume of bone, vessels,
    thick choroid plexus) with probability `rate`, specks of calcium, streaks of metal or motion.
    """
    for k, height in enumerate(anatomy.heights):
        for kind, (low, high) in HEIGHTS.items():
            if rng.random() < rate and low - 0.1 < height < high + 0.1:
                mimic = draw_bleed(rng, kind, anatomy, 1)
                weight = SHAPES[kind](anatomy, k, mimic, float(rng.uniform(0.4, 0.95)))
                contrast = float(rng.uniform(0.35, 1))
                anatomy.hu[k] += weight * contrast * (mimic.hu - anatomy.hu[k])
        if rng.random() < 0.12:
            _speck(rng, anatomy, k)
        if rng.random() < 0.08:
            _streak(rng, anatomy, k)


def _speck(rng, anatomy, k):
    """A spot of calcium, 2 to 6 mm across, in slice k."""
    angle, far = rng.uniform(-np.pi, np.pi), rng.uniform(0, 60)
    off = np.hypot(anatomy.x - float(far * np.sin(angle)), anatomy.y + float(far * np.cos(angle)))
    weight = anatomy.brain[k] * anatomy.soft(float(rng.uniform(1, 3)) - off)
    anatomy.hu[k] += weight * (float(rng.uniform(90, 300)) - anatomy.hu[k])


def _streak(rng, anatomy, k):
    """Bright and dark bands across slice k, as of metal or motion."""
    turn, at = rng.uniform(0, np.pi), rng.uniform(-40, 40)
    across = anatomy.x * float(np.cos(turn)) + anatomy.y * float(np.sin(turn)) - float(at)
    bands = np.exp(-np.abs(across) / 22) * np.cos(across / float(rng.uniform(2, 6)))
    anatomy.hu[k] += float(rng.uniform(8, 25)) * bands * anatomy.brain[k]


def add_noise(rng, anatomy):
    """Add the noise of a scanner to `anatomy.hu` in place; each slice has its own strength and
    grain.
    """
    for hu in anatomy.hu:
        fine, coarse = rng.standard_normal((2, *hu.shape), dtype=np.float32)
        fine = ndimage.gaussian_filter(fine, 0.6, truncate=3)
        small = ndimage.gaussian_filter(coarse[::4, ::4], 6 / (4 * anatomy.pixel_mm), truncate=2.5)
        coarse = small.repeat(4, 0).repeat(4, 1)[: hu.shape[0], : hu.shape[1]]
        hu += (
            float(rng.uniform(4, 8)) * fine / fine.std()
            + float(rng.uniform(0.5, 2)) * coarse / coarse.std()
        )
