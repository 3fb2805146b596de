"""Grad-CAM: maps are largest at the planted blob, upright, and of a CNN of the right fold."""

import numpy as np
import pytest
import torch

from ct.errors import InputError
from pipeline.commands.explain import folds_of
from stage1_cnn.config import CnnConfig
from stage1_cnn.gradcam import find_layer, gradcam_maps, to_bytes
from stage1_cnn.model import build_model

pytest.importorskip("captum", reason="captum is not installed: pip install -e '.[explain]'")
SIZE = 64


def config_of(backbone, **values):
    return CnnConfig(name="a", backbone=backbone, windows=("brain",), batch=8, threads=1, **values)


def blobs(count, seed):
    """Return slices of dark brain in HU and a place (row, column) in each.

    The even slices have a bright blob at their place.
    """
    rng = np.random.default_rng(seed)
    hu = rng.normal(20, 3, (count, SIZE, SIZE)).astype(np.int16)
    at = rng.integers(10, SIZE - 10, (count, 2))
    for number in range(0, count, 2):
        row, column = at[number]
        hu[number, row - 5 : row + 5, column - 5 : column + 5] = 75
    return hu, at


def reader(hu):
    """Return a read_hu of the slices `hu`."""

    def read(numbers, out=None):
        slices = hu[np.asarray(numbers, int)]
        if out is None:
            return slices
        out[:] = slices
        return out

    return read


@pytest.fixture(scope="module")
def trained():
    """Return a tiny CNN that is trained to find the blob as its first label."""
    from stage1_cnn.batches.augment import to_channels

    config = config_of("test_resnet")
    model = build_model(config, seed=0).train()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    torch.set_num_threads(1)
    for step in range(40):
        hu, _ = blobs(16, step)
        target = (torch.arange(16) % 2 == 0).float()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            model(to_channels(torch.from_numpy(hu)[:, None], config))[0][:, 0], target
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2
    return model.eval(), config


def test_the_map_is_largest_at_the_blob(trained):
    """Neither mirrored nor rotated; the map of an unreadable slice is 0."""
    hu, at = blobs(24, 1000)
    readable = np.arange(24) != 4
    maps = gradcam_maps(*trained[:1], np.arange(24)[:, None], readable, reader(hu), trained[1])
    _, _, (high, wide) = find_layer(*trained, SIZE)
    assert (
        maps.shape == (24, 6, high, wide)
        and maps.dtype == np.float32
        and (maps >= 0).all()
        and not maps[4].any()
    )
    apart, flipped = [], []
    for number in set(range(0, 24, 2)) - {4}:
        weight = maps[number, 0] / maps[number, 0].sum()
        rows, columns = (np.arange(high) + 0.5) * SIZE / high, (np.arange(wide) + 0.5) * SIZE / wide
        middle = np.array([weight.sum(axis=1) @ rows, weight.sum(axis=0) @ columns])
        apart.append(np.abs(middle - at[number]).max())
        flipped.append(
            min(np.abs(middle - other).max() for other in (at[number][::-1], SIZE - at[number]))
        )
    assert np.median(apart) < SIZE / high and np.median(flipped) > np.median(apart)


@pytest.mark.parametrize(
    "backbone",
    [
        "test_resnet",
        "test_efficientnet",
        "test_convnext",
        "resnet10t",
        "vgg11",
        "densenet121",
        "mobilenetv3_small_050",
    ],
)
def test_every_backbone_family_of_the_recipes_has_maps(backbone):
    config = config_of(backbone)
    model, (hu, _) = build_model(config, seed=0), blobs(2, 0)
    maps = gradcam_maps(model, np.arange(2)[:, None], np.ones(2, bool), reader(hu), config)
    assert (
        maps.shape[:2] == (2, 6)
        and min(maps.shape[2:]) >= 7
        and maps.any()
        and np.isfinite(maps).all()
    )


def test_a_transformer_is_refused():
    config = config_of("test_vit", image_size=160)
    with pytest.raises(InputError, match="'test_vit' has no feature maps for Grad-CAM"):
        find_layer(build_model(config, seed=0), config, 160)


def test_bytes_are_scaled_within_a_study_and_label():
    maps = np.zeros((2, 6, 1, 2), np.float32)
    maps[0, 0], maps[1, 0], maps[1, 3] = [[1, 2]], [[4, 0]], [[0.25, 0.5]]
    scaled = to_bytes(maps)
    assert (
        scaled[:, 0].tolist() == [[[64, 128]], [[255, 0]]]
        and scaled[1, 3].tolist() == [[128, 255]]
        and not scaled[:, 1].any()
    )


def test_the_folds_that_explain_a_study():
    assert folds_of(np.array([2, 2, 2]), 3) == [2]
    assert folds_of(np.array([-1, -1]), 3) == [0, 1, 2]
    with pytest.raises(ValueError, match="in the folds"):
        folds_of(np.array([0, 1]), 3)


def test_each_study_is_explained_by_the_cnn_of_its_fold(finished, tmp_path, capsys):
    """With the weights of fold 0 zero, the maps of its studies are 0, those of fold 1 are not.

    A second call keeps all maps.
    """
    import shutil

    from safetensors.torch import load_file, save_file

    from ct.run_dir import RunDir
    from ct.storage.file_formats import read_array, read_json, read_table
    from pipeline.commands.explain import explain_studies
    from pipeline.progress import no_bar
    from pipeline.run_context import Run

    shutil.copytree(finished, tmp_path / "r")
    folder = RunDir(tmp_path / "r")
    weights = folder.fold("resnet", 0) / "weights.safetensors"
    save_file(
        {name: torch.zeros_like(value) for name, value in load_file(weights).items()}, weights
    )
    slices = read_table(folder.slices).join(read_table(folder.folds))
    fold = slices.groupby("study_id")["fold"].first()
    explain_studies(Run(folder.root, bar=no_bar), list(fold.index), None)
    nonzero = {k: False for k in (-1, 0, 1)}
    for study, k in fold.items():
        facts, array = folder.gradcam_maps("resnet", study)
        assert read_json(facts)["folds"] == ([0, 1] if k < 0 else [k])
        assert read_json(facts)["slices"] == list(slices.index[slices["study_id"] == study])
        nonzero[k] |= bool(read_array(array).any())
    assert not nonzero[0] and nonzero[1]
    explain_studies(Run(folder.root, bar=no_bar), list(fold.index), "resnet")
    assert f"0 studies explained, {len(fold)} kept" in capsys.readouterr().out
    with pytest.raises(InputError, match="--model=vgg: the recipe has no such CNN; it has resnet"):
        explain_studies(Run(folder.root), None, "vgg")
    with pytest.raises(InputError, match="--studies=ID_0: the run has no such study"):
        explain_studies(Run(folder.root), ["ID_0"], None)


def test_maps_of_old_weights_are_removed(finished, tmp_path):
    """A CNN that is trained anew has no maps until it is explained; the report depends on them."""
    import shutil

    from ct.run_dir import RunDir
    from ct.storage.atomic_write import discard
    from ct.storage.file_formats import write_json
    from pipeline.progress import no_bar
    from pipeline.registry import STAGES
    from pipeline.run_context import Run
    from pipeline.stage_runner import run_stage, why_stage_is_stale

    shutil.copytree(finished, tmp_path / "r")
    folder = RunDir(tmp_path / "r")
    facts, _ = folder.gradcam_maps("resnet", "ID_0")
    write_json(facts, {})
    run = Run(folder.root, log=lambda line: None, bar=no_bar)
    assert why_stage_is_stale(run, STAGES["report"]) == "stage1/resnet/explain/ID_0.json changed"
    discard(folder.fold("resnet", 1) / "curve.json")
    run_stage(run, "train")
    assert (
        not folder.gradcam_folder("resnet").exists()
        and why_stage_is_stale(run, STAGES["report"]) == ""
    )
