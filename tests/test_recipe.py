"""Recipes are checked where they are read, and changed only with a check."""

import pytest

from ct.errors import InputError
from pipeline.recipe import RECIPES, find_recipe, load_recipe, save_recipe, with_changes


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_survive_being_written(path, tmp_path):
    recipe = load_recipe(path)
    save_recipe(tmp_path / "recipe.yaml", recipe)
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: [", "is not YAML"),
        ("- a\n- b\n", "holds no recipe"),
        ("", "holds no recipe"),
        ("name: x\nstage1: {models: []}\n", "stage1.models"),
        ("name: x\nseed: true\nstage1: {models: [{name: a, backbone: b}]}\n", "seed = True"),
        ("name: x\nseed: '3'\nstage1: {models: [{name: a, backbone: b}]}\n", "seed = '3'"),
        ("name: x\nstage1: {models: [{name: a/b, backbone: b}]}\n", "stage1.models.0.name = 'a/b'"),
        ("name: x\nstage1: {models: [{name: a, backbone: b}]}\ndata: {missing: maybe}\n", "data.missing = 'maybe'"),
    ],
)
def test_bad_recipes_are_refused_in_one_line(tmp_path, text, says):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(InputError, match=r"^[^\n]*$") as error:
        load_recipe(tmp_path / "r.yaml")
    assert says in str(error.value) and "r.yaml" in str(error.value)


def test_a_recipe_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="is not there"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="did you mean 'demo'"):
        find_recipe("dmeo")


def test_changes_are_checked():
    recipe = load_recipe(find_recipe("micro"))
    assert with_changes(recipe, {"stage2.trials": 30}).stage2.trials == 30
    with pytest.raises(InputError, match="greater than or equal to 1"):
        with_changes(recipe, {"stage2.trials": 0})
