"""The stage `submit`: write and check the Kaggle submission."""

from pathlib import Path

import pandas as pd

from ct.errors import InputError, number_of
from ct.labels import LABELS
from ct.storage.atomic_write import discard, replacing
from ct.storage.file_formats import read_table
from ct.submission import check_submission, fill_submission, kaggle_command, write_submission
from ct.tables.spreadsheet import read_sheet
from pipeline.receipt import Receipt
from pipeline.run_context import Run
from pipeline.stage_data.run_tables import calibrated_stage_one, training_prior
from pipeline.stage_data.sample_rows import match_sample


def submit(run: Run, receipt: Receipt) -> None:
    """Write submission.csv from stage two's probabilities, if there is anything to submit."""
    probabilities = read_table(run.dir.stage2 / "test.parquet")
    if why := why_nothing_to_submit(run, probabilities):
        discard(run.dir.submission)
        run.log(f"  {why}")
        return
    write_probabilities(run, probabilities, run.dir.submission)
    receipt.made = [run.dir.submission]


def why_nothing_to_submit(run: Run, probabilities: pd.DataFrame) -> str:
    """Return why there is nothing to submit, or "". probabilities: table of the test slices"""
    if run.recipe.data.format != "kaggle":
        return (
            "there is nothing to submit: these are studies of your own, without a test set "
            "(Kaggle's layout has one, stage_2_test); `score` predicts further studies"
        )
    if not run.recipe.data.slices:
        return ""
    if probabilities.empty:
        return "there is nothing to submit: the slice list has no test slices"
    if not run.recipe.data.sample:
        return (
            "there is nothing to submit: no sample file (`new --sample=FILE`); "
            "stage2/test.parquet holds the probabilities"
        )
    return ""


def submit_stage_one(run: Run, is_stacked: bool) -> None:
    """Write submission-stage-one.csv from the calibrated mean of the CNNs and imported models.

    is_stacked: the stage `stack` is fresh. Its mean has the weights that were fitted for the
    features, and is what the report compares stage two with; before that, models count alike.
    """
    path = run.dir.stage2 / "calibrated_test.parquet"
    stacked = is_stacked and path.exists()  # an older version did not write it
    probabilities = read_table(path) if stacked else calibrated_stage_one(run)
    if why := why_nothing_to_submit(run, probabilities):
        raise InputError(f"submit --stage=one: {why}")
    write_probabilities(run, probabilities, run.dir.stage_one_submission)


def write_probabilities(run: Run, probabilities: pd.DataFrame, path: Path) -> None:
    """Write a submission in the order of the sample file, check it, print the command to send it.

    probabilities: indexed by slice id, columns LABELS. Quarantined test slices get the training
    prior; so do slices of the sample without a file, if the recipe has `missing: prior`.
    """
    key, quarantine = run.pseudonym_key(), read_sheet(run.dir.quarantine)
    sample = match_sample(
        run.find_sample(), key, probabilities.index, quarantine, run.recipe.data.missing
    )
    if lacking := sample.quarantined + sample.without_file:
        prior = pd.DataFrame(training_prior(run.dir), index=lacking)
        probabilities = pd.concat([probabilities, prior[list(LABELS)]])
    with replacing(path) as part:
        write_submission(
            part, sample.ids, fill_submission(sample.slice_id, sample.label, probabilities)
        )
        check_submission(part, sample.ids)
    slices = number_of(len(set(sample.slice_id)), "slice")
    run.log(f"  {number_of(len(sample.ids), 'row')}, {slices}, in the order of the sample file")
    if lacking:
        quarantined = number_of(len(sample.quarantined), "slice")
        run.log(
            f"  {quarantined} in quarantine and {len(sample.without_file)} without a file got the "
            "training prior"
        )
    if unused := len(probabilities.index.difference(sample.slice_id)):
        unused_slices = number_of(unused, "test slice")
        run.log(f"  {unused_slices} left out that the sample file does not have")
    run.log(f"  to send it: {kaggle_command(path, f'ICH-Stack {run.recipe.name}')}")
