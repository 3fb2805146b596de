"""A made-up head in HU: skull, brain, ventricles, sulci, skull base, and what each level of it
looks like.

Nothing here is a patient. Lengths in the plane are mm from the centre of the head, x to the image's
right and y to its bottom, which is the back of the head. Heights are fractions along the slice
normal: 0 is the floor of the posterior fossa, 0.95 the inside of the vertex, 1 its outside.
Ellipsoids are in fractions of the half axes of the skull's inside, and mirrored in x.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

AIR, FAT, SCALP, BONE, DIPLOE, WHITE, GREY, CSF, MENINX = -1000, -80, 45, 1050, 700, 29, 37, 8, 50

# x, y, height, half axes of the three, degrees that the front end turns outward
VENTRICLES = (
    (0.12, -0.30, 0.51, 0.070, 0.17, 0.10, 14),  # frontal horns
    (0.14, 0.04, 0.60, 0.075, 0.36, 0.08, -8),  # bodies
    (0.26, 0.30, 0.51, 0.090, 0.18, 0.10, -25),  # atria
    (0.32, 0.48, 0.47, 0.060, 0.17, 0.07, -12),  # occipital horns
    (0.42, 0.00, 0.29, 0.035, 0.12, 0.04, 0),  # temporal horns
    (0.00, -0.02, 0.41, 0.040, 0.15, 0.09, 0),  # third
    (0.00, 0.38, 0.17, 0.110, 0.07, 0.08, 0),  # fourth
)
CISTERNS = (
    (0.00, -0.13, 0.26, 0.20, 0.09, 0.05, 0),  # suprasellar
    (0.14, -0.04, 0.25, 0.05, 0.12, 0.05, -35),
    (0.21, 0.14, 0.29, 0.035, 0.14, 0.06, -10),  # ambient
    (0.00, 0.27, 0.30, 0.15, 0.04, 0.05, 0),  # quadrigeminal
    (0.00, 0.02, 0.17, 0.17, 0.035, 0.06, 0),  # prepontine
    (0.12, 0.66, 0.06, 0.10, 0.10, 0.07, 20),  # cisterna magna
)
NUCLEI = (
    (0.20, -0.24, 0.52, 0.055, 0.12, 0.08, 10),  # caudate
    (0.38, -0.05, 0.47, 0.085, 0.21, 0.08, -14),  # lentiform
    (0.16, 0.13, 0.47, 0.105, 0.16, 0.07, -18),  # thalamus
)
FACE = (  # and their HU, painted in this order below the skull base
    ((0.42, -0.64, 0.15, 0.20, 0.32, 0.07, -12), FAT),  # orbits
    ((0.44, -0.86, 0.15, 0.165, 0.14, 0.06, 0), 15),  # globes
    ((0.10, -0.66, 0.12, 0.085, 0.26, 0.08, 0), -700),  # ethmoid cells
    ((0.42, -0.62, -0.01, 0.22, 0.25, 0.07, 0), -950),  # maxillary sinuses
    ((0.00, -0.32, 0.11, 0.15, 0.13, 0.04, 0), -950),  # sphenoid sinus
    ((0.80, 0.27, 0.09, 0.13, 0.13, 0.06, 0), -550),  # mastoid cells
)
SYLVIAN = ((0.98, -0.16), (0.60, -0.14), (0.50, 0.14), (0.60, -0.14), (0.46, -0.32))


@dataclass(frozen=True)
class Head:
    """One patient's head."""

    half_width: float  # of the skull's inside at its widest, mm
    half_length: float
    bone: float  # thickness of the vault, mm
    scalp: float
    ventricles: float  # their size, 1 is usual
    atrophy: float  # width of the sulci, 1 is usual
    turn: float  # of the head in the plane, radians
    shift: tuple  # of the head's centre from the image's, mm (x, y)
    lumps: tuple  # relative irregularity of the outline, harmonics 2, 3, 4: (cosine, sine) each
    # ellipsoids of calcium: pineal, choroid plexus, basal ganglia, falx; (ellipsoid, HU)
    calcified: tuple


def draw_head(rng):
    """A random Head from a numpy Generator."""
    calcium = (
        (0.6, (0.00, 0.20, 0.43, 0.035, 0.03, 0.022, 0), 190),
        (0.5, (0.27, 0.36, 0.51, 0.035, 0.04, 0.025, 0), 160),
        (0.15, (0.34, -0.08, 0.45, 0.04, 0.07, 0.022, 0), 110),
        (0.3, (0.00, rng.uniform(-0.7, -0.5), rng.uniform(0.6, 0.85), 0.025, 0.06, 0.02, 0), 240),
    )
    return Head(
        half_width=rng.uniform(62, 70),
        half_length=rng.uniform(78, 88),
        bone=rng.uniform(5.5, 8.5),
        scalp=rng.uniform(4, 7),
        ventricles=rng.uniform(0.8, 1.35),
        atrophy=rng.uniform(0.7, 1.5),
        turn=rng.normal(0, 0.05),
        shift=tuple(rng.normal(0, 4, 2).tolist()),
        lumps=tuple(map(tuple, rng.normal(0, (0.012, 0.008, 0.005), (2, 3)).T.tolist())),
        calcified=tuple(
            (where, hu * rng.uniform(0.6, 1.4))
            for chance, where, hu in calcium
            if rng.random() < chance
        ),
    )


class Anatomy:
    """A head on a pixel grid, cut at some heights.

    x, y, radius, angle, outline: (size, size), mm and radians; angle 0 is the front, pi / 2 the
    image's right. hu, brain, ventricles, csf: (n, size, size) float32; the last three are weights
    in [0, 1] of what lies inside the skull, of the ventricles, and of the spaces that subarachnoid
    blood fills (sulci, fissures, cisterns).
    """

    def __init__(self, rng, head, heights, size, pixel_mm):
        """Draw what varies (the sulci) from `rng` and cut `head` at `heights` (n,) into size x size
        pixels of `pixel_mm`.
        """
        self.head, self.heights, self.size, self.pixel_mm = (
            head,
            [float(h) for h in heights],
            size,
            float(pixel_mm),
        )
        self._lay_grid()
        self.floor, self.rough = _skull_base(self, rng)
        self.folds = _Folds(rng, self)
        self.hu, self.brain, self.ventricles, self.csf = np.zeros(
            (4, len(self.heights), size, size), np.float32
        )
        for k in range(len(self.heights)):
            _cut(self, k)

    def _lay_grid(self):
        head = self.head
        axis = (np.arange(self.size, dtype=np.float32) - (self.size - 1) / 2) * self.pixel_mm
        x, y = axis[None, :] - head.shift[0], axis[:, None] - head.shift[1]
        cos, sin = float(np.cos(head.turn)), float(np.sin(head.turn))
        self.x, self.y = x * cos + y * sin, y * cos - x * sin
        self.radius = np.hypot(self.x, self.y)
        self.angle = np.arctan2(self.x, -self.y)
        along = self.y / np.maximum(self.radius, 1e-3)
        across = self.x / np.maximum(self.radius, 1e-3)
        width = head.half_width * (1 + 0.06 * along)  # narrower at the forehead
        outline = 1 / np.hypot(across / width, along / head.half_length)
        for order, (c, s) in enumerate(head.lumps, start=2):
            outline = outline * (
                1 + c * np.cos(order * self.angle) + s * np.sin(order * self.angle)
            )
        self.outline = outline.astype(np.float32)

    def depth(self, k):
        """How far inside the inner table each pixel of slice k is, along its ray from the centre:
        (size, size) mm.
        """
        return self.outline * _profile(self.heights[k], 0.95) - self.radius

    def soft(self, distance):
        """Weight of what lies `distance` mm inside an edge: 0 to 1 over one pixel."""
        return np.clip(distance / self.pixel_mm + 0.5, 0, 1)

    def ellipsoid(self, where, k, scale=1.0, edge=None):
        """Weight of a mirrored ellipsoid (see VENTRICLES) in slice k: (size, size), or None where
        it is not in it.
        """
        x, y, height, along_x, along_y, along_h, degrees = where
        left = 1 - ((self.heights[k] - height) / (along_h * max(scale, 1))) ** 2
        if left <= 0:
            return None
        width, length = self.head.half_width, self.head.half_length
        across, down = np.abs(self.x) - x * width, self.y - y * length
        cos, sin = float(np.cos(np.radians(degrees))), float(np.sin(np.radians(degrees)))
        u, v = across * cos + down * sin, down * cos - across * sin
        if x == 0:
            u = across
        reach_u, reach_v = along_x * scale * width, along_y * scale * length
        inside = np.sqrt(left) - np.sqrt((u / reach_u) ** 2 + (v / reach_v) ** 2)
        return np.clip(inside * min(reach_u, reach_v) / (edge or self.pixel_mm) + 0.5, 0, 1)

    def near_line(self, points, half_mm):
        """Weight of the mirrored line through `points` (fractions of the half axes), `half_mm` to
        each side: (size, size).
        """
        ends = np.array(points, np.float32) * (self.head.half_width, self.head.half_length)
        nearest = np.full_like(self.x, np.inf)
        for (ax, ay), (bx, by) in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
            dx, dy = bx - ax, by - ay
            across, down = np.abs(self.x) - ax, self.y - ay
            t = np.clip((across * dx + down * dy) / (dx * dx + dy * dy), 0, 1)
            nearest = np.minimum(nearest, np.hypot(across - t * dx, down - t * dy))
        return self.soft(half_mm - nearest)


class _Folds:
    """The sulci: a random pattern in (angle, depth) that changes slowly with height; its zero lines
    run inward.
    """

    def __init__(self, rng, anatomy, every=0.08):
        self.every, self.start = every, min(anatomy.heights)
        planes = int((max(anatomy.heights) - self.start) / every) + 2
        noise = rng.standard_normal((planes, 480, 60), dtype=np.float32)
        noise = ndimage.gaussian_filter(noise, (0, 3.6, 9), mode=("constant", "wrap", "nearest"))
        self.tables = (noise / noise.std()).reshape(planes, -1)
        turn = ((anatomy.angle / (2 * np.pi) + 0.5) * 480).astype(np.int32) % 480
        inward = np.clip((anatomy.outline - anatomy.radius) * 1.0, 0, 59).astype(np.int32)
        self.index = turn * 60 + inward

    def at(self, height):
        """The pattern at a height: (size, size), normal with variance 1."""
        step, part = divmod((height - self.start) / self.every, 1)
        low, high = self.tables[int(step)], self.tables[int(step) + 1]
        mixed = float(np.cos(part * np.pi / 2)) * low + float(np.sin(part * np.pi / 2)) * high
        return mixed[self.index]


def _profile(height, top, widest=0.38):
    """Size of a cross-section relative to the widest one: an ellipsoid above it, a gentle taper to
    the skull base below.
    """
    if height <= widest:
        return 1 - 0.2 * ((widest - height) / widest) ** 2
    if height >= top:
        return -1.0  # nothing of it is left
    return (1 - ((height - widest) / (top - widest)) ** 2.3) ** (1 / 2.3)


def _skull_base(anatomy, rng):
    """Height of the skull base below each pixel, and noise of variance 1 for what lies under it:
    two (size, size).

    It steps up from the bowl of the posterior fossa over the middle fossae to the orbital roofs,
    with the petrous ridges.
    """
    x, y = np.abs(anatomy.x) / anatomy.head.half_width, anatomy.y / anatomy.head.half_length
    bowl = 0.32 * (x**2 + (y - 0.42) ** 2) - 0.14
    floor = np.where(y < 0.08, np.where(x > 0.24, 0.04 + 0.16 * x**2, 0.18), bowl)
    floor = np.where(y < -0.34 - 0.1 * x, 0.235 - 0.03 * np.cos(8 * x), floor)
    floor = ndimage.gaussian_filter(floor.astype(np.float32), 2.5 / anatomy.pixel_mm)
    petrous = anatomy.near_line(((0.22, 0.04), (0.88, 0.27)), 3 + 6 * x)
    rough = ndimage.gaussian_filter(
        rng.standard_normal(x.shape, dtype=np.float32), 3 / anatomy.pixel_mm
    )
    rough /= rough.std()
    ridges = (0.19 + 0.02 * x) * petrous - 0.15 * (1 - petrous)
    return np.maximum(floor, ridges) + 0.012 * rough, rough


def _paint(hu, weight, value):
    """Blend `value` HU into a slice in place."""
    if weight is not None:
        hu += weight * (value - hu)


def _most(weights):
    """The largest of some weights, Nones left out; None if all are."""
    weights = [w for w in weights if w is not None]
    return np.maximum.reduce(weights) if weights else None


def _cut(a, k):
    """Fill slice k of an Anatomy: from the air inwards."""
    head, height, hu = a.head, a.heights[k], a.hu[k]
    hu[:] = AIR
    holder = a.head.half_length + 26 - 0.004 * a.x**2 - a.y
    _paint(hu, a.soft(1.5 - np.abs(holder)) * (np.abs(a.x) < 75), -150)
    skin = (a.outline + head.bone + head.scalp) * _profile(height, 1.05) - a.radius
    outer = (a.outline + head.bone) * _profile(height, 1.0) - a.radius
    depth = a.depth(k)
    _paint(hu, a.soft(skin), SCALP)
    _paint(
        hu, a.soft(np.minimum(skin - 1.5, -0.5 - outer)) * np.clip(0.5 + 0.4 * a.rough, 0, 1), FAT
    )
    _paint(hu, a.soft(outer), BONE)
    _paint(hu, a.soft(np.minimum(outer - 1.8, -1.8 - depth)), DIPLOE)
    a.brain[k] = a.soft(depth) * np.clip((height - a.floor) / 0.012 + 0.5, 0, 1)
    folds = a.folds.at(height)
    tissue = _tissue(a, k, depth, folds)
    _skull_base_tissue(a, k, depth, skin)
    _paint(hu, a.brain[k], tissue)


def _tissue(a, k, depth, folds):
    """Brain, CSF and meninges of slice k in HU: (size, size). Fills `ventricles` and `csf` on the
    way.
    """
    head, height = a.head, a.heights[k]
    # no sulci to be seen beside the cerebellum
    above = float(np.clip((height - 0.24) / 0.08, 0, 1))
    reach = 19 + 5 * np.cos(3 * a.angle + 20 * height)
    sulci = (
        np.exp(-((folds / (0.21 * head.atrophy)) ** 2)) * np.clip((reach - depth) / 6, 0, 1) * above
    )
    rim = a.soft(1.2 * head.atrophy - depth)
    midline = a.soft(0.9 * head.atrophy - np.abs(a.x)) * above * _beside_the_middle(a, height)
    sylvian = a.near_line(SYLVIAN, 1.5 * head.atrophy) * float(
        np.clip(2 - abs(height - 0.41) / 0.06, 0, 1)
    )
    cisterns = _most([a.ellipsoid(c, k) for c in CISTERNS])
    spaces = _most([sulci, rim * 0.7, midline, sylvian, cisterns])
    vent = _most([a.ellipsoid(v, k, head.ventricles) for v in VENTRICLES])
    a.ventricles[k] = 0 if vent is None else vent * a.brain[k]
    a.csf[k] = spaces * a.brain[k] * (1 - a.ventricles[k])
    cortex = np.clip((5.5 - depth) / 2, 0, 1)
    banks = np.exp(-((folds / 0.55) ** 2)) * np.clip((reach + 4 - depth) / 4, 0, 1) * above
    tissue = WHITE + (GREY - WHITE) * np.maximum(np.maximum(cortex, banks), 1 - above)
    _paint(tissue, _most([a.ellipsoid(n, k) for n in NUCLEI]), GREY + 1)
    _paint(tissue, a.csf[k], CSF + 4)
    _paint(tissue, vent, CSF)
    # falx
    _paint(tissue, a.soft(0.5 - np.abs(a.x)) * _beside_the_middle(a, height) * above, MENINX)
    # superior sagittal sinus
    _paint(tissue, a.soft(5 - depth - 2 * np.abs(a.x)) * (a.y > 0) * above, MENINX + 3)
    if 0.22 < height < 0.34:  # tentorium
        _paint(
            tissue, a.near_line(((0.12, 0.42 + height / 2), (0.75, 1.7 * height)), 0.8), MENINX - 3
        )
    for where, calcium in head.calcified:
        _paint(tissue, a.ellipsoid(where, k), calcium)
    return tissue + 6 * np.exp(-np.maximum(depth, 0) / 4)  # beam hardening beside the vault


def _beside_the_middle(a, height):
    """Where falx and interhemispheric fissure are at a height: in front and behind, and all along
    above the ventricles.
    """
    if height > 0.69:
        return 1.0
    return ((a.y < -0.47 * a.head.half_length) | (a.y > 0.42 * a.head.half_length)).astype(
        np.float32
    )


def _skull_base_tissue(a, k, depth, skin):
    """Paint bone, muscle, orbits and sinuses into what is inside the outline but below the skull
    base.
    """
    height, hu = a.heights[k], a.hu[k]
    _paint(hu, a.soft(depth), BONE - 150 + 150 * a.rough)
    below = a.soft(depth + 1) * np.clip((a.floor - 0.035 - height) / 0.015 + 0.5, 0, 1)
    _paint(hu, below, np.where(a.rough > 0.9, FAT, 52 + 10 * a.rough))
    low = a.soft(np.minimum(60 * (a.floor - height), skin - 3))
    for where, value in FACE:
        weight = a.ellipsoid(where, k)
        if weight is not None:
            # cells between walls of bone
            walls = np.clip(0.7 + a.rough, 0, 1) if value in (-700, -550) else 1.0
            _paint(hu, weight * walls * low, value)
