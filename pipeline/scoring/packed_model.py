"""Reads a folder that `export-model` packed, perhaps a stranger's: all of it is checked before any
of it is used.
"""

import contextlib
import json
import math
import os
from pathlib import Path

from ct.config import check
from ct.errors import InputError, shown
from ct.system.machine_faults import raise_fault
from features.build import feature_names
from pipeline.freshness import file_digest
from pipeline.older_versions import older_recipe
from pipeline.recipe import Recipe, load_recipe
from pipeline.scoring.model_schema import FORMAT, About, StageTwo, check_fit
from pipeline.scoring.scoring_model import Model
from stage1_cnn.stored_weights import check_probes, check_size, check_weights, outlined_cnn
from stage2_stack.config import check_installed
from stage2_stack.foreign_boosters import first_fault
from stage2_stack.stored_boosters import FOREIGN, SUFFIXES, check_model, columns_seen, file_names

LARGEST_JSON, LARGEST_BOOSTER = 64 << 20, 512 << 20  # bytes
ABOUT, WHOLE_SET = "model.json", ("recipe.yaml", "stage2.json")


def model_of_folder(folder: str | Path) -> Model:
    """Return the Model in a folder that `export-model` packed.

    Raises InputError, one line that names the file, where it is another kind of folder, where a
    file is missing, not listed, a link, or holds something else than it was packed with, and where
    a value, weight or tree cannot be a model's.
    """
    folder, where = Path(folder), f"--model={folder}"
    about = read_about(folder)
    _check_files(folder, about.files, where)
    recipe = load_recipe(folder / "recipe.yaml", older_recipe)
    if recipe.stage1.imports or not recipe.stage1.models:
        raise InputError(
            f"{where}: recipe.yaml has imported models, or no CNNs; make the folder anew: `export-model`"
        )
    check_installed(recipe.stage2.components)
    stage2, values = read_stage_two(folder / "stage2.json", recipe, where)
    folds = [(config.name, k) for config in recipe.stage1.models for k in range(recipe.folds.k)]
    weights = {(name, k): folder / "weights" / f"{name}-fold{k}.safetensors" for name, k in folds}
    needed = needed_boosters(stage2, recipe)
    boosters = {name: folder / "boosters" / name for name in needed}
    probes = folder / "probes.safetensors" if recipe.features.probe else None
    for path in (*weights.values(), *boosters.values(), *([probes] if probes else [])):
        if path.relative_to(folder).as_posix() not in about.files:
            raise InputError(
                f"{where}: {path.relative_to(folder)} is missing; copy the folder again, or make it anew"
            )
    _check_boosters(boosters, needed, stage2, where)
    _check_weights(recipe, weights, probes, where)
    return Model(recipe, values, weights, boosters, probes, about.versions)


def read_about(folder: Path) -> About:
    """Return model.json of a packed folder. Raises InputError where there is none, or of another
    format, MachineFault.
    """
    path = folder / ABOUT
    try:
        values = read_foreign_json(path)
        known = values["format"], values["files"], values["versions"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise_fault(error, f"--model={folder}: {ABOUT}")
        raise InputError(
            f"--model={folder} is no model folder, it has no model.json that reads; make one: `export-model --run=R --to=DIR`"
        ) from None
    if known[0] != FORMAT:
        what = shown(repr(known[0]))
        raise InputError(
            f"--model={folder} has the format {what}, this version reads {FORMAT!r}; export the run again"
        )
    return check(About, values, f"--model={folder}: {ABOUT}", strict=True)


def read_stage_two(path: Path, recipe: Recipe, where: str) -> tuple[StageTwo, dict]:
    """Return stage2.json, checked, and its plain values. Raises InputError with the key that does
    not fit.
    """
    try:
        values = read_foreign_json(path)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{where}: {path.name} does not read ({shown(error)}); make the folder anew"
        ) from None
    stage2 = check(StageTwo, values, f"{where}: {path.name}", strict=True)
    try:
        check_fit(
            stage2,
            recipe,
            feature_names([config.name for config in recipe.stage1.models], recipe.features),
        )
    except ValueError as error:
        raise InputError(
            f"{where}: {path.name}: {shown(error, 160)}; make the folder anew: `export-model`"
        ) from None
    return stage2, values


def read_foreign_json(path: Path) -> object:
    """Return the values of a JSON file. Raises ValueError where it is none, too large, too deep, or
    has infinite numbers.
    """
    if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST_JSON:
        raise ValueError("it is a link, no file, or far too large")

    def refuse(word):
        raise ValueError(f"it holds the number {word}")

    def finite(word):
        return float(word) if math.isfinite(float(word)) else refuse(word)

    try:
        return json.loads(
            path.read_text(encoding="utf-8"), parse_constant=refuse, parse_float=finite
        )
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def needed_boosters(stage2: StageTwo, recipe: Recipe) -> dict[str, tuple[str, str]]:
    """Return {file name: (component, label)} of the models of stage two that the blends ask."""
    needed = {}
    for label, blends in stage2.blend.items():
        for k, blend in enumerate(blends):
            for component in set(blend.weights) & set(SUFFIXES):
                names = file_names(component, label, k, recipe.stage2.seeds)
                needed |= dict.fromkeys(names, (component, label))
    return needed


def _check_files(folder, files, where):
    """Raise InputError for a file that is a link, not listed, missing, or other than it was packed.
    Dot files do not count.
    """
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(parent, name)
            listed = path.relative_to(folder).as_posix()
            if path.is_symlink():
                raise InputError(
                    f"{where}: {shown(listed)} is a link; a model folder holds its own files alone"
                )
            if (
                name in names
                and not name.startswith(".")
                and listed not in files
                and listed != ABOUT
            ):
                raise InputError(
                    f"{where}: {shown(listed)} is not among the files that it was packed with; take it out"
                )
    for name, digest in files.items():
        if not (folder / name).is_file():
            raise InputError(
                f"{where}: {shown(name)} is missing; copy the folder again, or make it anew: `export-model`"
            )
        if file_digest(folder / name) != digest:
            what = "is damaged or changed; copy it again, or make it anew: `export-model`"
            raise InputError(f"{where}: {shown(name)} {what}")
    for name in WHOLE_SET:
        if name not in files:
            raise InputError(
                f"{where}: {name} is missing; copy the folder again, or make it anew: `export-model`"
            )


def _check_boosters(boosters, needed, stage2, where):
    """Raise InputError for a model of stage two that does not read, or sees other features than
    there are.
    """
    names, foreign = list(stage2.names), []
    for name, (component, label) in needed.items():
        path = boosters[name]
        if path.stat().st_size > LARGEST_BOOSTER:
            raise _unfit(where, f"boosters/{name}", "it is far too large")
        if component in FOREIGN:
            foreign.append((str(path.absolute()), component, columns_seen(label, names)))
            continue
        try:
            check_model(component, path.read_bytes(), names)
        except ValueError as error:
            raise _unfit(where, f"boosters/{name}", error) from None
    if fault := first_fault(foreign):
        raise _unfit(where, f"boosters/{Path(fault[0]).name}", fault[1])


def _check_weights(recipe, weights, probes, where):
    """Raise InputError for weights or probes that are not those of the recipe's CNNs."""
    for config in recipe.stage1.models:
        with _named(where, config):
            cnn = outlined_cnn(config)
        for k in range(recipe.folds.k):
            path = weights[config.name, k]
            try:
                check_weights(cnn, path)
            except ValueError as error:
                raise _unfit(where, f"weights/{path.name}", error) from None
        if probes:
            try:
                check_probes(
                    probes, [f"{config.name}.fold{k}." for k in range(recipe.folds.k)], cnn.width
                )
            except ValueError as error:
                raise _unfit(where, probes.name, error) from None
        # only now: its weights are in the folder, so that its size is no mere claim
        with _named(where, config):
            check_size(config, recipe.pixels.size)


@contextlib.contextmanager
def _named(where, config):
    """Put the folder and the CNN's name before an InputError of the block."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {config.name}: {error}") from None


def _unfit(where, name, why):
    return InputError(
        f"{where}: {name} does not fit the model ({shown(why, 200)}); make the folder anew: `export-model`"
    )
