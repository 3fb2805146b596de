"""From slices in HU to the CNN's input."""

import numpy as np
import pytest
import torch

from ct.windows import window_bounds
from stage1_cnn.batches.augment import AIR_HU, MEAN, STD, augment, mix, resize, to_channels, views
from stage1_cnn.config import CnnConfig

NO_AUGMENTATION = {"flip": False, "rotate": 0, "scale": 0, "shift": 0, "hu_shift": 0, "hu_noise": 0}


def config(**values):
    """Return a CnnConfig without augmentation, but for `values`."""
    return CnnConfig(**({"name": "a", "backbone": "test_resnet"} | NO_AUGMENTATION | values))


def generator(seed=0):
    """Return a seeded torch.Generator."""
    return torch.Generator().manual_seed(seed)


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
            expected = (np.clip((hu[:, i] - low) / (high - low), 0, 1) - MEAN) / STD
            np.testing.assert_allclose(images[:, i * 2 + j].numpy(), expected, atol=1e-5)


def test_resize_averages_and_keeps_slices_of_the_right_size():
    hu = torch.arange(64.0).reshape(1, 1, 8, 8)
    assert resize(hu, None) is hu
    assert resize(hu, 8) is hu
    small = resize(hu, 4)
    assert small.shape == (1, 1, 4, 4)
    assert small.mean().item() == pytest.approx(hu.mean().item(), abs=0.01)
    assert to_channels(hu, config(image_size=32, windows=("brain",))).shape == (1, 1, 32, 32)


def head(b=6, c=2, size=16):
    """Return slices (b, c, size, size) float32 HU."""
    return torch.from_numpy(
        np.random.default_rng(0).normal(30, 20, (b, c, size, size)).astype(np.float32)
    )


def test_augment_changes_nothing_when_every_setting_is_zero():
    assert torch.equal(augment(head(), config(), generator()), head())


def test_flip_mirrors_left_and_right_of_half_the_slices_with_their_neighbours():
    hu = head(b=40)
    got = augment(hu, config(flip=True), generator())
    same = [torch.allclose(g, h, atol=1e-2) for g, h in zip(got, hu, strict=True)]
    mirrored = [torch.allclose(g, h.flip(-1), atol=1e-2) for g, h in zip(got, hu, strict=True)]
    assert [a != b for a, b in zip(same, mirrored, strict=True)] == [True] * 40
    assert 10 < sum(mirrored) < 30


def test_shift_is_a_share_of_the_width_and_fills_with_air():
    hu = torch.full((64, 1, 20, 20), 30.0)
    got = augment(hu, config(shift=0.25), generator())
    columns = (got[:, 0, 10] < 29).sum(dim=1)  # pixels of a row that became air
    assert got.min().item() == pytest.approx(AIR_HU, abs=1)
    assert 3 < columns.max().item() <= 6


def test_scale_and_rotation_act_about_the_centre():
    disc = torch.hypot(
        *torch.meshgrid(torch.arange(65.0) - 32, torch.arange(65.0) - 32, indexing="ij")
    )
    disc = torch.where(disc < 16, 60.0, 0.0).expand(32, 1, 65, 65)
    area = (disc > 30).sum(dim=(1, 2, 3)).float()
    turned = augment(disc, config(rotate=180), generator())
    assert torch.allclose((turned > 30).sum(dim=(1, 2, 3)).float(), area, rtol=0.03)
    grown = (augment(disc, config(scale=0.2), generator()) > 30).sum(dim=(1, 2, 3)) / area
    assert 0.6 < grown.min().item() < 0.8
    assert 1.2 < grown.max().item() < 1.5


def test_rotation_is_at_most_its_degrees_and_keeps_distances():
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


def test_hu_shift_is_one_number_a_slice_and_noise_one_a_pixel():
    moved = augment(head(), config(hu_shift=5), generator()) - head()
    assert moved.std(dim=(1, 2, 3)).max().item() < 1e-3
    assert moved.mean(dim=(1, 2, 3)).std().item() > 1
    noise = augment(head(), config(hu_noise=5), generator()) - head()
    assert noise.std().item() == pytest.approx(5, rel=0.1)


def test_augment_repeats_with_the_seed():
    changes = config(flip=True, rotate=20, scale=0.1, shift=0.1, hu_shift=3, hu_noise=1)
    assert torch.equal(
        augment(head(), changes, generator(3)), augment(head(), changes, generator(3))
    )
    assert not torch.equal(
        augment(head(), changes, generator(3)), augment(head(), changes, generator(4))
    )


def test_reverse_reverses_the_neighbours_of_half_of_the_slices():
    hu = torch.arange(5.0).view(1, 5, 1, 1).expand(60, 5, 4, 4)
    got = augment(hu, config(reverse=True, neighbours=2), generator())[:, :, 0, 0]
    back = (got == torch.arange(4.0, -1, -1)).all(dim=1)
    assert ((got == torch.arange(5.0)).all(dim=1) != back).all()
    assert 15 < back.sum() < 45


def test_erase_fills_one_rectangle_with_air_in_its_share_of_the_slices():
    hu = torch.full((200, 2, 32, 32), 30.0)
    got = augment(hu, config(erase=0.5), generator())
    erased = got == AIR_HU
    assert torch.equal(erased[:, 0], erased[:, 1])  # in the neighbours too
    area = erased[:, 0].float().mean(dim=(1, 2))
    assert 70 < (area > 0).sum() < 130
    assert area[area > 0].min() > 0.01 and area.max() < 0.24
    for one in erased[:, 0][area > 0]:
        rows, columns = one.any(dim=1), one.any(dim=0)
        assert one.sum() == rows.sum() * columns.sum()  # a full rectangle
    assert torch.equal(got[~erased], hu[~erased])


def test_mixup_mixes_images_and_labels_by_one_share():
    images, labels = torch.arange(4.0).view(4, 1, 1, 1), torch.eye(4)[:, :3]
    mixed, truth = mix(images, labels, 1.0, seed=2)
    share = truth[0, 0].item()
    assert 0 < share < 1
    assert mixed.flatten().tolist() == pytest.approx(
        [(1 - share) * 3, share + (1 - share) * 2, 2 * share + 1 - share, 3 * share]
    )
    assert torch.allclose(truth, share * labels + (1 - share) * labels.flip(0))
    assert torch.equal(mix(images, labels, 1.0, 2)[0], mixed) and not torch.equal(
        mix(images, labels, 1.0, 3)[0], mixed
    )
    shares = [mix(images, labels, 0.2, seed)[1][0, 0].item() for seed in range(300)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.06) and np.std(shares) == pytest.approx(
        np.sqrt(0.25 / 1.4), rel=0.1
    )


def test_views_are_the_plain_slices_and_those_of_tta():
    hu = torch.arange(24.0).view(1, 2, 3, 4)
    plain, mirrored, back = views(hu, config(tta=("flip", "reverse")))
    assert torch.equal(plain, hu)
    assert mirrored[0, 0, 0].tolist() == [3, 2, 1, 0]
    assert torch.equal(back[:, 0], hu[:, 1]) and torch.equal(back[:, 1], hu[:, 0])
    assert len(views(hu, config())) == 1


def test_the_backbone_decides_the_normalisation_where_the_recipe_says_so():
    hu = torch.full((1, 1, 4, 4), 80, dtype=torch.int16)  # 1 in the brain window
    for backbone, mean, std in (("test_resnet", 0.5, 0.5), ("resnet18", 0.449, 0.226)):
        own = config(backbone=backbone, windows=("brain",), normalisation="backbone")
        assert float(to_channels(hu, own)[0, 0, 0, 0]) == pytest.approx((1 - mean) / std, rel=1e-6)
        plain = own.model_copy(update={"normalisation": "imagenet"})
        assert float(to_channels(hu, plain)[0, 0, 0, 0]) == pytest.approx((1 - 0.449) / 0.226)
