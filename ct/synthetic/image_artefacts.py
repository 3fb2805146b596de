"""Mimics of bleeds in single slices, and scanner noise, for a synthetic head."""

import numpy as np
from scipy import ndimage

from ct.synthetic.bleeds import HEIGHTS, SHAPES, draw_bleed
from ct.synthetic.phantom import Anatomy

CALCIUM_RATE, STREAK_RATE = 0.12, 0.08  # probability per slice


def add_mimics(rng: np.random.Generator, anatomy: Anatomy, rate: float = 0.07) -> None:
    """Paint mimics of bleeds into single slices of `anatomy.hu`, in place.

    Heads with and without bleeds get them at the same rate. Each slice independently gets a shape
    of each of the five kinds with probability `rate` (as from partial volume of bone, vessels or a
    thick choroid plexus), specks of calcium, and streaks as from metal or motion.
    """
    for k, height in enumerate(anatomy.heights):
        for kind, (low, high) in HEIGHTS.items():
            if rng.random() < rate and low - 0.1 < height < high + 0.1:
                mimic = draw_bleed(rng, kind, anatomy, 1)
                weight = SHAPES[kind](anatomy, k, mimic, float(rng.uniform(0.4, 0.95)))
                contrast = float(rng.uniform(0.35, 1))
                anatomy.hu[k] += weight * contrast * (mimic.hu - anatomy.hu[k])
        if rng.random() < CALCIUM_RATE:
            _paint_calcium(rng, anatomy, k)
        if rng.random() < STREAK_RATE:
            _paint_streaks(rng, anatomy, k)


def add_noise(rng: np.random.Generator, anatomy: Anatomy) -> None:
    """Add scanner noise to `anatomy.hu`, in place; strength and grain differ between slices."""
    for hu in anatomy.hu:
        fine, coarse = rng.standard_normal((2, *hu.shape), dtype=np.float32)
        fine = ndimage.gaussian_filter(fine, 0.6, truncate=3)
        small = ndimage.gaussian_filter(coarse[::4, ::4], 6 / (4 * anatomy.pixel_mm), truncate=2.5)
        coarse = small.repeat(4, 0).repeat(4, 1)[: hu.shape[0], : hu.shape[1]]
        hu += (
            float(rng.uniform(4, 8)) * fine / fine.std()
            + float(rng.uniform(0.5, 2)) * coarse / coarse.std()
        )


def _paint_calcium(rng: np.random.Generator, anatomy: Anatomy, k: int) -> None:
    """Paint a speck of calcium, 2 to 6 mm across, into slice k."""
    angle, radius = rng.uniform(-np.pi, np.pi), rng.uniform(0, 60)
    x, y = float(radius * np.sin(angle)), float(radius * np.cos(angle))
    distance = np.hypot(anatomy.x - x, anatomy.y + y)
    weight = anatomy.brain[k] * anatomy.soft_edge(float(rng.uniform(1, 3)) - distance)
    anatomy.hu[k] += weight * (float(rng.uniform(90, 300)) - anatomy.hu[k])


def _paint_streaks(rng: np.random.Generator, anatomy: Anatomy, k: int) -> None:
    """Paint bright and dark bands across slice k, as from metal or motion."""
    angle, offset = rng.uniform(0, np.pi), rng.uniform(-40, 40)
    across = anatomy.x * float(np.cos(angle)) + anatomy.y * float(np.sin(angle)) - float(offset)
    bands = np.exp(-np.abs(across) / 22) * np.cos(across / float(rng.uniform(2, 6)))
    anatomy.hu[k] += float(rng.uniform(8, 25)) * bands * anatomy.brain[k]
