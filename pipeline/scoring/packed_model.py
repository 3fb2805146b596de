"""Read a folder that `export-model` packed. It may be a stranger's: all of it is checked."""

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from ct.config import validate
from ct.errors import InputError, printable
from ct.system.machine_faults import raise_fault
from features.build import feature_names
from pipeline.freshness import file_digest
from pipeline.older_versions import older_recipe
from pipeline.recipe import Recipe, load_recipe
from pipeline.scoring.model_schema import FORMAT, ModelFile, StageTwo, check_fit
from pipeline.scoring.scoring_model import ScoringModel, packed_weights, weights_name
from pipeline.scoring.weight_checks import (
    check_probes,
    check_size,
    check_weights,
    cnn_without_weights,
)
from stage1_cnn.config import CnnConfig
from stage2_stack.components.component import load_component
from stage2_stack.config import check_installed
from stage2_stack.foreign_boosters import first_fault

LARGEST_JSON, LARGEST_BOOSTER = 64 << 20, 512 << 20  # bytes
MODEL_FILE = "model.json"
ALWAYS_LISTED = ("recipe.yaml", "stage2.json")
COPY_AGAIN = "copy the folder again, or pack it again with `export-model`"
PACK_AGAIN = "pack it again with `export-model`"


def model_of_folder(folder: str | Path) -> ScoringModel:
    """Return the models in a folder that `export-model` packed.

    Raises InputError, one line that names the file, where the folder is of another kind, where a
    file is missing, not listed, a link, or not the one that was packed, and where a value, a weight
    or a tree cannot belong to a model.
    """
    folder, where = Path(folder), f"--model={folder}"
    listed = read_model_file(folder)
    _check_files(folder, listed.files, where)
    recipe = load_recipe(folder / "recipe.yaml", older_recipe)
    if recipe.stage1.imports or not recipe.stage1.models:
        raise InputError(f"{where}: recipe.yaml has imported models, or no CNNs; {PACK_AGAIN}")
    check_installed(recipe.stage2.components)
    stage2, values = read_stage_two(folder / "stage2.json", recipe, where)
    weights = {
        (name, k): folder / "weights" / weights_name(name, k) for name, k in packed_weights(recipe)
    }
    needed = needed_boosters(stage2, recipe)
    boosters = {name: folder / "boosters" / name for name in needed}
    probes = folder / "probes.safetensors" if recipe.features.probe else None
    for path in (*weights.values(), *boosters.values(), *([probes] if probes else [])):
        name = path.relative_to(folder).as_posix()
        if name not in listed.files:
            raise InputError(f"{where}: {name} is missing; {COPY_AGAIN}")
    _check_boosters(boosters, needed, stage2, where)
    _check_weights(recipe, weights, probes, where)
    return ScoringModel(recipe, values, weights, boosters, probes, listed.versions)


def read_model_file(folder: Path) -> ModelFile:
    """Return model.json of a packed folder.

    Raises InputError where there is none or its format is another; MachineFault where it cannot be
    read for a reason of the machine.
    """
    path = folder / MODEL_FILE
    try:
        values = read_foreign_json(path)
        model_format, _, _ = values["format"], values["files"], values["versions"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise_fault(error, f"--model={folder}: {MODEL_FILE}")
        raise InputError(
            f"--model={folder} is no model folder: it has no readable model.json; "
            "make a model folder with `export-model --run=R --to=DIR`"
        ) from None
    if model_format != FORMAT:
        raise InputError(
            f"--model={folder} has the format {printable(repr(model_format))}, "
            f"this version reads {FORMAT!r}; export the run again"
        )
    return validate(ModelFile, values, f"--model={folder}: {MODEL_FILE}", strict=True)


def read_stage_two(path: Path, recipe: Recipe, where: str) -> tuple[StageTwo, dict[str, Any]]:
    """Return stage2.json, checked, and its plain values.

    Raises InputError that names the key that does not fit.
    """
    try:
        values = read_foreign_json(path)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{where}: {path.name} does not read ({printable(error)}); {PACK_AGAIN}"
        ) from None
    stage2 = validate(StageTwo, values, f"{where}: {path.name}", strict=True)
    cnns = [config.name for config in recipe.stage1.models]
    try:
        check_fit(stage2, recipe, feature_names(cnns, recipe.features))
    except ValueError as error:
        raise InputError(f"{where}: {path.name}: {printable(error, 160)}; {PACK_AGAIN}") from None
    return stage2, values


def read_foreign_json(path: Path) -> Any:
    """Return the values of a JSON file.

    Raises ValueError where it is a link or no JSON, is too large or nested too deep, or holds an
    infinite number or NaN.
    """
    if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST_JSON:
        raise ValueError("it is a link, no file, or far too large")

    def refuse(number: str) -> NoReturn:
        raise ValueError(f"it holds the number {number}")

    def finite(number: str) -> float:
        return float(number) if math.isfinite(float(number)) else refuse(number)

    text = path.read_text(encoding="utf-8")
    try:
        return json.loads(text, parse_constant=refuse, parse_float=finite)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def needed_boosters(stage2: StageTwo, recipe: Recipe) -> dict[str, tuple[str, str]]:
    """Return {file name: (component, label)} of the models of stage two that the blends weight."""
    needed: dict[str, tuple[str, str]] = {}
    for label, blends in stage2.blend.items():
        for k, blend in enumerate(blends):
            for component in blend.weights:
                names = load_component(component).file_names(label, k, recipe.stage2.seeds)
                needed |= dict.fromkeys(names, (component, label))
    return needed


def _check_files(folder: Path, files: Mapping[str, str], where: str) -> None:
    """Raise InputError for a file that is a link, not listed, missing, or changed.

    files: {name: digest}; files whose name begins with a dot are ignored
    """
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(parent, name)
            inside = path.relative_to(folder).as_posix()
            if path.is_symlink():
                raise InputError(
                    f"{where}: {printable(inside)} is a link; a model folder holds only plain files"
                )
            ignored = name in folders or name.startswith(".") or inside == MODEL_FILE
            if not ignored and inside not in files:
                raise InputError(
                    f"{where}: {printable(inside)} is not among the files that were packed; "
                    "remove it"
                )
    for name, digest in files.items():
        if not (folder / name).is_file():
            raise InputError(f"{where}: {printable(name)} is missing; {COPY_AGAIN}")
        if file_digest(folder / name) != digest:
            raise InputError(f"{where}: {printable(name)} is damaged or changed; {COPY_AGAIN}")
    for name in ALWAYS_LISTED:
        if name not in files:
            raise InputError(f"{where}: {name} is missing; {COPY_AGAIN}")


def _check_boosters(
    boosters: Mapping[str, Path],
    needed: Mapping[str, tuple[str, str]],
    stage2: StageTwo,
    where: str,
) -> None:
    """Raise InputError for a model of stage two that does not read or has other features."""
    names, foreign = list(stage2.names), []
    for name, (component_name, label) in needed.items():
        path, component = boosters[name], load_component(component_name)
        if path.stat().st_size > LARGEST_BOOSTER:
            raise _unfit(where, f"boosters/{name}", "it is far too large")
        if component.foreign:
            count = component.column_count(label, names)
            foreign.append((str(path.absolute()), component_name, count))
            continue
        try:
            component.check_file(path.read_bytes(), names)
        except ValueError as error:
            raise _unfit(where, f"boosters/{name}", error) from None
    if fault := first_fault(foreign):
        raise _unfit(where, f"boosters/{Path(fault[0]).name}", fault[1])


def _check_weights(
    recipe: Recipe, weights: Mapping[tuple[str, int], Path], probes: Path | None, where: str
) -> None:
    """Raise InputError for weights or probes that do not fit the CNNs of the recipe."""
    for config in recipe.stage1.trained():
        with _prefixed(where, config):
            cnn = cnn_without_weights(config)
        for path in (path for (name, _), path in weights.items() if name == config.name):
            try:
                check_weights(cnn, path)
            except ValueError as error:
                raise _unfit(where, f"weights/{path.name}", error) from None
        if probes:
            of_fold = [f"{config.name}.fold{k}." for k in range(recipe.folds.k)]
            try:
                check_probes(probes, of_fold, cnn.width)
            except ValueError as error:
                raise _unfit(where, probes.name, error) from None
        # after its weights: they show that a CNN of this size is really in the folder
        with _prefixed(where, config):
            check_size(config, recipe.pixels.size)


@contextlib.contextmanager
def _prefixed(where: str, config: CnnConfig) -> Iterator[None]:
    """Put the folder and the CNN's name before the message of an InputError of the block."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {config.name}: {error}") from None


def _unfit(where: str, name: str, why: object) -> InputError:
    return InputError(
        f"{where}: {name} does not fit the model ({printable(why, 200)}); {PACK_AGAIN}"
    )
