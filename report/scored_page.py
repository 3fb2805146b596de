"""The page of studies that `score` has read: their probabilities, what there is to remark, and
their curves along z.
"""

import numpy as np

from ct.labels import LABELS
from ct.run_dir import write_text
from ct.windows import apply_window, window_bounds
from report.page import rendered
from report.series_strips import SHOWN_SLICES, lane, montage, worth_a_lane
from report.viewer import BROWSER_SLICES, contents, study_facts

SHOWN_STUDIES = 40  # with their slices; the others have a row in the table


def write_page(path, name, studies, slices, stage_one, remarks, read_hu):
    """Write the page as one HTML file that needs nothing else.

    path: of the file; name: of the model's recipe; studies: table indexed by study with `status`,
    `slices`, LABELS, NaN where refused; slices: slice table in order, with LABELS, the final
    probabilities; stage_one: the CNNs' mean, indexed likewise; remarks: table with study_id,
    refuses, what, means; read_hu: a function from numbers of rows of `slices` to HU (n, S, S)
    """
    said = {
        study: rows.to_dict("records") for study, rows in remarks.groupby("study_id", sort=False)
    }
    order = studies.sort_values(["any", "slices"], ascending=False, kind="stable")
    rows = [
        {"study": study, **row, "remarks": said.get(study, [])}
        for study, row in order.to_dict("index").items()
    ]
    parts = dict(iter(slices.groupby("study_id", sort=False)))
    likeliest = [study for study in order.index if study in parts]
    shown = _while_there_is_room(likeliest, parts)
    numbers = {study: slices.index.get_indexer(parts[study].index) for study in likeliest}
    found = [
        study_facts(
            study,
            "",
            "",
            parts[study].drop(columns=list(LABELS)),
            [stage_one, slices],
            lambda place, at=numbers[study]: read_hu([at[place]])[0],
        )
        for study in shown
    ]
    context = {
        "name": name,
        "labels": LABELS,
        "rows": rows,
        "scored": len(parts),
        "shown": shown,
        "browser": contents(["raw", "final"], found, labelled=False, explained=False),
        "strips": [
            strip(study, parts[study], numbers[study], read_hu)
            for study in likeliest[:SHOWN_STUDIES]
        ],
    }
    write_text(path, rendered("scored.html", context))


def _while_there_is_room(studies, parts):
    """Return the studies that the browser takes: in their order, BROWSER_SLICES slices at most, but
    one at least.
    """
    taken, left = [], BROWSER_SLICES
    for study in studies:
        if len(parts[study]) <= left or not taken:
            taken.append(study)
            left -= len(parts[study])
    return taken


def strip(study, rows, numbers, read_hu):
    """Return one study's thumbnails, and a lane for `any` and each label that is suspected in it.

    rows: its slices, from the lowest to the highest; numbers, read_hu: as of `write_page`
    """
    step = -(-len(rows) // SHOWN_SLICES)
    rows, unknown = rows.iloc[::step], np.full(-(-len(rows) // step), np.nan)
    lanes = [
        (label, lane(label, unknown, {"final": rows[label].to_numpy()}))
        for label in LABELS
        if label == "any" or worth_a_lane(unknown, [rows[label].to_numpy()])
    ]
    picture = montage(apply_window(read_hu(numbers[::step]), *window_bounds("brain")))
    return {"study": study, "step": step, "width": len(rows), "lanes": lanes, "picture": picture}
