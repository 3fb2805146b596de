"""A synthetic head in HU: skull, brain, ventricles, sulci and skull base, slice by slice.

No image of a patient is used. ct/synthetic/head_geometry.py describes the coordinates.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ct.synthetic.head_geometry import Ellipsoid, Head, HeadGeometry, profile

# HU
AIR, FAT, SCALP, BONE, DIPLOE, WHITE, GREY, CSF, MENINX = -1000, -80, 45, 1050, 700, 29, 37, 8, 50
ETHMOID, MASTOID = -700, -550  # air cells between walls of bone

VENTRICLES: tuple[Ellipsoid, ...] = (
    (0.12, -0.30, 0.51, 0.070, 0.17, 0.10, 14),  # frontal horns
    (0.14, 0.04, 0.60, 0.075, 0.36, 0.08, -8),  # bodies
    (0.26, 0.30, 0.51, 0.090, 0.18, 0.10, -25),  # atria
    (0.32, 0.48, 0.47, 0.060, 0.17, 0.07, -12),  # occipital horns
    (0.42, 0.00, 0.29, 0.035, 0.12, 0.04, 0),  # temporal horns
    (0.00, -0.02, 0.41, 0.040, 0.15, 0.09, 0),  # third
    (0.00, 0.38, 0.17, 0.110, 0.07, 0.08, 0),  # fourth
)
CISTERNS: tuple[Ellipsoid, ...] = (
    (0.00, -0.13, 0.26, 0.20, 0.09, 0.05, 0),  # suprasellar
    (0.14, -0.04, 0.25, 0.05, 0.12, 0.05, -35),
    (0.21, 0.14, 0.29, 0.035, 0.14, 0.06, -10),  # ambient
    (0.00, 0.27, 0.30, 0.15, 0.04, 0.05, 0),  # quadrigeminal
    (0.00, 0.02, 0.17, 0.17, 0.035, 0.06, 0),  # prepontine
    (0.12, 0.66, 0.06, 0.10, 0.10, 0.07, 20),  # cisterna magna
)
NUCLEI: tuple[Ellipsoid, ...] = (
    (0.20, -0.24, 0.52, 0.055, 0.12, 0.08, 10),  # caudate
    (0.38, -0.05, 0.47, 0.085, 0.21, 0.08, -14),  # lentiform
    (0.16, 0.13, 0.47, 0.105, 0.16, 0.07, -18),  # thalamus
)
FACE: tuple[tuple[Ellipsoid, float], ...] = (  # with HU, painted in this order
    ((0.42, -0.64, 0.15, 0.20, 0.32, 0.07, -12), FAT),  # orbits
    ((0.44, -0.86, 0.15, 0.165, 0.14, 0.06, 0), 15),  # globes
    ((0.10, -0.66, 0.12, 0.085, 0.26, 0.08, 0), ETHMOID),  # ethmoid cells
    ((0.42, -0.62, -0.01, 0.22, 0.25, 0.07, 0), -950),  # maxillary sinuses
    ((0.00, -0.32, 0.11, 0.15, 0.13, 0.04, 0), -950),  # sphenoid sinus
    ((0.80, 0.27, 0.09, 0.13, 0.13, 0.06, 0), MASTOID),  # mastoid cells
)
SYLVIAN_FISSURE = ((0.98, -0.16), (0.60, -0.14), (0.50, 0.14), (0.60, -0.14), (0.46, -0.32))


class Anatomy(HeadGeometry):
    """A head on a pixel grid, cut at n heights, with its tissues.

    hu, brain, ventricles, csf: (n, size, size) float32. brain, ventricles and csf are weights in
    [0, 1]: inside the skull; in the ventricles; in the spaces that subarachnoid blood fills (sulci,
    fissures, cisterns).
    """

    def __init__(
        self,
        rng: np.random.Generator,
        head: Head,
        heights: Sequence[float] | NDArray[np.floating],
        size: int,
        pixel_mm: float,
    ) -> None:
        """Draw what is random from `rng`; cut `head` at `heights` (n,) into size x size pixels."""
        super().__init__(rng, head, heights, size, pixel_mm)
        shape = (len(self.heights), size, size)
        self.hu, self.brain, self.ventricles, self.csf = np.zeros((4, *shape), np.float32)
        for k in range(len(self.heights)):
            self._fill_slice(k)

    def _fill_slice(self, k: int) -> None:
        """Fill slice k from the air inwards."""
        head, height, hu = self.head, self.heights[k], self.hu[k]
        hu[:] = AIR
        holder = head.half_length + 26 - 0.004 * self.x**2 - self.y
        paint(hu, self.soft_edge(1.5 - np.abs(holder)) * (np.abs(self.x) < 75), -150)
        skin = (self.outline + head.bone + head.scalp) * profile(height, 1.05) - self.radius
        outer = (self.outline + head.bone) * profile(height, 1.0) - self.radius
        depth = self.depth(k)
        paint(hu, self.soft_edge(skin), SCALP)
        fat = self.soft_edge(np.minimum(skin - 1.5, -0.5 - outer))
        paint(hu, fat * np.clip(0.5 + 0.4 * self.roughness, 0, 1), FAT)
        paint(hu, self.soft_edge(outer), BONE)
        paint(hu, self.soft_edge(np.minimum(outer - 1.8, -1.8 - depth)), DIPLOE)
        above_base = np.clip((height - self.skull_base) / 0.012 + 0.5, 0, 1)
        self.brain[k] = self.soft_edge(depth) * above_base
        tissue = self._fill_brain(k, depth)
        self._paint_below_skull_base(k, depth, skin)
        paint(hu, self.brain[k], tissue)

    def _fill_brain(self, k: int, depth: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return the HU of brain, CSF and meninges of slice k, (size, size).

        Fills `ventricles` and `csf`.
        """
        head, height = self.head, self.heights[k]
        pattern = self.sulci.at(height)
        # 1 above the cerebellum, where sulci are visible; 0 at its height
        above = float(np.clip((height - 0.24) / 0.08, 0, 1))
        reach = 19 + 5 * np.cos(3 * self.angle + 20 * height)  # depth of the sulci, mm
        deep = np.clip((reach - depth) / 6, 0, 1)
        sulci = np.exp(-((pattern / (0.21 * head.atrophy)) ** 2)) * deep * above
        spaces = largest([sulci, *self._other_spaces(k, depth, above)])
        ventricles = largest([self.ellipsoid(v, k, head.ventricles) for v in VENTRICLES])
        self.ventricles[k] = 0 if ventricles is None else ventricles * self.brain[k]
        self.csf[k] = spaces * self.brain[k] * (1 - self.ventricles[k])
        cortex = np.clip((5.5 - depth) / 2, 0, 1)
        banks = np.exp(-((pattern / 0.55) ** 2)) * np.clip((reach + 4 - depth) / 4, 0, 1) * above
        tissue = WHITE + (GREY - WHITE) * np.maximum(np.maximum(cortex, banks), 1 - above)
        paint(tissue, largest([self.ellipsoid(nucleus, k) for nucleus in NUCLEI]), GREY + 1)
        paint(tissue, self.csf[k], CSF + 4)
        paint(tissue, ventricles, CSF)
        self._paint_meninges(tissue, height, depth, above)
        for ellipsoid, calcium in head.calcified:
            paint(tissue, self.ellipsoid(ellipsoid, k), calcium)
        return tissue + 6 * np.exp(-np.maximum(depth, 0) / 4)  # beam hardening near the vault

    def _other_spaces(
        self, k: int, depth: NDArray[np.floating], above: float
    ) -> list[NDArray[np.floating] | None]:
        """Return the weights of the CSF spaces of slice k other than sulci and ventricles."""
        atrophy, height = self.head.atrophy, self.heights[k]
        rim = self.soft_edge(1.2 * atrophy - depth)
        interhemispheric = self.soft_edge(0.9 * atrophy - np.abs(self.x))
        midline = interhemispheric * above * self._at_midline(height)
        near_sylvian = float(np.clip(2 - abs(height - 0.41) / 0.06, 0, 1))
        sylvian = self.line(SYLVIAN_FISSURE, 1.5 * atrophy) * near_sylvian
        cisterns = largest([self.ellipsoid(cistern, k) for cistern in CISTERNS])
        return [rim * 0.7, midline, sylvian, cisterns]

    def _paint_meninges(
        self, tissue: NDArray[np.floating], height: float, depth: NDArray[np.floating], above: float
    ) -> None:
        """Paint falx, superior sagittal sinus and tentorium."""
        falx = self.soft_edge(0.5 - np.abs(self.x)) * self._at_midline(height) * above
        paint(tissue, falx, MENINX)
        sagittal_sinus = self.soft_edge(5 - depth - 2 * np.abs(self.x)) * (self.y > 0) * above
        paint(tissue, sagittal_sinus, MENINX + 3)
        if 0.22 < height < 0.34:
            tentorium = ((0.12, 0.42 + height / 2), (0.75, 1.7 * height))
            paint(tissue, self.line(tentorium, 0.8), MENINX - 3)

    def _at_midline(self, height: float) -> float | NDArray[np.float32]:
        """Return where falx and interhemispheric fissure are at a height: weights, (size, size).

        They are in front and behind; above the ventricles they are everywhere: 1.0.
        """
        if height > 0.69:
            return 1.0
        half_length = self.head.half_length
        outer = (self.y < -0.47 * half_length) | (self.y > 0.42 * half_length)
        return outer.astype(np.float32)

    def _paint_below_skull_base(
        self, k: int, depth: NDArray[np.floating], skin: NDArray[np.floating]
    ) -> None:
        """Paint bone, muscle, orbits and sinuses inside the outline and below the skull base."""
        height, hu = self.heights[k], self.hu[k]
        paint(hu, self.soft_edge(depth), BONE - 150 + 150 * self.roughness)
        under = np.clip((self.skull_base - 0.035 - height) / 0.015 + 0.5, 0, 1)
        muscle = np.where(self.roughness > 0.9, FAT, 52 + 10 * self.roughness)
        paint(hu, self.soft_edge(depth + 1) * under, muscle)
        low = self.soft_edge(np.minimum(60 * (self.skull_base - height), skin - 3))
        for ellipsoid, value in FACE:
            weight = self.ellipsoid(ellipsoid, k)
            if weight is not None:
                cells = value in (ETHMOID, MASTOID)
                walls = np.clip(0.7 + self.roughness, 0, 1) if cells else 1.0
                paint(hu, weight * walls * low, value)


def paint(
    hu: NDArray[np.floating],
    weight: NDArray[np.floating] | None,
    value: float | NDArray[np.floating],
) -> None:
    """Blend `value` HU into `hu` (size, size) in place, by weights in [0, 1]; None: nothing."""
    if weight is not None:
        hu += weight * (value - hu)


def largest(weights: Iterable[NDArray[np.floating] | None]) -> NDArray[np.floating] | None:
    """Return the elementwise maximum of the weights that are not None; None if all are."""
    arrays = [weight for weight in weights if weight is not None]
    return np.maximum.reduce(arrays) if arrays else None
