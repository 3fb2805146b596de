"""Planted bleeds: where they are, how bright, and how they taper."""

import dataclasses

import numpy as np
import pytest
from small_head import HEIGHTS, PIXEL, head

from ct.labels import SUBTYPES
from ct.synthetic.bleeds import (
    VISIBLE_MM2,
    bleed_weights,
    draw_bleed,
    paint_bleed,
    plant_bleed,
    visible_slices,
)


@pytest.fixture(scope="module", params=SUBTYPES)
def bleeding(request):
    """(kind, HU before, anatomy after, weights) of one planted bleed of each kind."""
    anatomy, rng = head(SUBTYPES.index(request.param))
    before = anatomy.hu.copy()
    return request.param, before, anatomy, plant_bleed(rng, anatomy, request.param, 7)


def test_blood_is_bright_contiguous_and_inside(bleeding):
    kind, before, anatomy, weights = bleeding
    visible = visible_slices(weights, PIXEL)
    run = np.flatnonzero(visible)
    assert 3 <= len(run) <= 9 and np.ptp(run) + 1 == len(run)
    assert not weights[~visible].any()
    mask = weights > 0.9
    assert (anatomy.hu[mask] > before[mask]).mean() > 0.9
    assert 40 < anatomy.hu[mask].mean() < 75
    assert (weights <= anatomy.brain + 1e-6).all()
    untouched = (weights == 0) & ~visible[:, None, None]
    assert (anatomy.hu[untouched] == before[untouched]).all()


def test_blood_is_where_its_kind_occurs(bleeding):
    kind, _, anatomy, weights = bleeding
    depth = np.stack([anatomy.depth(k) for k in range(len(HEIGHTS))])
    mask = weights > 0.5
    x = np.broadcast_to(anatomy.x, mask.shape)[mask]
    angles = np.broadcast_to(anatomy.angle, mask.shape)[mask]
    if kind in ("epidural", "subdural"):
        assert depth[mask].max() < 26 and depth[mask].min() < 2 * PIXEL  # it touches the vault
        assert len(np.unique(np.sign(x))) == 1  # one side
        wide = np.ptp(angles)
        assert wide > 1.3 if kind == "subdural" else wide < 1.3
    elif kind == "intraventricular":
        assert anatomy.ventricles[mask].min() > 0.4
        here = anatomy.ventricles[weights.any((1, 2))] > 0.5
        y = np.broadcast_to(anatomy.y, mask.shape)
        # it sinks to the back
        assert y[mask].mean() > np.broadcast_to(anatomy.y, here.shape)[here].mean() + 5
    elif kind == "subarachnoid":
        assert anatomy.csf[mask].min() > 0.15 and anatomy.ventricles[mask].max() < 0.6
    else:
        assert depth[mask].min() > 0
        assert 12 < 2 * np.sqrt(mask.sum((1, 2)).max() * PIXEL**2 / np.pi) < 45


def test_oedema_is_dark_around_a_blob():
    anatomy, rng = head(4)
    bleed = dataclasses.replace(
        draw_bleed(rng, "intraparenchymal", anatomy, 5),
        centre=(0.4, 0.25),
        thickness=12,
        middle=14.0,
    )
    before, weights = anatomy.hu.copy(), bleed_weights(anatomy, bleed)
    paint_bleed(rng, anatomy, bleed, weights, faintest=0.99)
    k = 14
    far = np.hypot(
        anatomy.x - 0.4 * anatomy.head.half_width, anatomy.y - 0.25 * anatomy.head.half_length
    )
    rim = (weights[k] == 0) & (far < 15) & (before[k] > 25)
    assert rim.sum() > 10 and (anatomy.hu[k] - before[k])[rim].mean() < -3


def test_a_lens_is_thick_and_a_crescent_is_long():
    anatomy, rng = head(2)
    shape = {}
    for kind in ("epidural", "subdural"):
        bleed = dataclasses.replace(draw_bleed(rng, kind, anatomy, 5), angle=1.6, middle=13.0)
        mask = bleed_weights(anatomy, bleed)[13] > 0.5
        shape[kind] = anatomy.depth(13)[mask].max(), np.ptp(anatomy.angle[mask])
    assert shape["epidural"][0] > shape["subdural"][0]
    assert shape["epidural"][1] < shape["subdural"][1]


def test_a_run_tapers_and_invisible_blood_is_left_out():
    anatomy, rng = head(5)
    bleed = dataclasses.replace(
        draw_bleed(rng, "epidural", anatomy, 7), middle=13.0, thickness=18.0
    )
    area = (bleed_weights(anatomy, bleed) > 0.5).sum((1, 2)) * PIXEL**2
    assert area[area > 0].min() >= VISIBLE_MM2
    assert area[13] > 1.3 * area[10] > 0 and area[13] > 1.3 * area[16] > 0
    assert not bleed_weights(anatomy, dataclasses.replace(bleed, thickness=0.1)).any()


def test_only_the_longest_visible_run_is_kept():
    anatomy, rng = head(8)
    bleed = dataclasses.replace(draw_bleed(rng, "subdural", anatomy, 9), middle=13.0)
    whole = np.flatnonzero(bleed_weights(anatomy, bleed).any((1, 2)))
    anatomy.brain[11] = 0  # a slice without room for blood, near the lower end of the run
    assert np.flatnonzero(bleed_weights(anatomy, bleed).any((1, 2))).tolist() == [
        k for k in whole if k > 11
    ]
