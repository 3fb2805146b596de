"""Units of `tune` and `stack`: each depends on its own inputs, and what is finished is kept."""

import json
import shutil

import numpy as np
import pytest

import run as command_line
from benchmarks.stacking import stack_memory
from ct.labels import COMMON_FIRST, LABELS, SUBTYPES
from ct.run_dir import RunDir
from ct.storage.file_formats import read_json, write_json
from pipeline.input_digests import input_digests
from pipeline.registry import STAGES
from pipeline.run_context import Run
from pipeline.stage_data import stage_two_resources
from pipeline.stage_data.component_fits import read_fits, write_fits
from pipeline.stage_data.stage_two_resources import ComponentFits, fits_at_once, within_memory
from pipeline.stage_runner import stage_states, units_of
from pipeline.stages.tune import BinFeatures
from stage2_stack.components.component import load_component
from stage2_stack.components.label_lightgbm import LabelLightGBM
from stage2_stack.nested_cv import FittedComponent, NestedPredictions

OUTPUTS = ("submission.csv", "stage2/scores.json", "stage2/configs.json", "stage2/trials.parquet")
FITS = [f"stack/lightgbm/{label}" for label in LABELS]


def units(folder, stage):
    run = Run(folder)
    planned = units_of(run, STAGES[stage], input_digests(run, STAGES[stage]))
    return {unit.name: unit for unit in planned}


def missing(folder, stage):
    return [name for name, unit in units(folder, stage).items() if unit.why_not_done(verify=True)]


def outputs(folder):
    boosters = sorted((folder / "stage2/boosters").iterdir())
    return [path.read_bytes() for path in (*(folder / name for name in OUTPUTS), *boosters)]


@pytest.fixture
def again(finished, tmp_path):
    """A copy of a finished run."""
    return shutil.copytree(finished, tmp_path / "again")


def forget(folder, *stages):
    for stage in stages:
        (folder / "receipts" / f"{stage}.json").unlink()


def test_the_units_of_a_finished_run_are_done(finished):
    assert list(units(finished, "tune")) == [
        f"tune/{label}/fold{k}" for label in COMMON_FIRST for k in (0, 1)
    ]
    assert list(units(finished, "stack")) == FITS
    assert missing(finished, "tune") == missing(finished, "stack") == []
    assert not (finished / "stage2/binned").exists()


def test_a_killed_stack_keeps_what_is_fitted(again, finished, monkeypatch):
    forget(again, "stack")
    (again / "stage2/fits/lightgbm-any.receipt.json").unlink()  # killed before it was written
    path = again / "stage2/fits/lightgbm-subdural.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\7")  # damaged
    assert missing(again, "stack") == ["stack/lightgbm/any", "stack/lightgbm/subdural"]
    fitted, fit = [], LabelLightGBM.fit

    def note(component, context, labels):
        fitted.extend(labels)
        return fit(component, context, labels)

    monkeypatch.setattr(LabelLightGBM, "fit", note)
    assert command_line.main(["stack", f"--run={again}", "--workers=1"]) == 0
    assert fitted == ["any", "subdural"] and outputs(again) == outputs(finished)
    assert not (again / "stage2/binned").exists()


def test_a_fit_depends_on_its_own_inputs_alone(again):
    def change(**changes):
        run = Run(again)
        run.log = lambda line: None
        run.change_recipe({f"stage2.{name}": value for name, value in changes.items()})

    # what the blend, the searches or other components read
    change(confidence=0.5, any_at_least_largest=True, trials=5, max_rounds=30, storage="sqlite://")
    change(components=("raw", "lightgbm", "pooled"), positive_patients=3)
    assert missing(again, "stack") == ["stack/pooled"]
    configs = read_json(again / "stage2/configs.json")
    configs["any"][0]["inner_loss"] = 9.0  # not read by a fit
    configs["subdural"][1]["rounds"] += 1
    write_json(again / "stage2/configs.json", configs)
    assert missing(again, "stack") == ["stack/pooled", "stack/lightgbm/subdural"]
    change(seeds=2)
    assert missing(again, "stack") == ["stack/pooled", *FITS]


def test_a_search_depends_on_its_own_settings_alone(again):
    def change(**changes):
        run = Run(again)
        run.log = lambda line: None
        run.change_recipe({f"stage2.{name}": value for name, value in changes.items()})

    def state(stage):
        return stage_states(Run(again))[stage]

    searches = list(units(again, "tune"))
    change(components=("raw", "lightgbm", "pooled"), seeds=3, any_at_least_largest=True, threads=2)
    assert missing(again, "tune") == [] and state("tune") == ("fresh", "")
    assert state("stack")[0] == "stale"
    change(trials=5)
    assert state("tune") == ("stale", "recipe changed, stage2.trials: 3 -> 5")
    assert missing(again, "tune")[: len(searches)] == searches
    change(trials=3)
    assert missing(again, "tune") == [] and state("tune") == ("fresh", "")
    change(calibrate_by="slice")  # boosters start from the calibrated logits
    assert state("tune")[0] == "stale" and missing(again, "tune")[: len(searches)] == searches
    change(calibrate_by="patient")
    change(components=("raw", "pooled"))
    assert state("tune") == ("stale", "recipe changed, stage2.has_tuned: True -> False")


def test_a_receipt_of_the_whole_settings_is_read_by_single_fields(again):
    run = Run(again)
    path, whole = run.dir.receipt("tune"), run.recipe.stage2.model_dump(mode="json")
    receipt = read_json(path)
    kept = {key: receipt["recipe"][key] for key in ("seed", "folds.k")}
    for change, state in (
        ({}, "fresh"),
        ({"components": ["raw", "gru", "lightgbm"], "seeds": 9}, "fresh"),
        ({"max_rounds": 7}, "stale"),
        ({"components": ["raw", "smooth"]}, "stale"),
    ):
        write_json(path, receipt | {"recipe": kept | {"stage2": whole | change}})
        assert stage_states(Run(again))["tune"][0] == state, change


def test_a_search_that_is_missing_needs_the_bins_of_its_label(again, finished):
    forget(again, "tune", "stack", "submit", "report")
    name = next(path.stem for path in (again / "stage2/tune").glob("*.journal"))
    for path in (again / "stage2/tune").glob(f"{name}*"):
        path.unlink()
    label, fold = name.split("-")
    bins = ["tune/bins/all", f"tune/bins/{label}"]
    assert missing(again, "tune") == [f"tune/{label}/{fold}", *bins]
    assert list(units(again, "tune"))[:12] == list(units(finished, "tune"))
    for unit in units(again, "tune").values():
        if isinstance(unit, BinFeatures):
            unit.run(print, Run(again).bar)
    assert missing(again, "tune") == [f"tune/{label}/{fold}"]
    assert command_line.main(["all", f"--run={again}", "--workers=1"]) == 0
    assert outputs(again) == outputs(finished)


def test_the_threads_of_a_fit_change_nothing(again):
    path = next((again / "stage2/tune").glob("*.journal"))
    name, result = path.stem, path.with_suffix(".json").read_bytes()
    for each in (again / "stage2/tune").glob(f"{name}*"):
        each.unlink()
    unit = units(again, "tune")[f"tune/{name.replace('-', '/')}"]
    two = type(unit)(unit.root, unit.label, unit.fold, unit.read, threads=2)
    two.run(print, Run(again).bar)
    assert path.with_suffix(".json").read_bytes() == result
    assert unit.why_not_done(verify=True) == "" and two.takes().cores == 2


@pytest.mark.slow
def test_two_processes_give_the_same_bytes_as_one(again, finished, monkeypatch):
    monkeypatch.undo()  # as many cores as there are
    monkeypatch.setattr("pipeline.engines.local_engine.cores", lambda: 2)
    forget(again, "tune", "stack", "submit", "report")
    for folder in ("tune", "fits"):
        shutil.rmtree(again / "stage2" / folder)
    assert command_line.main(["all", f"--run={again}", "--workers=2"]) == 0
    assert outputs(again) == outputs(finished)
    receipt = json.loads((again / "receipts/tune.json").read_text())
    assert receipt["units_at_once"] == 2


# --- the file of fits


def some_fits(labels, seed=0):
    rng = np.random.default_rng(seed)
    files, fits = {0: [b"one", b"\0two"], 2: [b"", b"3"]}, {}
    for label in labels:
        nested = rng.normal(size=(3, 5))
        nested[1] = np.nan
        predictions = NestedPredictions(nested, rng.normal(size=5))
        gain = {k: rng.random(4) for k in (2, 0)}
        fits[label] = FittedComponent(predictions, files, {0: 7, 2: 200}, gain, {0: rng.random(4)})
    return fits


@pytest.mark.parametrize("labels", [(), ("any",), SUBTYPES])
def test_fits_are_read_as_they_were_written(labels, tmp_path):
    expected = some_fits(labels)
    write_fits(tmp_path / "fits", expected)
    fits = read_fits(tmp_path / "fits")
    assert list(fits) == list(labels) or set(fits) == set(labels)
    for label, fit in fits.items():
        np.testing.assert_array_equal(fit.predictions.nested, expected[label].predictions.nested)
        np.testing.assert_array_equal(fit.predictions.oof, expected[label].predictions.oof)
        assert fit.files == expected[label].files and fit.rounds == expected[label].rounds
        for name in ("gain", "contributions"):
            values, others = getattr(fit, name), getattr(expected[label], name)
            assert values.keys() == others.keys()
            for k, value in values.items():
                np.testing.assert_array_equal(value, others[k])


# --- cores and memory


def test_fits_that_take_longest_get_the_cores_that_are_left():
    pooled = ComponentFits.of(load_component("pooled"), "", 5)
    label = ComponentFits.of(load_component("lightgbm"), "any", 5)
    gru = ComponentFits("gru", "", 1, 90)
    # 10 nested and 5 final models on the rows of 5 labels; 20 and 5 on those of one
    assert (pooled.most, pooled.work, label.most, label.work) == (10, 75, 20, 25)
    assert fits_at_once([pooled, label, label], 2, 16) == [1, 1, 1]
    assert fits_at_once([pooled, label, label], 5, 16) == [3, 1, 1]
    assert fits_at_once([gru, pooled, label], 40, 16) == [1, 10, 16]  # 16: the cores of a machine


def test_fewer_fits_at_once_where_memory_is_short(monkeypatch):
    monkeypatch.setattr(stage_two_resources, "free_memory_mb", lambda: 1000)
    assert within_memory(8, lambda count: 200 + 100 * count) == (8, 1000)
    assert within_memory(8, lambda count: 400 + 200 * count) == (3, 1000)
    assert within_memory(8, lambda count: 4000 + count) == (1, 4001)


@pytest.mark.slow
def test_units_plan_for_no_less_memory_than_they_take(tmp_path):
    stack_memory.make_run(tmp_path, 9_000)
    for kind in stack_memory.KINDS:
        measured = stack_memory.in_process(kind, str(tmp_path)).mb
        assert 100 < measured < stack_memory.planned_mb(kind, 9_000), kind
    assert not list(RunDir(tmp_path).fits.glob("*.part"))
