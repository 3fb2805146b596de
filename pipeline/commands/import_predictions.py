"""The verb `import-predictions`: the opinions of a model that was trained elsewhere become a model
of stage one's.
"""

import numpy as np
import pandas as pd

from ct.checks.leakage import entropy_alarm, fold_alarm, in_sample_alarm
from ct.config import suggestion
from ct.errors import InputError
from ct.labels import LABELS
from ct.patient_folds import fold_by_group, fold_groups
from ct.privacy.pseudonyms import pseudonym
from ct.seeds import derive_seed
from ct.storage.atomic_write import discard, replacing
from ct.storage.file_formats import read_table, write_json, write_table
from ct.storage.sealed_files import seal
from ct.tables.prediction_table import read_predictions
from ct.tables.spreadsheet import read_sheet
from pipeline.options import RunOptions
from pipeline.run_lock import check_fresh, opened
from pipeline.stage_runner import run_stage

COLUMNS = list(LABELS)


def import_predictions(options):
    """Take a model's predictions into the run, or put them out of it."""

    with opened(RunOptions(run=options.run)) as run:
        if options.remove:
            remove_import(run, options.name)
            return
        if not run.recipe.stage1.models:
            run_stage(run, "ingest")
        check_fresh(run, "import-predictions", ("ingest",))
        print(f"import-predictions: {options.name}")
        take_predictions(run, options.name, options.oof, options.test, options.trust_oof)
        if not run.recipe.stage1.models:
            for name in ("folds", "train", "predict"):
                run_stage(run, name)


def take_predictions(run, name, oof, test, trust):
    """Check a model's predictions and keep them in imports/<name>/; the recipe lists the name from
    then on.

    oof, test: files as `ct.tables.prediction_table.read_predictions` reads, test may be None;
    trust: whether to overrule the alarms Raises InputError that names the file and the slice,
    patient or figures for whatever does not fit.
    """
    if name in (config.name for config in run.recipe.stage1.models):
        raise InputError(
            f"--name={name}: a CNN of the recipe has that name; give the imported model another"
        )
    slices, where = read_table(run.dir.slices), f"--oof={oof}"
    slices = slices.assign(group=fold_groups(slices))
    train, tests = (slices[slices["split"] == split] for split in ("train", "test"))
    given = _by_slice(run, read_predictions(oof, "oof"), train, where)
    if (twice := given.index.duplicated()).any():
        raise InputError(
            f"{where}: slice {given.index[twice][0]} occurs twice; every slice has one row"
        )
    needed = train.index[train["readable"] & train[COLUMNS].notna().all(axis=1)]
    _refuse_gaps(needed.difference(given.index, sort=False), where)
    try:
        own = fold_by_group(slices, given["fold"]) if "fold" in given else None
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    k_folds = run.recipe.folds.k if own is None else int(own.max()) + 1
    per_fold = (
        None
        if test is None
        else _test_opinions(run, read_predictions(test, "test"), tests, k_folds, f"--test={test}")
    )

    adopts = own is not None and not any(
        p.exists() for p in (run.dir.folds, run.dir.listed_folds, run.dir.imported_folds)
    )
    if not adopts:
        run_stage(run, "folds")
    fold = own if own is not None else _folds_of_run(run, train)
    held = train.loc[needed]
    facts = [
        held[COLUMNS].to_numpy(int),
        given.loc[needed, COLUMNS].to_numpy(),
        held["group"].to_numpy(object),
    ]
    alarms = _alarms(*facts, held["group"].map(fold).to_numpy(), per_fold)
    if alarms and not trust:
        raise InputError(
            f"{where}: {alarms[0]}; the model seems to have been trained on these slices. Give predictions of models that "
            "never saw the slice's patient, or say --trust-oof where they are that all the same"
        )
    notes = [f"taken on trust (--trust-oof), although {alarm}" for alarm in alarms]
    if adopts:
        _adopt(run, train, own)
        notes.append(f"its {k_folds} folds are the run's")
    elif own is None and not run.dir.listed_folds.exists():
        notes.append(
            "without a fold column: the folds that `folds` made are taken for its own, and are not the model's"
        )
    tables, more = _tables_per_fold(
        run, train, tests, fold, own is not None and not adopts, per_fold
    )
    _keep(run, name, given.reindex(train.index)[COLUMNS], tests.index, tables, notes + more)


def remove_import(run, name):
    """Put an imported model out of the run. The folds that came with it stay, since other models
    may stand on them.
    """
    known = run.recipe.stage1.imports
    if name not in known:
        what = suggestion(name, known) if known else "; nothing is imported"
        raise InputError(f"--name={name}: the run has no such imported model{what}")
    run.change_recipe({"stage1.imports": [other for other in known if other != name]})
    discard(run.dir.imported(name))
    discard(run.dir.stage_one_submission)  # it was made from other opinions
    run.log(f"  {name} is removed")


def _by_slice(run, given, rows, where):
    """Return predictions indexed by the slices' names in the tables. Raises InputError for slices
    that are not in `rows`.

    Left out are those in quarantine and, where the run takes a part of the train slices only, those
    that it does not take.
    """
    key, quarantine = run.pseudonym_key(), read_sheet(run.dir.quarantine)
    table = given.set_index(
        pd.Index([pseudonym(name, key, "slice") for name in given["slice_id"]], name="slice_id")
    )
    unknown = ~table.index.isin(rows.index)
    if where.startswith("--test") or run.recipe.data.train_slices is None:
        strange = unknown & ~table.index.isin(quarantine["slice_id"])
        if strange.any():
            split = rows["split"].iloc[0] if len(rows) else "test"
            raise InputError(
                f"{where}: {strange.sum()} rows are of slices that are no {split} slices of the run, the first "
                f"{table['slice_id'][strange].iloc[0]}; leave them out"
            )
    return table[~unknown].drop(columns="slice_id")


def _refuse_gaps(missing, where):
    if len(missing):
        raise InputError(
            f"{where} lacks {len(missing)} slices of the run, the first {missing[0]}; every slice needs a row"
        )


def _test_opinions(run, given, tests, k_folds, where):
    """Return the opinions of the test slices, float64 (K, m, 6), or (1, m, 6) where one table is
    all there is.
    """
    table = _by_slice(run, given, tests, where)
    fold = table["fold"].to_numpy(int) if "fold" in table else np.zeros(len(table), int)
    count = k_folds if "fold" in table else 1
    if fold.max(initial=-1) + 1 > count:
        raise InputError(
            f"{where} has {fold.max() + 1} folds, where the predictions out of fold have {count}; give {count}"
        )
    row = tests.index.get_indexer(table.index)
    if (twice := pd.Series(fold * len(tests) + row).duplicated().to_numpy()).any():
        what = f" in fold {fold[twice][0]}" if "fold" in table else ""
        raise InputError(
            f"{where}: slice {table.index[twice][0]} occurs twice{what}; every slice has one row (in each fold)"
        )
    probs = np.full((count, len(tests), len(LABELS)), np.nan)
    probs[fold, row] = table[COLUMNS].to_numpy()
    readable = tests["readable"].to_numpy(bool)
    for k in range(count):
        missing = tests.index[readable & np.isnan(probs[k, :, 0])]
        _refuse_gaps(missing, f"{where}, fold {k}," if count > 1 else where)
    return probs


def _folds_of_run(run, train):
    """Return {group: fold} of the run's folds; a group that an older run's folds tear has the first
    of them.
    """
    fold = read_table(run.dir.folds)["fold"].reindex(train.index)
    return fold.groupby(train["group"].to_numpy(object), sort=False).first()


def _alarms(y, p, patients, fold, per_fold):
    """Return why the predictions look in-sample, a line each."""
    alarms = [fold_alarm(y, p, fold, patients)]
    if per_fold is not None and per_fold.size:
        test_p = per_fold.reshape(-1, len(LABELS))
        alarms.append(entropy_alarm(y, p, test_p[~np.isnan(test_p).any(axis=1)]))
    return [alarm for alarm in (*alarms, in_sample_alarm(y, p)) if alarm]


def _adopt(run, train, own):
    """Make the model's folds the run's. A patient of whom it says nothing gets one by chance,
    always the same.
    """
    k_folds = int(own.max()) + 1
    fold = train["group"].map(own)
    for group in train.loc[fold.isna(), "group"].unique():
        fold[train["group"] == group] = derive_seed(run.recipe.seed, "fold", group) % k_folds
    write_table(run.dir.imported_folds, pd.DataFrame({"fold": fold.astype(np.int8)}))
    seal(run.dir.imported_folds)
    run.change_recipe({"folds.k": k_folds})


def _tables_per_fold(run, train, tests, fold, compare, per_fold):
    """Return ([opinions of the test slices (m, 6) that each stacker reads, or one for all], notes).

    fold: {group: fold} of the model, groups as in ct.patient_folds.fold_groups; compare: whether that may
    be other than the run's A patient who is also in train has in every table the opinion of the one
    fold's model that never saw the patient.
    """
    notes, k_folds = [], run.recipe.folds.k
    renumber = _same_folds(fold, _folds_of_run(run, train)) if compare else {}
    if renumber is None:
        notes.append(
            "its folds are not the run's: stage two is fitted on the run's, and both are by patient"
        )
    if per_fold is None:
        if len(tests):
            notes.append("without --test: `features` will ask for its opinion of the test slices")
        return [], [
            *notes,
            "without --test it cannot be checked that train slices do not look better known than test slices",
        ]
    own = tests["group"].map(fold)
    rows = np.flatnonzero(own.notna())
    if len(per_fold) > 1:
        per_fold[:, rows] = per_fold[own.iloc[rows].to_numpy(int), rows]
        if len(per_fold) == k_folds:
            order = np.argsort([(renumber or {}).get(k, k) for k in range(k_folds)])
            return list(per_fold[order]), notes
        notes.append(
            f"its test predictions are of {len(per_fold)} folds, the run has {k_folds}: their mean is taken"
        )
    elif len(rows):
        notes.append(
            f"{len(rows)} test slices are of patients who are also in train; one table cannot keep them apart"
        )
    if len(tests):
        notes.append(
            "every stacker reads the same table of test predictions, which is smoother than what it learnt on"
        )
    return [per_fold.mean(axis=0)], notes


def _same_folds(fold, of_run):
    """Return {number: the run's number} where two divisions of the patients are the same but for
    the numbers, else None.
    """
    pairs = pd.DataFrame({"own": fold, "run": of_run}).dropna().drop_duplicates()
    if pairs["own"].duplicated().any() or pairs["run"].duplicated().any():
        return None
    return dict(zip(pairs["own"].astype(int), pairs["run"].astype(int), strict=True))


def _keep(run, name, oof, test_index, tables, notes):
    """Write the tables and the notes, all or nothing, and list the name in the recipe."""
    discard(run.dir.stage_one_submission)  # it was made from other opinions
    with replacing(run.dir.imported(name)) as part:
        part.mkdir()
        write_table(part / run.dir.imported_oof(name).name, oof)
        for path, probs in zip(run.dir.imported_test_paths(name, len(tables)), tables, strict=True):
            write_table(part / path.name, pd.DataFrame(probs, index=test_index, columns=COLUMNS))
        write_json(
            part / run.dir.imported_notes(name).name,
            {"slices": int(oof["any"].notna().sum()), "notes": notes},
        )
        for path in sorted(part.iterdir()):
            seal(path)
    run.log(
        f"  {oof['any'].notna().sum()} train slices"
        + (f", {len(test_index)} test slices" if tables else "")
    )
    for note in notes:
        run.log(f"  {note}")
    if name not in run.recipe.stage1.imports:
        run.change_recipe({"stage1.imports": [*run.recipe.stage1.imports, name]})
