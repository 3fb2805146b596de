"""The verb `import-predictions`: use a model that was trained elsewhere as a CNN."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ct.checks.leakage import entropy_alarm, fold_alarm, in_sample_alarm
from ct.config import suggestion
from ct.errors import InputError, number_of
from ct.labels import LABELS
from ct.patient_folds import fold_by_group, fold_groups
from ct.storage.atomic_write import discard, replacing
from ct.storage.file_formats import read_table, write_json, write_table
from ct.storage.prediction_files import write_predictions
from ct.storage.sealed_files import seal
from ct.tables.prediction_table import read_predictions
from pipeline.checked_options import ImportOptions
from pipeline.run_context import Run
from pipeline.run_lock import check_fresh, opened
from pipeline.stage_data.imported_predictions import (
    COLUMNS,
    Probabilities,
    by_slice,
    complete_folds,
    fold_renumbering,
    probabilities_by_fold,
    refuse_missing,
    run_folds,
    tables_by_fold,
)
from pipeline.stage_runner import run_stage


def import_predictions(options: ImportOptions) -> None:
    """Import a model's predictions into the run, or remove the model from it."""
    with opened(options) as run:
        if options.remove:
            remove_import(run, options.name)
            return
        if not run.recipe.stage1.models:
            run_stage(run, "ingest")
        check_fresh(run, "import-predictions", ("ingest",))
        print(f"import-predictions: {options.name}")
        take_predictions(run, options)
        if not run.recipe.stage1.models:
            for name in ("folds", "train", "predict"):
                run_stage(run, name)


@dataclass(frozen=True)
class ImportedModel:
    """The checked tables of a model, and the slices of the run that they are matched with."""

    train: pd.DataFrame  # train slices, with the column `group` as in fold_groups
    test: pd.DataFrame  # test slices, with the same column
    labelled: pd.Index  # ids of the train slices that are readable and have all labels
    oof: pd.DataFrame  # out-of-fold predictions by slice id, perhaps with the column `fold`
    own_fold: pd.Series | None  # {group: fold} of its table; None if it has no folds
    per_fold: Probabilities | None  # test predictions, (K or 1, m, 6); None if there are none


def take_predictions(run: Run, options: ImportOptions) -> None:
    """Check a model's predictions, write them to imports/<name>/ and list it in the recipe.

    Raises InputError that names the file and the slice, patient or numbers that are wrong, and
    where the predictions look in-sample, unless options.trust_oof.
    """
    if options.name in (config.name for config in run.recipe.stage1.models):
        raise InputError(
            f"--name={options.name}: a CNN of the recipe has that name; give the imported model "
            "another"
        )
    model = _read_model(run, options)
    existing = (run.dir.folds, run.dir.listed_folds, run.dir.imported_folds)
    adopts = model.own_fold is not None and not any(path.exists() for path in existing)
    if not adopts:
        run_stage(run, "folds")
    fold = run_folds(run, model.train) if model.own_fold is None else model.own_fold
    alarms = _alarms(model, fold)
    if alarms and not options.trust_oof:
        raise InputError(
            f"--oof={options.oof}: {alarms[0]}; the model seems to have been trained on these "
            "slices. Give predictions of models that were not trained on the slice's patient, or "
            "add --trust-oof if these are"
        )
    notes = [f"imported with --trust-oof, although {alarm}" for alarm in alarms]
    if adopts:
        _adopt_folds(run, model.train, fold)
        notes.append(f"its {run.recipe.folds.k} folds are the run's")
    elif model.own_fold is None and not run.dir.listed_folds.exists():
        notes.append(
            "without a fold column: the run's own folds are used as if they were the model's"
        )
    tables, test_notes = _test_tables(run, model, fold, compare=not adopts)
    _write_import(run, options.name, model, tables, notes + test_notes)


def _read_model(run: Run, options: ImportOptions) -> ImportedModel:
    """Read and check the tables of the model."""
    assert options.oof is not None  # ImportOptions requires it, or --remove
    slices, where = read_table(run.dir.slices), f"--oof={options.oof}"
    slices = slices.assign(group=fold_groups(slices))
    train, test = (slices[slices["split"] == split] for split in ("train", "test"))
    oof = by_slice(run, read_predictions(options.oof, "oof"), train, where)
    if (twice := oof.index.duplicated()).any():
        raise InputError(f"{where}: slice {oof.index[twice][0]} occurs twice; give it one row")
    labelled = train.index[train["readable"] & train[COLUMNS].notna().all(axis=1)]
    refuse_missing(labelled.difference(oof.index, sort=False), where)
    try:
        own_fold = fold_by_group(slices, oof["fold"]) if "fold" in oof else None
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    per_fold = None
    if options.test is not None:
        k_folds = run.recipe.folds.k if own_fold is None else int(own_fold.max()) + 1
        table = read_predictions(options.test, "test")
        per_fold = probabilities_by_fold(run, table, test, k_folds, f"--test={options.test}")
    return ImportedModel(train, test, labelled, oof, own_fold, per_fold)


def remove_import(run: Run, name: str) -> None:
    """Remove an imported model. Folds that came with it stay: other models may depend on them."""
    imports = run.recipe.stage1.imports
    if name not in imports:
        hint = suggestion(name, imports) if imports else "; nothing is imported"
        raise InputError(f"--name={name}: the run has no such imported model{hint}")
    run.change_recipe({"stage1.imports": [other for other in imports if other != name]})
    discard(run.dir.imported(name))
    discard(run.dir.stage_one_submission)  # it was made from other predictions
    run.log(f"  {name} is removed")


def _alarms(model: ImportedModel, fold: pd.Series) -> list[str]:
    """Return why the predictions look in-sample, a line for each reason. fold: {group: fold}"""
    labelled = model.train.loc[model.labelled]
    y: NDArray = labelled[COLUMNS].to_numpy(int)
    p: Probabilities = model.oof.loc[model.labelled, COLUMNS].to_numpy()
    groups = labelled["group"].to_numpy(object)
    alarms = [fold_alarm(y, p, labelled["group"].map(fold).to_numpy(), groups)]
    if model.per_fold is not None and model.per_fold.size:
        test_p = model.per_fold.reshape(-1, len(LABELS))
        test_groups = np.tile(model.test["group"].to_numpy(object), len(model.per_fold))
        known = ~np.isnan(test_p).any(axis=1)
        alarms.append(entropy_alarm(y, p, test_p[known], groups, test_groups[known]))
    alarms.append(in_sample_alarm(y, p))
    return [alarm for alarm in alarms if alarm]


def _adopt_folds(run: Run, train: pd.DataFrame, own_fold: pd.Series) -> None:
    """Make the model's folds the run's. A patient without predictions gets a seeded random fold."""
    fold = complete_folds(train["group"], own_fold, run.recipe.seed)
    write_table(run.dir.imported_folds, pd.DataFrame({"fold": fold}))
    seal(run.dir.imported_folds)
    run.change_recipe({"folds.k": int(own_fold.max()) + 1})


def _test_tables(
    run: Run, model: ImportedModel, fold: pd.Series, compare: bool
) -> tuple[list[Probabilities], list[str]]:
    """Return the tables of test predictions as in `tables_by_fold`, [] for none; and notes.

    compare: whether the model's folds may differ from the run's
    """
    notes = []
    renumbering: dict[int, int] | None = {}
    if compare and model.own_fold is not None:
        renumbering = fold_renumbering(fold, run_folds(run, model.train))
    if renumbering is None:
        notes.append(
            "its folds are not the run's: stage two is fitted on the run's, and both are by patient"
        )
    if model.per_fold is None:
        if len(model.test):
            notes.append("without --test: `features` needs its predictions of the test slices")
        notes.append(
            "without --test it cannot be checked that its predictions are as certain on test "
            "slices as on train slices"
        )
        return [], notes
    if model.test["group"].nunique() == 1:
        notes.append(
            "with one test patient it cannot be checked that its predictions are as certain on "
            "test slices as on train slices"
        )
    tables, fold_notes = tables_by_fold(
        model.per_fold, model.test, fold, run.recipe.folds.k, renumbering or {}
    )
    return tables, notes + fold_notes


def _write_import(
    run: Run, name: str, model: ImportedModel, tables: list[Probabilities], notes: list[str]
) -> None:
    """Write the tables and the notes, all or nothing, and list the model in the recipe."""
    discard(run.dir.stage_one_submission)  # it was made from other predictions
    oof = model.oof.reindex(model.train.index)[COLUMNS]
    count = int(oof["any"].notna().sum())
    with replacing(run.dir.imported(name)) as part:
        part.mkdir()
        write_predictions(part / run.dir.imported_oof(name).name, oof, "probabilities")
        paths = run.dir.imported_test_paths(name, len(tables))
        for path, probabilities in zip(paths, tables, strict=True):
            table = pd.DataFrame(probabilities, index=model.test.index, columns=COLUMNS)
            write_predictions(part / path.name, table, "probabilities")
        write_json(part / run.dir.imported_notes(name).name, {"slices": count, "notes": notes})
        for path in sorted(part.iterdir()):
            seal(path)
    test_slices = f", {number_of(len(model.test), 'test slice')}" if tables else ""
    run.log(f"  {number_of(count, 'train slice')}{test_slices}")
    for note in notes:
        run.log(f"  {note}")
    if name not in run.recipe.stage1.imports:
        run.change_recipe({"stage1.imports": [*run.recipe.stage1.imports, name]})
