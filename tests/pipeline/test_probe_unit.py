"""Probes as units: each depends on its own inputs alone, and later stages not on its files."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml

import run
from ct.storage.file_formats import read_array, read_arrays, write_array, write_table
from pipeline.freshness import file_digest
from pipeline.input_digests import input_digests
from pipeline.registry import STAGES
from pipeline.run_context import Run
from pipeline.stage_data.probe_unit import HELD_OUT, TEST, probe_units
from pipeline.stage_runner import stage_states

FEATURES = {"reach": 1, "smooth_mm": [], "chain": True, "probe": True}


@pytest.fixture(scope="module")
def probed(finished, tmp_path_factory):
    """A finished run whose features are made again, with probes. Not to be changed."""
    folder = shutil.copytree(finished, tmp_path_factory.mktemp("probed") / "r")
    change(folder, FEATURES)
    assert run.main(["features", f"--run={folder}"]) == 0
    return folder


@pytest.fixture
def probes(probed, tmp_path):
    """The same, to be changed."""
    return shutil.copytree(probed, tmp_path / "r")


def change(folder, features):
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["features"] = features
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))


def units(folder):
    opened = Run(folder, log=lambda line: None)
    return probe_units(opened, input_digests(opened, STAGES["features"]))


def test_a_unit_for_each_cnn_and_fold_with_logits_of_its_slices(probed):
    names = [unit.name for unit in units(probed)]
    assert names == ["features/probe/resnet/fold0", "features/probe/resnet/fold1"]
    for unit in units(probed):
        arrays = read_arrays(unit_file(unit))
        folder = probed / "stage1/resnet" / f"fold{unit.fold}"
        for name, kind in ((HELD_OUT, "held_out"), (TEST, "test")):
            assert arrays[name].shape == (len(read_array(folder / f"{kind}_embeddings.npy")), 6)
        assert unit.why_not_done(verify=True) == ""
        assert unit.takes().cores == 1 and not unit.takes().gpus and unit.takes().memory_mb > 100


def unit_file(unit):
    return Run(unit.root).dir.probe(unit.model, unit.fold)


def test_other_features_keep_the_probes(probes, capsys):
    before = {unit.name: unit_file(unit).stat().st_mtime_ns for unit in units(probes)}
    change(probes, FEATURES | {"reach": 2})
    assert run.main(["features", f"--run={probes}"]) == 0
    assert "features: recipe changed, features.reach: 1 -> 2" in capsys.readouterr().out
    assert {unit.name: unit_file(unit).stat().st_mtime_ns for unit in units(probes)} == before


def test_a_unit_reads_its_own_cnn_and_fold_alone(probes):
    reads = {unit.fold: sorted(unit.read) for unit in units(probes)}
    files = ("held_out.parquet", "held_out_embeddings.npy", "test.parquet", "test_embeddings.npy")
    for k in (0, 1):
        own = [f"stage1/resnet/fold{k}/{name}" for name in files]
        assert reads[k] == ["folds.parquet", "slices.parquet", *own]
    path = "stage1/resnet/fold1/held_out_embeddings.npy"
    opened = Run(probes)
    read = input_digests(opened, STAGES["features"])
    whole = np.array(read_array(probes / path))
    write_array(probes / path, whole[:, ::-1])
    read[path] = file_digest(probes / path)
    why = {unit.fold: unit.why_not_done() for unit in probe_units(opened, read)}
    assert why == {0: "", 1: f"{path} changed"}


def test_lost_and_damaged_probes_are_fitted_again_with_the_same_bytes(probes, probed):
    lost, damaged = (unit_file(unit) for unit in units(probes))
    lost.unlink()
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert stage_states(Run(probes))["features"][0] == "stale"
    assert run.main(["features", f"--run={probes}"]) == 0
    for path in (*(probes / "stage2/probes").glob("*.safetensors"), *made_files(probes)):
        assert path.read_bytes() == (probed / path.relative_to(probes)).read_bytes(), path.name


def made_files(folder):
    return [path for path in (folder / "stage2/features").iterdir() if path.suffix != ".json"]


def test_units_in_another_order_leave_the_same_bytes(probes, probed):
    shutil.rmtree(probes / "stage2/probes")
    for unit in reversed(units(probes)):
        unit.run(print, Run(probes).bar)
    assert all(not unit.why_not_done(verify=True) for unit in units(probes))
    assert run.main(["features", f"--run={probes}"]) == 0
    for path in (*(probes / "stage2/probes").glob("*.safetensors"), *made_files(probes)):
        assert path.read_bytes() == (probed / path.relative_to(probes)).read_bytes(), path.name


def test_later_stages_do_not_depend_on_the_files_of_the_units(probed):
    receipt = json.loads((probed / "receipts/features.json").read_text())
    made = {name for name in receipt["made"] if name.startswith("stage2/probes/")}
    assert made == {f"stage2/probes/resnet-fold{k}.safetensors" for k in (0, 1)}
    for stage in ("tune", "stack"):
        read = input_digests(Run(probed), STAGES[stage])
        assert "stage2/features/train.npy" in read and not made & read.keys()


def test_what_a_unit_takes_is_known_before_the_cnn_is_trained(probes):
    shutil.rmtree(probes / "stage1")
    (unit, _), rows = units(probes), 100_000
    few = unit.takes().memory_mb
    table = pd.read_parquet(probes / "slices.parquet")
    write_table(probes / "slices.parquet", pd.concat([table] * rows)[:rows])
    assert unit.takes().memory_mb - few > rows * 1000 / 2**20


def test_without_probes_there_are_no_units(finished):
    assert units(finished) == []
