"""The page of studies that `score` has read: their probabilities, what there is to remark, and their curves along z."""

import numpy as np

from ct.labels import LABELS
from ct.rundir import write_text
from report import plots
from report.page import SHOWN_SLICES, environment

SHOWN_STUDIES = 40  # with their slices; the others have a row in the table


def write_page(path, name, studies, slices, remarks, pictures):
    """Write the page as one HTML file that needs nothing else.

    path: of the file; name: of the model's recipe; studies: table indexed by study with `status`, `slices`, LABELS, NaN where
    refused; slices: table indexed by slice with `study_id` and LABELS, in order; remarks: table with study_id, refuses, what,
    means; pictures: a function from slice ids to pictures (n, size, size) in [0, 1]
    """
    said = {study: rows.to_dict("records") for study, rows in remarks.groupby("study_id", sort=False)}
    order = studies.sort_values(["any", "slices"], ascending=False, kind="stable")
    rows = [{"study": study, **row, "remarks": said.get(study, [])} for study, row in order.to_dict("index").items()]
    shown = [row["study"] for row in rows if row["status"] == "scored"][:SHOWN_STUDIES]
    strips = [strip(study, slices[slices["study_id"] == study], pictures) for study in shown]
    context = {"name": name, "labels": LABELS, "rows": rows, "strips": strips, "scored": len(slices["study_id"].unique())}
    write_text(path, environment().get_template("scored.html").render(context))


def strip(study, rows, pictures):
    """Return one study's thumbnails, and a lane for `any` and each label that is suspected in it.

    rows: its slices, from the lowest to the highest
    """
    step = -(-len(rows) // SHOWN_SLICES)
    rows = rows.iloc[::step]
    unknown = np.full(len(rows), np.nan)
    lanes = [
        (label, plots.lane(label, unknown, {"final": rows[label].to_numpy()}))
        for label in LABELS
        if label == "any" or plots.worth_a_lane(unknown, [rows[label].to_numpy()])
    ]
    picture = plots.montage(pictures(rows.index))
    return {"study": study, "step": step, "width": len(rows), "lanes": lanes, "picture": picture}
