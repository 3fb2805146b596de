"""Slabs: which slices make them, with which weights, and the mean of their pixels in HU."""

import numpy as np
import pandas as pd
import pytest
from tiny_dicom import write_slice

from ct.pixel_cache.reader import PixelCache
from ct.pixel_cache.slab_pixels import member_paths
from ct.pixel_cache.slab_plan import in_plane_positions, slab_table
from ct.pixel_cache.writer import write_cache
from ct.slices import ORIENTATION, POSITION, check_slice_table, order_slices


def series(positions, tilt=0.0, spacing=0.5):
    """(slice table, in-plane positions) of one series whose table moves along z."""
    cos, sin = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
    table = pd.DataFrame(
        [(0.0, 0.0, z / cos, 1, 0, 0, 0, cos, -sin) for z in positions],
        columns=[*POSITION, *ORIENTATION],
        index=pd.Index([f"i{k:03}" for k in range(len(positions))], name="slice_id"),
    ).assign(study_id="S", series_id="R", split="test", pixel_spacing_mm=spacing)
    table["path"] = table.index + ".dcm"
    in_plane = in_plane_positions(table)
    ordered = order_slices(table)
    return ordered, in_plane.loc[ordered.index]


def weights(slabs):
    return [{m.path: round(m.weight, 6) for m in members} for members in slabs["members"]]


def test_five_slices_of_1_mm_make_a_slab_of_5_mm():
    slabs, slab_of = slab_table(*series(np.arange(20.0)), 5.0)
    assert slabs["position_mm"].tolist() == [2, 7, 12, 17]
    assert slabs.index.tolist() == ["i002", "i007", "i012", "i017"]
    assert weights(slabs)[1] == dict.fromkeys([f"i{k:03}.dcm" for k in range(5, 10)], 0.2)
    assert slab_of.tolist() == np.repeat(slabs.index, 5).tolist()
    assert slabs["series_slices"].tolist() == [4] * 4 and slabs["place"].tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(slabs["gap_below_mm"], np.float32([np.nan, 5, 5, 5]))
    check_slice_table(slabs)


def test_slices_that_two_slabs_share_are_weighted_by_their_parts():
    slabs, _ = slab_table(*series(np.arange(0, 12, 1.5)), 4.0)  # 8 slices over 12 mm: 3 slabs
    assert weights(slabs)[0] == {"i000.dcm": 0.375, "i001.dcm": 0.375, "i002.dcm": 0.25}
    total = sum(m.weight for members in slabs["members"] for m in members if m.path == "i002.dcm")
    assert total == pytest.approx(1.5 / 4)  # the whole slice, of slabs of 4 mm


def test_thick_slices_that_overlap_are_not_made_thicker():
    slabs, _ = slab_table(*series(np.arange(0, 50, 2.5)), 5.0, thickness_mm=5.0)
    assert len(slabs) == 10 and all(
        sum(share * 5 for share in slab.values()) <= 5 and len(slab) <= 2 for slab in weights(slabs)
    )
    alone, _ = slab_table(*series(np.arange(0, 50, 2.5)), 5.0, thickness_mm=2.5)
    assert [len(slab) for slab in weights(alone)] == [2] * 10


def test_a_gap_has_no_slab_and_every_slice_has_one():
    positions = np.r_[np.arange(0.0, 20), np.arange(60.0, 80)]
    slabs, slab_of = slab_table(*series(positions), 5.0)
    assert not ((slabs["position_mm"] > 25) & (slabs["position_mm"] < 55)).any()
    assert slab_of.isin(slabs.index).all() and slabs.index.is_unique
    assert slabs["gap_below_mm"].max() >= 30


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_few_slices_make_one_slab(count):
    slabs, slab_of = slab_table(*series(np.arange(float(count))), 5.0)
    assert len(slabs) == 1 and set(slab_of) == set(slabs.index)
    assert sum(weights(slabs)[0].values()) == pytest.approx(1, abs=1e-5)


def test_slices_at_one_position_share_it():
    slabs, _ = slab_table(*series([0.0, 1, 2, 2, 3, 4]), 5.0)
    assert weights(slabs)[0]["i002.dcm"] == weights(slabs)[0]["i003.dcm"] == 0.1


def test_a_tilted_gantry_moves_slices_back_over_each_other():
    slabs, _ = slab_table(*series(np.arange(5.0), tilt=20, spacing=0.5), 5.0)
    moves = [member.down for member in slabs["members"].iloc[0]]
    # the table moves by 1 / cos mm, of which tan lies in the plane, towards the head
    assert np.diff(moves) == pytest.approx(-np.tan(np.radians(20)) / 0.5)
    assert [member.right for member in slabs["members"].iloc[0]] == [0] * 5 and moves[2] == 0


@pytest.mark.parametrize("tilt", [0.0, 20.0])
def test_the_mean_of_a_scene_is_the_scene(tmp_path, tilt):
    """A bright bar along the normal keeps its place, and noise is averaged away."""
    rng, (table, in_plane) = np.random.default_rng(0), series(np.arange(10.0), tilt, spacing=1.0)
    for name, back in zip(table["path"], in_plane["back_mm"], strict=True):
        rows = np.arange(64)[:, None] + back  # mm from the scanner's centre
        scene = np.where(np.abs(rows - 30) < 6, 800, 0) * np.ones((1, 64))
        noisy = scene + rng.normal(0, 20, scene.shape)
        write_slice(tmp_path / name, np.rint(noisy), RescaleIntercept=0)
    slabs, _ = slab_table(table, in_plane, 5.0)
    facts = write_cache(tmp_path / "cache", tmp_path, slabs, 64, workers=1)
    hu = PixelCache(tmp_path / "cache").read([0, 1])
    assert facts["readable"].all() and (facts["reason"] == "").all()
    for picture, name in zip(hu, slabs.index, strict=True):
        rows = np.arange(64) + in_plane.at[name, "back_mm"]
        inside, outside = np.abs(rows - 30) < 4.5, np.abs(rows - 30) > 7.5
        assert abs(picture[inside].mean() - 800) < 3 and abs(picture[outside].mean()) < 3
        assert picture[outside].std() < 20 / np.sqrt(5) * 1.25


def test_a_member_that_does_not_decode_is_left_out_and_named(tmp_path):
    table, in_plane = series(np.arange(10.0))
    for number, name in enumerate(table["path"]):
        write_slice(tmp_path / name, np.full((8, 8), 10 * number), RescaleIntercept=0)
    path = tmp_path / "i001.dcm"
    path.write_bytes(path.read_bytes()[:-40])
    slabs, _ = slab_table(table, in_plane, 5.0)
    facts = write_cache(tmp_path / "cache", tmp_path, slabs, 8, workers=1)
    assert facts["readable"].all() and "truncated" in facts["reason"].iloc[0]
    hu = PixelCache(tmp_path / "cache").read([0, 1])
    assert (hu[0] == np.rint((0 + 20 + 30 + 40) / 4)).all() and (hu[1] == 70).all()
    assert member_paths(slabs["members"]) == table["path"].tolist()
