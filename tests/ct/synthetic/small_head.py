"""A synthetic head of few pixels, for the tests."""

import numpy as np

from ct.synthetic.head_geometry import draw_head
from ct.synthetic.phantom import Anatomy

HEIGHTS, SIZE, PIXEL = np.linspace(-0.03, 1.0, 24), 96, 2.4


def head(seed=0):
    """A head at 24 heights, and its generator, to draw bleeds from."""
    rng = np.random.default_rng(seed)
    return Anatomy(rng, draw_head(rng), HEIGHTS, SIZE, PIXEL), rng
