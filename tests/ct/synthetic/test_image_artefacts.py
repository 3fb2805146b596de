"""Mimics of bleeds in single slices, and scanner noise."""

import numpy as np
from small_head import HEIGHTS, head

from ct.synthetic.image_artefacts import add_mimics, add_noise


def test_a_mimic_is_in_one_slice():
    anatomy, _ = head(6)
    unchanged = head(6)[0]
    calls = [0]

    class Once:
        """A generator with one uniform draw below the rate, in slice 12."""

        def __init__(self):
            self.rng = np.random.default_rng(0)

        def random(self):
            calls[0] += 1
            return 0.0 if calls[0] == 12 * 7 + 1 else 1.0

        def __getattr__(self, name):
            return getattr(self.rng, name)

    add_mimics(Once(), anatomy)
    changed = np.flatnonzero((anatomy.hu != unchanged.hu).any((1, 2)))
    assert changed.tolist() == [12]


def test_heads_without_bleeds_have_mimics_and_every_slice_has_noise():
    anatomy, rng = head(7)
    clean = anatomy.hu.copy()
    add_mimics(rng, anatomy)
    assert 1 <= (anatomy.hu != clean).any((1, 2)).sum() < len(HEIGHTS) // 1.5
    before = anatomy.hu.copy()
    add_noise(rng, anatomy)
    spread = (anatomy.hu - before).std((1, 2))
    assert (spread > 3.5).all() and (spread < 9).all() and np.ptp(spread) > 1
    assert np.abs((anatomy.hu - before).mean((1, 2))).max() < 1.5
