"""Recipes are checked where they are read, and changed only with a check."""

import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

import run
from ct.errors import InputError
from pipeline.recipe import RECIPES, find_recipe, load_recipe, save_recipe, with_changes

LARGE = ("capstone", "group", "gold")


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_written_recipe_reads_back_equal(path, tmp_path):
    recipe = load_recipe(path)
    save_recipe(tmp_path / "recipe.yaml", recipe)
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "is not YAML"),
        ("- a\n- b\n", "is not a recipe"),
        ("", "is not a recipe"),
        ("name: x\nstage1: {models: []}\n", "stage1.models"),
        ("name: x\nseed: true\nstage1: {models: [{name: a, backbone: b}]}\n", "seed = True"),
        ("name: x\nseed: '3'\nstage1: {models: [{name: a, backbone: b}]}\n", "seed = '3'"),
        ("name: x\nstage1: {models: [{name: a/b, backbone: b}]}\n", "stage1.models.0.name = 'a/b'"),
        (
            "name: x\nstage1: {models: [{name: a, backbone: b}]}\ndata: {missing: maybe}\n",
            "data.missing = 'maybe'",
        ),
    ],
)
def test_bad_recipes_are_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(InputError, match=r"^[^\n]*$") as error:
        load_recipe(tmp_path / "r.yaml")
    assert message in str(error.value) and "r.yaml" in str(error.value)


def test_a_missing_recipe_is_refused(tmp_path):
    with pytest.raises(InputError, match="is not there"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="did you mean 'demo'"):
        find_recipe("dmeo")
    with pytest.raises(
        InputError,
        match=r"^--recipe=none.yaml: no such file; give a path, or a name: capstone, demo",
    ):
        find_recipe("none.yaml")


def test_changes_are_checked():
    recipe = load_recipe(find_recipe("micro"))
    assert with_changes(recipe, {"stage2.trials": 30}).stage2.trials == 30
    with pytest.raises(InputError, match="greater than or equal to 1"):
        with_changes(recipe, {"stage2.trials": 0})


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_stack_a_label_only_where_its_gain_is_significant(path):
    assert load_recipe(path).stage2.confidence >= 0.95


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_backbones_of_recipes_exist_in_timm_with_their_weights(path):
    import timm

    from stage1_cnn.backbones.timm_models import check_backbone

    for model in load_recipe(path).stage1.models:
        check_backbone(model.backbone)
        if model.pretrained:
            # by its full name: a default tag may change
            assert model.backbone in timm.list_models(pretrained=True)


def test_the_large_recipes_have_the_settings_of_their_purpose():
    capstone, group, gold = (load_recipe(find_recipe(name)) for name in LARGE)
    assert capstone.data.train_slices == 103_772
    assert [model.pretrained for model in group.stage1.models] == [False, True, True]
    assert {(model.in_channels, model.neighbours) for model in gold.stage1.models} == {
        (3, 0),
        (3, 1),
        (9, 1),
    }
    for model in gold.stage1.models:
        assert model.reverse == ("reverse" in model.tta) == (model.neighbours > 0)
        assert model.ema and model.precision == "auto" and not model.deterministic


@pytest.mark.parametrize("name", LARGE)
def test_the_page_counts_what_a_recipe_trains_on(name):
    recipe, page = load_recipe(find_recipe(name)), (ROOT / "docs" / "kaggle.md").read_text()
    slices = recipe.data.train_slices or 752_803
    # of k folds, k - 1 at a time
    seen = slices * (recipe.folds.k - 1) * sum(model.epochs for model in recipe.stage1.models)
    cache = {256: 49, 384: 102}[recipe.pixels.size] * (slices + 121_232) / 874_035
    row = next(
        line
        for line in page.splitlines()
        if line.startswith(f"| `{name}`, {recipe.pixels.size} px |")
    )
    assert f"| {seen / 1e6:.1f} million |" in row and f"| {cache:.0f} GB + " in row


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_the_large_recipes_run(name, competition, tmp_path):
    """As written, but small: few pixels, two folds, one epoch, small batches, no download."""
    recipe = load_recipe(find_recipe(name))
    smaller = {"pretrained": False, "epochs": 1, "batch": 8}
    models = [model.model_dump(mode="json") | smaller for model in recipe.stage1.models]
    changes = {
        "stage1.models": models,
        "folds.k": 2,
        "pixels.size": 64,
        "stage2.trials": 2,
        "stage2.max_rounds": 20,
    }
    save_recipe(tmp_path / "recipe.yaml", with_changes(recipe, changes))
    words = [
        f"--run={tmp_path / 'r'}",
        f"--recipe={tmp_path / 'recipe.yaml'}",
        f"--data={competition}",
    ]
    assert run.main(["new", *words]) == 0
    assert run.main(["all", words[0], "--workers=1"]) == 0
    assert run.main(["submit", words[0], "--stage=one"]) == 0
    sample = pd.read_csv(competition / "stage_2_sample_submission.csv")
    for made in ("submission.csv", "submission-stage-one.csv"):
        table = pd.read_csv(tmp_path / "r" / made)
        assert (
            list(table["ID"]) == list(sample["ID"])
            and table["Label"].between(0, 1, inclusive="neither").all()
        )
    for model in models:
        oof = pd.read_parquet(tmp_path / "r" / "stage1" / model["name"] / "oof.parquet")
        assert len(oof) and np.isfinite(oof.to_numpy()).any(axis=1).mean() > 0.9
    shutil.rmtree(tmp_path / "r")  # gigabytes, which pytest would keep
