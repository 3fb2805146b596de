"""From HU to the CNN's input."""

import threading

import numpy as np
import pandas as pd
import pytest
import torch
from cnn_slices import make_slices, reader

from ct.windows import window_bounds
from stage1_cnn.config import CnnConfig
from stage1_cnn.data import (
    AIR_HU,
    MEAN,
    STD,
    augment,
    batches,
    neighbour_rows,
    read_ahead,
    read_batch,
    resize,
    to_channels,
)

STILL = {"flip": False, "rotate": 0, "scale": 0, "shift": 0, "hu_shift": 0, "hu_noise": 0}


def config(**values):
    """A CnnConfig that changes nothing about slices unless asked to."""
    return CnnConfig(**({"name": "a", "backbone": "test_resnet"} | STILL | values))


def generator(seed=0):
    """A seeded torch.Generator."""
    return torch.Generator().manual_seed(seed)


def test_neighbour_rows_against_a_slow_loop():
    rng = np.random.default_rng(0)
    slices, _ = make_slices(4, 5)
    slices.iloc[[6, 7, 14], slices.columns.get_loc("readable")] = False
    slices.iloc[12:15, slices.columns.get_loc("split")] = "test"  # one series in two splits
    slices["place"] = [int(p) for s in range(4) for p in rng.permutation(5)]
    got = neighbour_rows(slices, 2)
    for row in range(20):
        mine = slices.iloc[row]
        same = [r for r in range(20) if tuple(slices.iloc[r][["series_id", "split"]]) == (mine.series_id, mine.split)]
        same.sort(key=lambda r: slices.iloc[r].place)
        at = same.index(row)
        want = [same[min(max(at + step, 0), len(same) - 1)] for step in range(-2, 3)]
        assert got[row].tolist() == [r if slices.iloc[r].readable else row for r in want]


def test_neighbour_rows_by_hand():
    slices, _ = make_slices(2, 3)
    want = [[0, 0, 1], [0, 1, 2], [1, 2, 2], [3, 3, 4], [3, 4, 5], [4, 5, 5]]
    assert neighbour_rows(slices, 1).tolist() == want
    assert neighbour_rows(slices, 0).tolist() == [[i] for i in range(6)]
    assert neighbour_rows(slices.iloc[:1], 1).tolist() == [[0, 0, 0]]


def test_batches_cover_all_rows_once_and_repeat_with_the_seed():
    rows = np.arange(10, 20)
    assert np.concatenate(batches(rows, 4)).tolist() == rows.tolist()
    shuffled = batches(rows, 4, generator(1))
    assert [len(b) for b in shuffled] == [4, 4, 2]
    assert sorted(np.concatenate(shuffled)) == rows.tolist()
    assert np.concatenate(shuffled).tolist() != rows.tolist()
    assert all((a == b).all() for a, b in zip(shuffled, batches(rows, 4, generator(1)), strict=True))


def test_batches_drop_a_rest_of_one_only_in_training():
    assert [len(b) for b in batches(np.arange(9), 4, generator())] == [4, 4]
    assert [len(b) for b in batches(np.arange(9), 4)] == [4, 4, 1]
    assert [len(b) for b in batches(np.arange(1), 4)] == [1]


def test_read_batch_reads_each_slice_once():
    _, hu = make_slices(2, 4)
    calls = []
    rows = np.array([[5, 5, 6], [0, 1, 2], [1, 2, 3]])
    got = read_batch(reader(hu, calls), rows)
    assert got.dtype == torch.int16
    assert (got.numpy() == hu[rows]).all()
    assert calls == [[0, 1, 2, 3, 5, 6]]


def test_read_ahead_keeps_the_order_and_raises_what_reading_raised():
    _, hu = make_slices(2, 4)
    order = batches(np.arange(8), 1)
    got = list(read_ahead(reader(hu), np.arange(8)[:, None], order))
    assert [rows.tolist() for rows, _ in got] == [[i] for i in range(8)]
    assert all((pictures.numpy()[:, 0] == hu[rows]).all() for rows, pictures in got)

    def broken(numbers):
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(read_ahead(broken, np.arange(8)[:, None], order))


def test_read_ahead_leaves_no_thread_behind():
    _, hu = make_slices(2, 4)
    before = threading.active_count()
    for _ in read_ahead(reader(hu), np.arange(8)[:, None], batches(np.arange(8), 2)):
        break
    assert threading.active_count() == before


def test_channels_against_a_slow_loop():
    rng = np.random.default_rng(0)
    hu = rng.integers(-1100, 400, (2, 3, 8, 8)).astype(np.int16)
    windows = ("brain", "80/120")
    images = to_channels(torch.from_numpy(hu), config(windows=windows, neighbours=1))
    assert images.shape == (2, 6, 8, 8)
    assert images.dtype == torch.float32
    for i in range(3):
        for j, spec in enumerate(windows):
            low, high = window_bounds(spec)
            want = (np.clip((hu[:, i] - low) / (high - low), 0, 1) - MEAN) / STD
            np.testing.assert_allclose(images[:, i * 2 + j].numpy(), want, atol=1e-5)


def test_resize_averages_and_leaves_the_right_size_alone():
    hu = torch.arange(64.0).reshape(1, 1, 8, 8)
    assert resize(hu, None) is hu
    assert resize(hu, 8) is hu
    small = resize(hu, 4)
    assert small.shape == (1, 1, 4, 4)
    assert small.mean().item() == pytest.approx(hu.mean().item(), abs=0.01)
    assert to_channels(hu, config(image_size=32, windows=("brain",))).shape == (1, 1, 32, 32)


def head(b=6, c=2, size=16):
    """Slices (b, c, size, size) float32 HU."""
    return torch.from_numpy(np.random.default_rng(0).normal(30, 20, (b, c, size, size)).astype(np.float32))


def test_augment_changes_nothing_when_all_is_zero():
    assert torch.equal(augment(head(), config(), generator()), head())


def test_flip_mirrors_left_and_right_of_half_the_slices_with_their_neighbours():
    hu = head(b=40)
    got = augment(hu, config(flip=True), generator())
    same = [torch.allclose(g, h, atol=1e-2) for g, h in zip(got, hu, strict=True)]
    mirrored = [torch.allclose(g, h.flip(-1), atol=1e-2) for g, h in zip(got, hu, strict=True)]
    assert [a != b for a, b in zip(same, mirrored, strict=True)] == [True] * 40
    assert 10 < sum(mirrored) < 30


def test_shift_is_in_shares_of_the_width_and_shows_air():
    hu = torch.full((64, 1, 20, 20), 30.0)
    got = augment(hu, config(shift=0.25), generator())
    columns = (got[:, 0, 10] < 29).sum(dim=1)  # pixels of a row that the slice moved away from
    assert got.min().item() == pytest.approx(AIR_HU, abs=1)
    assert 3 < columns.max().item() <= 6


def test_scale_and_rotation_act_about_the_centre():
    disc = torch.hypot(*torch.meshgrid(torch.arange(65.0) - 32, torch.arange(65.0) - 32, indexing="ij"))
    disc = torch.where(disc < 16, 60.0, 0.0).expand(32, 1, 65, 65)
    area = (disc > 30).sum(dim=(1, 2, 3)).float()
    turned = augment(disc, config(rotate=180), generator())
    assert torch.allclose((turned > 30).sum(dim=(1, 2, 3)).float(), area, rtol=0.03)
    grown = (augment(disc, config(scale=0.2), generator()) > 30).sum(dim=(1, 2, 3)) / area
    assert 0.6 < grown.min().item() < 0.8
    assert 1.2 < grown.max().item() < 1.5


def test_rotation_turns_by_at_most_its_degrees_and_keeps_distances():
    hu = torch.zeros(50, 1, 65, 65)
    hu[:, :, 30:35, 54:59] = 1000  # 24 px right of the centre
    got = augment(hu, config(rotate=30), generator())[:, 0].clamp(min=0)
    axis = torch.arange(65.0) - 32
    mass = got.sum(dim=(1, 2))
    x, y = (got.sum(dim=1) * axis).sum(dim=1) / mass, (got.sum(dim=2) * axis).sum(dim=1) / mass
    assert torch.allclose(torch.hypot(x, y), torch.tensor(24.0), atol=0.3)
    angle = torch.rad2deg(torch.atan2(y, x))
    assert 25 < angle.abs().max().item() < 31
    assert angle.min().item() < 0 < angle.max().item()


def test_hu_shift_moves_a_slice_as_one_and_noise_does_not():
    moved = augment(head(), config(hu_shift=5), generator()) - head()
    assert moved.std(dim=(1, 2, 3)).max().item() < 1e-3
    assert moved.mean(dim=(1, 2, 3)).std().item() > 1
    noise = augment(head(), config(hu_noise=5), generator()) - head()
    assert noise.std().item() == pytest.approx(5, rel=0.1)


def test_augment_repeats_with_the_seed():
    changes = config(flip=True, rotate=20, scale=0.1, shift=0.1, hu_shift=3, hu_noise=1)
    assert torch.equal(augment(head(), changes, generator(3)), augment(head(), changes, generator(3)))
    assert not torch.equal(augment(head(), changes, generator(3)), augment(head(), changes, generator(4)))


def test_neighbours_in_a_shuffled_table_are_the_same_slices():
    slices, _ = make_slices(3, 4)
    shuffled = slices.sample(frac=1, random_state=0)
    names = pd.DataFrame(slices.index.to_numpy()[neighbour_rows(slices, 1)], index=slices.index)
    again = pd.DataFrame(shuffled.index.to_numpy()[neighbour_rows(shuffled, 1)], index=shuffled.index)
    pd.testing.assert_frame_equal(names, again.loc[slices.index])
