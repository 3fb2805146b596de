"""The stages `submit` and `report`."""

import pandas as pd

from ct.dicom import pseudonym
from ct.errors import InputError
from ct.labels import LABELS
from ct.rundir import read_table, replacing
from ct.submission import check_submission, fill_submission, kaggle_command, read_sample, write_submission
from pipeline.tables import stage_one, training_prior
from report.page import write_report


def submit(run, receipt):
    """Write submission.csv from stage two's test probabilities."""
    write_probs(run, read_table(run.dir.stage2 / "test.parquet"), run.dir.submission)
    receipt.made = [run.dir.submission]


def submit_stage_one(run):
    """Write submission-stage-one.csv from the calibrated mean of the CNNs."""
    recipe = run.recipe
    models = [config.name for config in recipe.stage1.models]
    probs = stage_one(run.dir, models, recipe.folds.k, recipe.features.clip)
    write_probs(run, probs, run.dir.submission_one)


def write_probs(run, probs, path):
    """Write a submission in the sample file's order, check it, and print the command that sends it.

    probs: table indexed by slice id, columns LABELS. Quarantined test slices get the training prior; so do slices of the
    sample that have no file, where the recipe says `missing: prior`.
    """
    ids, slice_id, label = read_sample(run.find_source().sample_csv)
    key = run.dir.key.read_bytes()
    alias = {slice_: pseudonym(slice_, key) for slice_ in pd.unique(pd.Series(slice_id))}
    slice_id = pd.Series(slice_id).map(alias).to_numpy(object)
    wanted = pd.Index(list(alias.values()))
    quarantine = pd.read_csv(run.dir.quarantine, dtype=str, keep_default_na=False)
    left_out = set(quarantine.loc[(quarantine["kind"] == "header") & (quarantine["split"] == "test"), "slice_id"])
    lacking = wanted.difference(probs.index, sort=False)
    fileless = [slice_ for slice_ in lacking if slice_ not in left_out]
    if fileless and run.recipe.data.missing != "prior":
        original = next(name for name, short in alias.items() if short == fileless[0])
        raise InputError(
            f"{len(fileless)} slices of the sample file have no DICOM file, the first is {original}; give the sample that "
            "belongs to the data (`new --sample=FILE`), or fill such rows with the training prior (--missing=prior)"
        )
    if len(lacking):
        prior = training_prior(run.dir)
        probs = pd.concat([probs, pd.DataFrame(prior, index=lacking)[list(LABELS)]])
    with replacing(path) as part:
        write_submission(part, ids, fill_submission(slice_id, label, probs))
        check_submission(part, ids)
    run.say(f"  {len(ids)} rows, {len(wanted)} slices, in the order of the sample file")
    if len(lacking):
        run.say(f"  {len(lacking) - len(fileless)} quarantined and {len(fileless)} fileless slices got the training prior")
    if unused := len(probs.index.difference(wanted)):
        run.say(f"  {unused} test slices are not in the sample file and were left out")
    run.say(f"  to send it: {kaggle_command(path, f'ICH-Stack {run.recipe.name}')}")


def report(run, receipt):
    """Write report.html."""
    with run.bar(None, "report", "section") as bar:
        receipt.made = [write_report(run.dir, lambda section: bar.update())]
