"""The features that stage two uses most."""

from typing import Any

import pandas as pd

from ct.labels import LABELS
from report.run_artifacts import Artifacts

SHOWN_FEATURES = 20


def importances(art: Artifacts) -> dict[str, list[tuple[str, str, list[tuple[float, float]]]]]:
    """Return {"gain": rows, "shap": rows} of the most important features, by mean over the labels.

    A row is (name, description, [(value, width in %) of each label]). Values of "gain" are shares,
    those of "shap" mean absolute contributions, logits. A table without any value is left out.
    """
    tables = {"gain": art.importances, "shap": art.contributions}
    return {
        kind: _largest(table, art.descriptions)
        for kind, table in tables.items()
        if table is not None and table.to_numpy().any()
    }


def _largest(table: pd.DataFrame, descriptions: dict[str, str]) -> list[tuple[str, str, Any]]:
    values = table.reindex(columns=list(LABELS)).fillna(0)
    order = values.mean(axis=1).sort_values(ascending=False, kind="stable")
    shown = values.loc[order[order > 0].index[:SHOWN_FEATURES]]
    largest, rows = shown.to_numpy().max(), []
    for name, row in zip(shown.index, shown.to_numpy(), strict=True):
        cells = [(float(value), 100 * float(value) / largest) for value in row]
        rows.append((name, descriptions.get(name, ""), cells))
    return rows
