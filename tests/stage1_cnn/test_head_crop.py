"""The crop to the head keeps the brain, and maps of crops are drawn where the head is."""

import tarfile

import numpy as np
import pytest
import torch
from cnn_slices import reader
from PIL import Image
from scipy import ndimage

from ct.dicom.hounsfield import read_hu
from ct.pixel_cache.resampling import resample_to_square
from ct.sources.file_reader import read_each
from ct.sources.folder import Folder
from stage1_cnn.batches.augment import to_channels
from stage1_cnn.batches.head_crop import crop_to_head, head_boxes, map_shape, maps_of_slices
from stage1_cnn.config import CnnConfig
from stage1_cnn.gradcam import gradcam_maps
from stage1_cnn.inference import predict
from stage1_cnn.model import build_model
from stage1_cnn.training_step import Trainer

S = 128


def config(**values):
    fields = {"name": "a", "backbone": "test_resnet", "threads": 1, "crop_head": True}
    return CnnConfig(**(fields | values))


def head(top, left, height, width, table=True, size=S):
    """A slice (1, 1, S, S): an ellipse of brain in a skull of 5 px, and a table of 2 px."""
    y, x = np.mgrid[:size, :size] + 0.5
    radius = np.hypot((y - top) / height * 2 - 1, (x - left) / width * 2 - 1)
    inner = np.hypot((y - top - 5) / (height - 10) * 2 - 1, (x - left - 5) / (width - 10) * 2 - 1)
    hu = np.full((size, size), -1000, np.int16)
    hu[radius <= 1] = 800
    hu[inner <= 1] = 30
    if table:
        hu[size - 8 : size - 6] = 400
    return torch.from_numpy(hu)[None, None]


def box(hu):
    return [float(value[0]) for value in head_boxes(hu)]


def test_the_box_is_a_square_around_the_head_and_leaves_out_the_table():
    top, left, side = box(head(20, 40, 80, 60))
    assert top <= 20 and top + side >= 100  # the longer side decides
    assert 80 <= side <= 80 + 2 * S / 32
    assert left + side / 2 == pytest.approx(40 + 30, abs=2)
    assert top + side < S - 8


@pytest.mark.parametrize("top, left", [(0, 0), (0, 60), (48, 0), (48, 68)])
def test_the_box_lies_inside_the_slice(top, left):
    start, column, side = box(head(top, left, 80, 60, table=False))
    for low in (start, column):
        assert low >= 0 and low + side <= S
    assert start <= top and start + side >= top + 80 and column <= left
    assert column + side >= left + 60


def test_a_small_section_is_magnified_twice_at_most_and_air_not_at_all():
    assert box(head(50, 50, 24, 24))[2] == S / 2
    assert box(torch.full((1, 1, S, S), -1000)) == [0, 0, S]


def test_brain_that_no_skull_surrounds_stays_in_the_box():
    hu = head(30, 40, 70, 60)
    hu[0, 0, 50:80, 100:116] = 40  # bulges through a gap
    _, left, side = box(hu)
    assert left + side >= 116


def test_a_slice_and_its_neighbours_share_one_box():
    first, second = head(20, 20, 60, 50), head(40, 50, 70, 60)
    top, left, side = box(torch.cat([first, second], 1))
    assert top <= 20 and left <= 20 and top + side >= 110 and left + side >= 110
    crop = crop_to_head(torch.cat([first, first, second], 1), config())
    assert torch.equal(crop[:, 0], crop[:, 1]) and not torch.equal(crop[:, 0], crop[:, 2])


@pytest.mark.parametrize("size", [None, 48, 96, 200])
def test_the_crop_is_the_box_resampled_as_pillow_does(size):
    """Pillow resizes a box with the same antialiased triangle."""
    rng = np.random.default_rng(0)
    hu = head(20, 40, 80, 60) + torch.from_numpy(rng.integers(-20, 20, (1, 1, S, S), np.int16))
    top, left, side = box(hu)
    out = size or S
    image = Image.fromarray(hu[0, 0].numpy().astype(np.float32))
    corners = (left, top, left + side, top + side)
    expected = np.asarray(image.resize((out, out), Image.Resampling.BILINEAR, corners))
    crop = crop_to_head(hu, config(image_size=size))
    assert crop.shape == (1, 1, out, out) and crop.dtype == torch.float32
    edge = 2  # Pillow reads no pixel outside the box
    inner = np.s_[edge:-edge, edge:-edge]
    np.testing.assert_allclose(crop[0, 0].numpy()[inner], expected[inner], atol=0.5)


def test_bf16_does_not_round_hu():
    hu = head(20, 40, 80, 60)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(crop_to_head(hu, config()), crop_to_head(hu.clone(), config()))
        crop = crop_to_head(hu, config())
    assert crop.dtype == torch.float32 and torch.equal(crop, crop_to_head(hu, config()))


def test_off_is_the_slice_itself():
    hu = head(20, 40, 80, 60)
    assert crop_to_head(hu, config(crop_head=False)) is hu
    assert map_shape((4, 5), config(crop_head=False)) == (4, 5)


def test_where_the_head_lies_does_not_matter_to_the_prediction():
    """The box moves with the head: by whole blocks, exactly."""
    hu = torch.cat([head(20, 40, 80, 60, False), head(32, 20, 80, 60, False)])[:, 0].numpy()
    rows, readable = np.arange(2)[:, None], np.ones(2, bool)
    model = build_model(config(), 0)
    logits, _ = predict(model, rows, readable, reader(hu), config())
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-5)
    whole, _ = predict(model, rows, readable, reader(hu), config(crop_head=False))
    assert np.abs(whole[0] - whole[1]).max() > 1e-4


def test_maps_of_crops_are_drawn_where_the_head_is():
    hu, changed = head(20, 40, 80, 60), config()
    top, left, side = box(hu)
    maps = torch.zeros(1, 2, 8, 8)
    maps[0, 0, 2, 5], maps[0, 1] = 1, 1
    whole = maps_of_slices(maps, hu, changed)
    assert whole.shape[2:] == map_shape((8, 8), changed) == (16, 16)
    cell = S / 16
    row, column = np.unravel_index(int(whole[0, 0].argmax()), (16, 16))
    assert (row + 0.5) * cell == pytest.approx(top + 2.5 / 8 * side, abs=cell / 2)
    assert (column + 0.5) * cell == pytest.approx(left + 5.5 / 8 * side, abs=cell / 2)
    centres = (np.arange(16) + 0.5) * cell
    inside = [(centres > low) & (centres < low + side) for low in (top, left)]
    drawn = whole[0, 1].numpy() > 0.5
    assert (drawn == inside[0][:, None] & inside[1][None, :]).mean() > 0.95


def test_grad_cam_of_a_moved_head_moves_with_it():
    hu = torch.cat([head(20, 40, 80, 60, False), head(36, 24, 80, 60, False)])[:, 0].numpy()
    maps = gradcam_maps(
        build_model(config(), 0), np.arange(2)[:, None], np.ones(2, bool), reader(hu), config()
    )
    rows, columns = maps.shape[2:]
    dy, dx = 16 * rows // S, -16 * columns // S
    np.testing.assert_allclose(np.roll(maps[0], (dy, dx), (1, 2)), maps[1], atol=1e-3 * maps.max())
    assert maps.max() > 0


def brain_of(hu):
    """Bool (S, S): 0 to 80 HU inside the closed skull, in pieces of at least 1 cm2 at 1 mm."""
    bone = hu > 300
    closed = ndimage.binary_closing(np.pad(bone, 20), iterations=8)[20:-20, 20:-20]
    inside = ndimage.binary_fill_holes(closed) & ~bone & (hu >= 0) & (hu <= 80)
    pieces, _ = ndimage.label(ndimage.binary_opening(inside, iterations=3))
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return (sizes >= 100)[pieces]


@pytest.mark.slow
def test_all_of_the_brain_of_real_slices_stays_in_the_box(real_data, tmp_path):
    with tarfile.open(real_data / "rsna_mini.tar.xz") as archive:
        members = [each for each in archive.getmembers() if each.name.endswith(".dcm")]
        archive.extractall(tmp_path, members[::3], filter="data")
    paths = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.dcm"))
    slices = [decoded[0] for decoded, *_ in read_each(read_hu, Folder(tmp_path).select(paths))]
    hu = np.stack([resample_to_square(each, 256) for each in slices])
    sides, brains = [], 0
    for each, top, left, side in zip(
        hu, *(value.numpy() for value in head_boxes(torch.from_numpy(hu)[:, None])), strict=True
    ):
        outside = np.ones((256, 256), bool)
        rows, columns = (
            slice(int(np.ceil(low)), int(low + side)) for low in (float(top), float(left))
        )
        outside[rows, columns] = False
        brain = brain_of(each)
        assert not (brain & outside).any()
        brains += brain.any()
        sides.append(side / 256)
    assert len(paths) >= 116 and brains > 80
    assert np.median(sides) < 0.8  # and the crop is worth its name


def test_training_and_prediction_get_the_same_input():
    hu = head(20, 40, 80, 60)
    changed = config(image_size=64, flip=False, rotate=0, scale=0, shift=0)
    images = to_channels(crop_to_head(hu, changed), changed)
    assert images.shape == (1, 3, 64, 64)
    trainer = Trainer(build_model(changed, 0), changed, 1, 0, print)
    seen = []
    trainer.model.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    trainer.step(hu.repeat(2, 1, 1, 1), torch.zeros(2, 6), 2)
    assert torch.equal(seen[0][:1], images)
