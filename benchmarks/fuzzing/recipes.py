"""Damaged recipes, as `new --recipe=FILE` and every verb on a run folder read them."""

import os
from pathlib import Path

from yaml import safe_dump, safe_load

from benchmarks.fuzzing.byte_damage import damaged, damaged_text, damaged_values, nasty
from ct.errors import InputError
from pipeline.recipe import RECIPES, load_recipe, save_recipe
from stage1_cnn.search_space import searched


def make_seeds(folder):
    """Return the texts of recipes/, and of what `new` makes of them."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(RECIPES.glob("*.yaml"))]
    for path in sorted(RECIPES.glob("*.yaml")):
        save_recipe(folder / path.name, load_recipe(path))
        texts.append((folder / path.name).read_text(encoding="utf-8"))
    return texts


def mutate(rng, seeds, folder):
    """Write one damaged recipe."""
    text, kind = seeds[int(rng.integers(len(seeds)))], int(rng.integers(6))
    if kind < 2:
        text, what = damaged_text(rng, text)
    elif kind < 4:
        what, values = "values", safe_load(text)
        for _ in range(int(rng.choice([1, 1, 2, 3]))):
            values = damaged_values(rng, values)
        text = safe_dump(values, sort_keys=False, allow_unicode=bool(rng.integers(2)))
    elif kind == 4:
        text, what = _grown(rng, text), "growth"
    raw = text.encode(str(rng.choice(["utf-8"] * 8 + ["utf-16", "latin-1"])), "replace")
    if kind == 5:
        raw, what = damaged(rng, raw)
    (folder / "recipe.yaml").write_bytes(raw)
    return what


def _grown(rng, text):
    """Return a recipe with aliases of aliases, deep lists, huge numbers or long text in it."""
    kind, n = int(rng.integers(5)), int(rng.choice([3, 9, 40, 2000]))
    if kind == 0:
        lines = ["x0: &x0 [a, b]"]
        lines += [
            f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * int(rng.integers(1, 10)))}]"
            for i in range(1, min(n, 60))
        ]
        return "\n".join([*lines, text])
    if kind == 1:
        return f"{text}\nx: " + "[" * n + "]" * int(rng.choice([n, n - 1]))
    if kind == 2:
        return f"{text}\nx: " + "{a: " * n + "1" + "}" * n
    if kind == 3:
        return f"{text}\nseed: " + str(rng.choice(["9", "0x9", "-", "1e", "0.", "1:"])) * n
    return f"{text}\n{nasty(rng)}: &a {nasty(rng)}\nname: *a"


def attempt(folder):
    """Read the recipe."""
    os.chdir(folder)
    try:
        searched(load_recipe(Path("recipe.yaml")).search)
    except InputError as error:
        return str(error)
    return ""
