"""The stages `submit` and `report`."""

import pandas as pd

from ct.labels import LABELS
from ct.rundir import read_table, replacing
from ct.submission import check_submission, fill_submission, kaggle_command, write_submission
from pipeline.tables import match_sample, stage_one, training_prior
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
    key, quarantine = run.dir.key.read_bytes(), pd.read_csv(run.dir.quarantine, dtype=str, keep_default_na=False)
    sample = match_sample(run.find_sample(), key, probs.index, quarantine, run.recipe.data.missing)
    ids, slice_id, label, quarantined, fileless = sample
    if lacking := quarantined + fileless:
        prior = training_prior(run.dir)
        probs = pd.concat([probs, pd.DataFrame(prior, index=lacking)[list(LABELS)]])
    with replacing(path) as part:
        write_submission(part, ids, fill_submission(slice_id, label, probs))
        check_submission(part, ids)
    run.say(f"  {len(ids)} rows, {len(set(slice_id))} slices, in the order of the sample file")
    if lacking:
        run.say(f"  {len(quarantined)} quarantined and {len(fileless)} fileless slices got the training prior")
    if unused := len(probs.index.difference(slice_id)):
        run.say(f"  {unused} test slices are not in the sample file and were left out")
    run.say(f"  to send it: {kaggle_command(path, f'ICH-Stack {run.recipe.name}')}")


def report(run, receipt):
    """Write report.html."""
    with run.bar(None, "report", "section") as bar:
        receipt.made = [write_report(run.dir, lambda section: bar.update())]
