"""Geometry of a synthetic head: outline, skull base, sulci and ellipsoids on a pixel grid.

Lengths in the plane are mm from the centre of the head, x to the right of the image and y to its
bottom, which is the back of the head. Heights are fractions along the slice normal: 0 is the floor
of the posterior fossa, 0.95 the inside of the vertex, 1 its outside.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

# x, y, height, half axes of the three, degrees that the front end turns outward. Lengths are
# fractions of the half axes of the inside of the skull; ellipsoids are mirrored in x.
Ellipsoid = tuple[float, float, float, float, float, float, float]


@dataclass(frozen=True)
class Head:
    """The shape of one patient's head."""

    half_width: float  # of the inside of the skull at its widest, mm
    half_length: float
    bone: float  # thickness of the vault, mm
    scalp: float  # thickness, mm
    ventricles: float  # size, 1 is usual
    atrophy: float  # width of the sulci, 1 is usual
    rotation: float  # of the head in the plane, radians
    shift: tuple[float, float]  # of the head's centre from the image's, mm (x, y)
    # relative irregularity of the outline: (cosine, sine) of the harmonics 2, 3 and 4
    harmonics: tuple[tuple[float, float], ...]
    # calcifications and their HU: pineal gland, choroid plexus, basal ganglia, falx
    calcified: tuple[tuple[Ellipsoid, float], ...]


def draw_head(rng: np.random.Generator) -> Head:
    """Return a random Head."""
    calcium = (  # probability, ellipsoid, mean HU
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
        rotation=rng.normal(0, 0.05),
        shift=tuple(rng.normal(0, 4, 2).tolist()),
        harmonics=tuple(map(tuple, rng.normal(0, (0.012, 0.008, 0.005), (2, 3)).T.tolist())),
        calcified=tuple(
            (ellipsoid, hu * rng.uniform(0.6, 1.4))
            for probability, ellipsoid, hu in calcium
            if rng.random() < probability
        ),
    )


class HeadGeometry:
    """A head on a pixel grid, cut at n heights.

    x, y, radius, angle, outline: (size, size), mm and radians; angle 0 is the front, pi / 2 the
    right of the image. skull_base: (size, size), its height. roughness: (size, size) noise of
    variance 1. sulci: Sulci.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        head: Head,
        heights: Sequence[float] | NDArray[np.floating],
        size: int,
        pixel_mm: float,
    ) -> None:
        """Draw skull base and sulci from `rng`; `heights` (n,), size x size pixels."""
        self.head, self.size, self.pixel_mm = head, size, float(pixel_mm)
        self.heights = [float(height) for height in heights]
        self._make_grid()
        self.skull_base, self.roughness = _skull_base(self, rng)
        self.sulci = Sulci(rng, self)

    def _make_grid(self) -> None:
        head = self.head
        axis = (np.arange(self.size, dtype=np.float32) - (self.size - 1) / 2) * self.pixel_mm
        x, y = axis[None, :] - head.shift[0], axis[:, None] - head.shift[1]
        cos, sin = float(np.cos(head.rotation)), float(np.sin(head.rotation))
        self.x, self.y = x * cos + y * sin, y * cos - x * sin
        self.radius = np.hypot(self.x, self.y)
        self.angle = np.arctan2(self.x, -self.y)
        along = self.y / np.maximum(self.radius, 1e-3)
        across = self.x / np.maximum(self.radius, 1e-3)
        width = head.half_width * (1 + 0.06 * along)  # narrower at the forehead
        outline = 1 / np.hypot(across / width, along / head.half_length)
        for order, (c, s) in enumerate(head.harmonics, start=2):
            harmonic = 1 + c * np.cos(order * self.angle) + s * np.sin(order * self.angle)
            outline = outline * harmonic
        self.outline = outline.astype(np.float32)

    def depth(self, k: int) -> NDArray[np.floating]:
        """Return the depth of each pixel of slice k inside the inner table: (size, size), mm.

        It is measured along the ray from the centre, negative outside.
        """
        return self.outline * profile(self.heights[k], 0.95) - self.radius

    def soft_edge(self, distance: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return the weight of pixels `distance` mm inside an edge: 0 to 1 over one pixel."""
        return np.clip(distance / self.pixel_mm + 0.5, 0, 1)

    def ellipsoid(
        self, ellipsoid: Ellipsoid, k: int, scale: float = 1.0
    ) -> NDArray[np.floating] | None:
        """Return the weight of a mirrored ellipsoid in slice k, (size, size), or None outside."""
        x, y, height, along_x, along_y, along_h, degrees = ellipsoid
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
        return np.clip(inside * min(reach_u, reach_v) / self.pixel_mm + 0.5, 0, 1)

    def line(
        self, points: Sequence[tuple[float, float]], half_mm: float | NDArray[np.floating]
    ) -> NDArray[np.floating]:
        """Return the weight of a mirrored line, `half_mm` wide on each side: (size, size).

        points: x and y of its corners, as fractions of the half axes; half_mm: one, or (size, size)
        """
        ends = np.array(points, np.float32) * (self.head.half_width, self.head.half_length)
        nearest = np.full_like(self.x, np.inf)
        for (ax, ay), (bx, by) in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
            dx, dy = bx - ax, by - ay
            across, down = np.abs(self.x) - ax, self.y - ay
            t = np.clip((across * dx + down * dy) / (dx * dx + dy * dy), 0, 1)
            nearest = np.minimum(nearest, np.hypot(across - t * dx, down - t * dy))
        return self.soft_edge(half_mm - nearest)


class Sulci:
    """A random pattern in angle and depth that changes slowly with height.

    Its zero lines, which run inward, are the sulci.
    """

    def __init__(
        self, rng: np.random.Generator, geometry: HeadGeometry, spacing: float = 0.08
    ) -> None:
        """Draw one noise table for every `spacing` in height."""
        self.spacing, self.start = spacing, min(geometry.heights)
        planes = int((max(geometry.heights) - self.start) / spacing) + 2
        noise = rng.standard_normal((planes, 480, 60), dtype=np.float32)
        noise = ndimage.gaussian_filter(noise, (0, 3.6, 9), mode=("constant", "wrap", "nearest"))
        self.tables = (noise / noise.std()).reshape(planes, -1)
        turn = ((geometry.angle / (2 * np.pi) + 0.5) * 480).astype(np.int32) % 480
        inward = np.clip((geometry.outline - geometry.radius) * 1.0, 0, 59).astype(np.int32)
        self.index = turn * 60 + inward

    def at(self, height: float) -> NDArray[np.float32]:
        """Return the pattern at a height, (size, size): normally distributed, variance 1."""
        step, part = divmod((height - self.start) / self.spacing, 1)
        low, high = self.tables[int(step)], self.tables[int(step) + 1]
        mixed = float(np.cos(part * np.pi / 2)) * low + float(np.sin(part * np.pi / 2)) * high
        return mixed[self.index]


def profile(height: float, top: float, widest: float = 0.38) -> float:
    """Return the size of the cross-section at a height, relative to the widest one.

    An ellipsoid above the widest cross-section, a taper to the skull base below it, -1 above `top`.
    """
    if height <= widest:
        return 1 - 0.2 * ((widest - height) / widest) ** 2
    if height >= top:
        return -1.0
    return (1 - ((height - widest) / (top - widest)) ** 2.3) ** (1 / 2.3)


def _skull_base(
    geometry: HeadGeometry, rng: np.random.Generator
) -> tuple[NDArray[np.floating], NDArray[np.float32]]:
    """Return the height of the skull base at each pixel, and noise of variance 1; (size, size).

    It rises from the bowl of the posterior fossa over the middle fossae to the orbital roofs, with
    the petrous ridges.
    """
    x = np.abs(geometry.x) / geometry.head.half_width
    y = geometry.y / geometry.head.half_length
    bowl = 0.32 * (x**2 + (y - 0.42) ** 2) - 0.14
    floor = np.where(y < 0.08, np.where(x > 0.24, 0.04 + 0.16 * x**2, 0.18), bowl)
    floor = np.where(y < -0.34 - 0.1 * x, 0.235 - 0.03 * np.cos(8 * x), floor)
    floor = ndimage.gaussian_filter(floor.astype(np.float32), 2.5 / geometry.pixel_mm)
    petrous = geometry.line(((0.22, 0.04), (0.88, 0.27)), 3 + 6 * x)
    noise = rng.standard_normal(x.shape, dtype=np.float32)
    rough = ndimage.gaussian_filter(noise, 3 / geometry.pixel_mm)
    rough /= rough.std()
    ridges = (0.19 + 0.02 * x) * petrous - 0.15 * (1 - petrous)
    return np.maximum(floor, ridges) + 0.012 * rough, rough
