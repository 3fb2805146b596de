"""The labels of a run's slices: by slice id in Kaggle's csv, by any key in a table of own ones."""

from collections.abc import Collection
from typing import NamedTuple

import pandas as pd

from ct.errors import InputError, printable
from ct.label_tables.label_match import match_labels, slice_labels
from ct.sources.file_list import noted_file
from ct.storage.file_formats import read_json, read_table
from pipeline.ingestion.ingest_work import IngestWork
from pipeline.run_context import Run
from pipeline.stage_data.slice_selection import Counts, join_labels, join_matched_labels
from pipeline.units.unit import Log


class OwnLabels(NamedTuple):
    """The labels of studies of the user's own."""

    table: pd.DataFrame  # indexed by slice_id, columns LABELS
    unused: int  # rows that belong to no slice


def matched_labels(run: Run, work: IngestWork, slices: pd.DataFrame, log: Log) -> OwnLabels | None:
    """Return the labels of studies of the user's own, None for Kaggle's layout.

    slices: header table of all series. Raises InputError where the table has no labels of slices.
    """
    data = run.recipe.data
    if data.format == "kaggle":
        return None
    table, where = read_table(work.labels), f"--labels={data.labels}"
    match = match_labels(table, slices, run.pseudonym_key(), where)
    if match.level != "slice":
        kind = "series" if match.level == "series" else "studies"
        raise InputError(
            f"{where} has labels of whole {kind}, not of slices: they serve to `evaluate`, not to "
            "train"
        )
    log(f"  labels by {match.way}, column {printable(match.column)}")
    return OwnLabels(slice_labels(match, table, slices), match.unused)


def labelled_slices(
    run: Run,
    work: IngestWork,
    slices: pd.DataFrame,
    on_disk: Collection[str],
    own: OwnLabels | None,
) -> tuple[pd.DataFrame, Counts]:
    """Join the labels to the slices of the run; see `join_labels`. own: of `matched_labels`"""
    labels_csv = noted_file(read_json(work.source)["labels"])
    allow = run.recipe.data.allow_unlabelled
    if own is None:
        labels, key = read_table(work.labels), run.pseudonym_key()
        return join_labels(slices, labels, on_disk, labels_csv, key, allow)
    slices, counts = join_matched_labels(slices, own.table, on_disk, labels_csv, allow)
    counts["labels_without_file"] += own.unused
    return slices, counts
