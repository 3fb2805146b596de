"""The synthetic head: its anatomy, and place and brightness of planted bleeds and mimics."""

import dataclasses

import numpy as np
import pytest

from ct.labels import SUBTYPES
from ct.synthetic.bleeds import (
    VISIBLE_MM2,
    bleed_weights,
    draw_bleed,
    paint_bleed,
    plant_bleed,
    visible_slices,
)
from ct.synthetic.head_geometry import draw_head
from ct.synthetic.image_artefacts import add_mimics, add_noise
from ct.synthetic.phantom import Anatomy

HEIGHTS, SIZE, PIXEL = np.linspace(-0.03, 1.0, 24), 96, 2.4


def head(seed=0):
    """A head at 24 heights, and its generator, to draw bleeds from."""
    rng = np.random.default_rng(seed)
    return Anatomy(rng, draw_head(rng), HEIGHTS, SIZE, PIXEL), rng


@pytest.fixture(scope="module", params=SUBTYPES)
def bleeding(request):
    """(kind, HU before, anatomy after, weights) of one planted bleed of each kind."""
    anatomy, rng = head(SUBTYPES.index(request.param))
    before = anatomy.hu.copy()
    return request.param, before, anatomy, plant_bleed(rng, anatomy, request.param, 7)


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
    assert (
        anatomy.ventricles[middle].any((1, 2)).all()
        and not anatomy.ventricles[HEIGHTS > 0.75].any()
    )
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
        assert (
            depth[mask].min() > 0
            and 12 < 2 * np.sqrt(mask.sum((1, 2)).max() * PIXEL**2 / np.pi) < 45
        )


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
    assert (
        shape["epidural"][0] > shape["subdural"][0] and shape["epidural"][1] < shape["subdural"][1]
    )


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
