"""The verb `export-model`: all that `score` needs of a run in one folder, with a model card."""

import shutil
from pathlib import Path
from typing import Any

from ct.errors import InputError, number_of
from ct.storage.atomic_write import replacing
from ct.storage.file_formats import read_arrays, write_arrays, write_json, write_text
from pipeline.checked_options import ExportOptions
from pipeline.command_line.printed_commands import run_command
from pipeline.freshness import file_digest
from pipeline.recipe import Recipe, save_recipe, with_changes
from pipeline.run_context import Run
from pipeline.run_lock import check_fresh, opened
from pipeline.scoring.model_card import card_text, training_card
from pipeline.scoring.model_schema import FORMAT
from pipeline.scoring.scoring_model import (
    STAGES,
    ScoringModel,
    model_of_run,
    packed_weights,
    weights_name,
)


def export_model(options: ExportOptions) -> None:
    """Pack what `score` needs of a run in one folder."""
    with opened(options) as run:
        check_fresh(run, "export-model", STAGES)
        print("export-model:")
        pack_model(run, Path(options.to))


def pack_model(run: Run, to: Path) -> None:
    """Pack a finished run's models in the new folder `to`.

    Raises InputError where that folder exists and is not empty.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise InputError(f"--to={to} is there already; name a new folder")
    model = model_of_run(run)
    card = training_card(run, model)
    with replacing(to, among_users=True) as part:
        _write_files(model, card, part)
        files = sorted(path for path in part.rglob("*") if path.is_file())
        digests = {path.relative_to(part).as_posix(): file_digest(path) for path in files}
        size = sum(path.stat().st_size for path in files)
        about = {
            "format": FORMAT,
            "made": card["made"],
            "commit": card["commit"],
            "versions": model.versions,
        }
        write_json(part / "model.json", about | {"files": digests})
    run.log(
        f"  {number_of(len(packed_weights(model.recipe)), 'CNN')}, "
        f"{number_of(len(model.boosters), 'model')} of stage two, "
        f"{size / 1e6:.1f} MB in {to}"
    )
    run.log(f"  next: {run_command('score', data='FOLDER_OR_ZIP', model=to, to='OUT')}")


def _write_files(model: ScoringModel, card: dict[str, Any], part: Path) -> None:
    """Write all files of a model except model.json to the folder `part`."""
    for folder in (part, part / "weights", part / "boosters"):
        folder.mkdir()
    for name, k in packed_weights(model.recipe):
        shutil.copyfile(model.weights[name, k], part / "weights" / weights_name(name, k))
    for name, path in model.boosters.items():
        shutil.copyfile(path, part / "boosters" / name)
    if model.probes:
        # a packed model has no table of patients, so it never needs the probes without a part
        arrays = read_arrays(model.probes)
        whole = {name: array for name, array in arrays.items() if ".part" not in name}
        write_arrays(part / "probes.safetensors", whole)
    save_recipe(part / "recipe.yaml", public_recipe(model.recipe))
    write_json(part / "stage2.json", model.stage2)
    write_json(part / "card.json", card)
    write_text(part / "README.md", card_text(card))


def public_recipe(recipe: Recipe) -> Recipe:
    """Return the recipe without paths, which may hold names, and without the storage URL.

    The URL of a trial database may hold a password.
    """
    stage1 = recipe.model_dump(mode="json")["stage1"]
    models, distilled = stage1["models"], stage1["distilled"]
    for model in (*models, *([distilled] if distilled else [])):
        if isinstance(model["pretrained"], str):  # the word `package` stays as it is
            model["pretrained"] = Path(model["pretrained"]).name
    cleared = {"source": "", "labels": None, "sample": None, "slices": None}
    changes = {
        **{f"data.{name}": value for name, value in cleared.items()},
        "stage1.models": models,
        "stage1.distilled": distilled,
        "stage2.storage": "",
    }
    return with_changes(recipe, changes)
