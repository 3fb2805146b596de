"""The synthetic head and its anatomy."""

import numpy as np
import pytest
from small_head import HEIGHTS, PIXEL, SIZE, head

from ct.synthetic.head_geometry import draw_head
from ct.synthetic.phantom import Anatomy


def test_a_head_from_outside_inwards():
    anatomy, _ = head()
    k = int(np.argmin(np.abs(HEIGHTS - 0.5)))
    hu, depth = anatomy.hu[k], anatomy.depth(k)
    assert (hu[[0, 0, -1, -1], [0, -1, 0, -1]] == -1000).all()
    table = (depth < -1.5) & (depth > -4)
    assert np.median(hu[table]) > 650
    deep = (depth > 25) & (anatomy.ventricles[k] == 0) & (anatomy.csf[k] == 0)
    assert 28 < np.median(hu[deep]) < 40
    assert np.median(hu[anatomy.ventricles[k] > 0.99]) == pytest.approx(8, abs=2)
    assert anatomy.brain.min() >= 0 and anatomy.brain.max() <= 1


def test_a_head_from_bottom_to_top():
    anatomy, _ = head()
    inside = (anatomy.brain > 0.5).sum((1, 2)) * PIXEL**2 / 100  # cm2
    assert inside[-1] == 0 and inside.argmax() in range(7, 15) and 110 < inside.max() < 200
    assert (np.diff(inside[15:]) <= 0).all()  # it closes towards the vertex
    low = HEIGHTS < 0.2
    below = (anatomy.depth(1) > 5) & (anatomy.y < 0)
    # the sinuses of the face
    assert anatomy.brain[1][below].max() == 0 and anatomy.hu[1][below].min() < -900
    middle = (HEIGHTS > 0.45) & (HEIGHTS < 0.6)
    assert anatomy.ventricles[middle].any((1, 2)).all()
    assert not anatomy.ventricles[HEIGHTS > 0.75].any()
    lateral = anatomy.ventricles[middle] * (np.abs(anatomy.x) > 8)
    assert lateral.sum() > 10 * (anatomy.ventricles[low] * (np.abs(anatomy.x) > 12)).sum()


def test_the_sulci_change_slowly_with_height():
    rng = np.random.default_rng(1)
    close = Anatomy(rng, draw_head(rng), [0.60, 0.61, 0.85], SIZE, PIXEL)
    near, far = (
        np.corrcoef(close.sulci.at(0.60).ravel(), close.sulci.at(h).ravel())[0, 1]
        for h in (0.61, 0.85)
    )
    assert near > 0.9 and abs(far) < 0.3
