"""Tables of stage one's predictions, which name their kind: logits or probabilities.

The name stands in the metadata of the parquet file. Tables of older versions have none: they hold
probabilities.
"""

from pathlib import Path

import pandas as pd

from ct.averaging import Kind, StageOne
from ct.labels import LABELS
from ct.storage.file_formats import read_table, write_table

NAME = "predictions"  # of the kind, in the metadata


def write_predictions(path: Path | str, table: pd.DataFrame, kind: Kind | None) -> None:
    """Write a table of predictions as parquet, with its kind.

    kind: None for probabilities without the name, the same bytes as an older version wrote
    """
    table = table.copy(deep=False)
    table.attrs = {} if kind is None else {NAME: kind}
    write_table(path, table)


def read_predictions_of(path: Path | str, index: pd.Index | None = None) -> StageOne:
    """Read a table of predictions.

    index: slice ids of the n rows, NaN where the table lacks one; None: those of the table

    Raises ValueError where the table names a kind that this version does not know.
    """
    table = read_table(path)
    rows = table if index is None else table.reindex(index)
    return StageOne(rows[list(LABELS)].to_numpy(), kind_of(table))


def kind_of(table: pd.DataFrame) -> Kind:
    """Return the kind that a table names; "probabilities" where it names none.

    Raises ValueError for a kind that this version does not know.
    """
    kind = table.attrs.get(NAME, "probabilities")
    if kind == "logits":
        return "logits"
    if kind != "probabilities":
        raise ValueError(f"the table holds {kind!r}, neither logits nor probabilities")
    return "probabilities"
