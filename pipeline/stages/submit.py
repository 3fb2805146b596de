"""The stages `submit` and `report`."""

import pandas as pd

from ct.errors import InputError
from ct.labels import LABELS
from ct.storage.atomic_write import discard, replacing
from ct.storage.file_formats import read_table
from ct.submission import check_submission, fill_submission, kaggle_command, write_submission
from ct.tables.spreadsheet import read_sheet
from pipeline.stage_data.run_tables import stage_one, training_prior
from pipeline.stage_data.sample_rows import match_sample


def submit(run, receipt):
    """Write submission.csv from stage two's test probabilities, where there are any and a sample
    file says in which rows.
    """
    probs = read_table(run.dir.stage2 / "test.parquet")
    if why := why_nothing_to_submit(run, probs):
        discard(run.dir.submission)
        run.log(f"  {why}")
        return
    write_probs(run, probs, run.dir.submission)
    receipt.made = [run.dir.submission]


def why_nothing_to_submit(run, probs):
    """Return why there is no submission to write, or "". probs: table of the test slices."""
    if not run.recipe.data.slices:
        return ""
    if probs.empty:
        return "there is nothing to submit: the slice list has no test slices"
    if not run.recipe.data.sample:
        return "there is nothing to submit: no sample file (`new --sample=FILE`); stage2/test.parquet holds the probabilities"
    return ""


def submit_stage_one(run):
    """Write submission-stage-one.csv from the calibrated mean of the CNNs and the imported
    models.
    """
    probs = stage_one(run)
    if why := why_nothing_to_submit(run, probs):
        raise InputError(f"submit --stage=one: {why}")
    write_probs(run, probs, run.dir.stage_one_submission)


def write_probs(run, probs, path):
    """Write a submission in the sample file's order, check it, and print the command that sends it.

    probs: table indexed by slice id, columns LABELS. Quarantined test slices get the training
    prior; so do slices of the sample that have no file, where the recipe says `missing: prior`.
    """
    key, quarantine = run.pseudonym_key(), read_sheet(run.dir.quarantine)
    sample = match_sample(run.find_sample(), key, probs.index, quarantine, run.recipe.data.missing)
    ids, slice_id, label, quarantined, fileless = sample
    if lacking := quarantined + fileless:
        prior = training_prior(run.dir)
        probs = pd.concat([probs, pd.DataFrame(prior, index=lacking)[list(LABELS)]])
    with replacing(path) as part:
        write_submission(part, ids, fill_submission(slice_id, label, probs))
        check_submission(part, ids)
    run.log(f"  {len(ids)} rows, {len(set(slice_id))} slices, in the order of the sample file")
    if lacking:
        run.log(
            f"  {len(quarantined)} quarantined and {len(fileless)} fileless slices got the training prior"
        )
    if unused := len(probs.index.difference(slice_id)):
        run.log(f"  {unused} test slices are not in the sample file and were left out")
    run.log(f"  to send it: {kaggle_command(path, f'ICH-Stack {run.recipe.name}')}")
