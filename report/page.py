"""Fills the page: one function a section, each from artifacts to what the template prints."""

from pathlib import Path

import jinja2
import numpy as np
import yaml
from markupsafe import Markup

from ct.errors import InputError
from ct.labels import LABELS
from ct.storage.file_formats import write_text
from ct.storage.receipt_reader import version_differences
from report import figures
from report.content_security import with_policy
from report.load import read_run, thumbnails
from report.sections.stage_scores import calibration, confusion, curves, ladder, summary, table
from report.sections.tuning_history import tuning
from report.series_strips import studies
from report.viewer import BROWSER_SLICES, browser, choose, costliest

TEMPLATES = Path(__file__).parent / "templates"
STYLES, SCRIPTS = ("page.css", "browser.css"), ("browser.js",)
SHOWN_FEATURES = 20
SHOWN_FAULTS = 100  # rows of the quarantine; the rest is counted
SHOWN_PATIENTS = 40
GEOMETRY = {  # of ct.checks.series_geometry
    "tilted": "series tilted by more than 1 degree",
    "gaps": "series with gaps: slices seem to be missing",
    "uneven": "series of uneven distances, such as half steps",
    "shared_places": "series with slices at one place",
    "one_slice": "series of one slice",
    "mixed_orientation": "series of differing orientation",
    "several_series": "studies of several series",
    "other_size": "slices of another size than 512 x 512",
    "not_square": "slices that are not square",
}
# what ingest reads
DIGESTS = ("train files", "test files", "label csv", "zip archive", "slice list")
FATES = {  # of a file in quarantine
    ("header", "train"): "train, header does not read: left out",
    ("header", "test"): "test, header does not read: given the training prior",
    ("pixels", "train"): "train, pixels do not read: stage one is blank there",
    ("pixels", "test"): "test, pixels do not read: stage one is blank there",
}


def write_report(run, progress=None, browser_slices=BROWSER_SLICES):
    """Write the report of a ct.run_dir.RunDir as one HTML file that needs nothing else, and return
    its path.

    progress: called with the name of each section that is begun, if given; browser_slices: in its
    study browser, at most Raises InputError where recipe, slice table or ingest's facts are
    missing; what later stages lack, the page says.
    """
    tell = progress or (lambda text: None)
    tell("reading the run")
    art = read_run(run)
    context = {"art": art, "labels": LABELS, "name": art.recipe.get("name", run.root.name)}
    for section, function in SECTIONS.items():
        tell(section)
        context[section] = function(art)
    tell("studies")
    context["studies"] = studies(art, thumbnails(run, art))
    tell("browser")
    shown = choose(art, browser_slices)
    context |= {
        "shown": shown,
        "costliest": costliest(art, shown),
        "browser": browser(art, run, shown),
    }
    write_text(run.report, rendered("page.html", context))
    return run.report


def write_study(run, study):
    """Write the page of one study and return its path. Raises InputError where the run has no such
    study.
    """
    art = read_run(run)
    if study not in set(art.slices["study_id"]):
        raise InputError(
            f"--study={study}: the run has no such study; slices.parquet lists them in study_id"
        )
    context = {"name": art.recipe.get("name", run.root.name), "study": study}
    context["browser"] = browser(art, run, {study: "asked for"})
    write_text(run.study_page(study), rendered("study.html", context))
    return run.study_page(study)


def rendered(template: str, context: dict[str, object]) -> str:
    """Return a page: a template filled with `context`, its own style and script, and the policy
    that allows these alone.
    """
    style, script = (
        Markup("\n".join((TEMPLATES / name).read_text(encoding="utf-8") for name in names))
        for names in (STYLES, SCRIPTS)
    )
    page = environment().get_template(template).render(context | {"style": style, "script": script})
    return with_policy(page, style, script)


def environment():
    """Return jinja2's environment of the templates, with the filters that they use."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters |= {
        "percent": percent,
        "span": time_span,
        "moment": moment,
        "size": size,
        "count": lambda n: f"{n:,}",
    }
    return made


def percent(share):
    """A share in [0, 1] as text: "12.34 %", or a dash where it is NaN."""
    return f"{100 * share:.2f} %" if np.isfinite(share) else "–"


def time_span(seconds):
    """Seconds as text: "0.4 s", "3 min 20 s", "2 h 05 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    return (
        f"{minutes} min {seconds % 60:02.0f} s"
        if not hours
        else f"{hours} h {minutes % 60:02d} min"
    )


def size(gigabytes):
    """GB as text: "12.3 GB", "45 MB", "0.2 MB"."""
    megabytes = 1000 * gigabytes
    return (
        f"{gigabytes:.1f} GB"
        if gigabytes >= 1
        else f"{megabytes:.0f} MB"
        if megabytes >= 10
        else f"{megabytes:.1f} MB"
    )


def moment(time):
    """An ISO time as text, to the minute: "2026-01-02 03:04 UTC"; empty where there is none."""
    return f"{time[:10]} {time[11:16]}{' UTC' * time.endswith(('+00:00', 'Z'))}" if time else ""


def learning(art):
    """Return (CNN, panel) of each CNN that has been trained in some fold."""
    return [
        (model, figures.learning_panel(model, folds))
        for model, folds in art.curves.items()
        if folds
    ]


def importances(art):
    """Return the features that matter most, {"gain": rows, "shap": rows}, each by the mean over the
    labels.

    A row is (name, meaning, [(value, width in %) per label]); gains are shares, contributions mean
    absolute logits.
    """
    tables = {"gain": art.importances, "shap": art.contributions}
    return {
        kind: _greatest(table, art.meanings)
        for kind, table in tables.items()
        if table is not None and table.to_numpy().any()
    }


def _greatest(table, meanings):
    values = table.reindex(columns=list(LABELS)).fillna(0)
    order = values.mean(axis=1).sort_values(ascending=False, kind="stable")
    best = values.loc[order[order > 0].index[:SHOWN_FEATURES]]
    top, rows = best.to_numpy().max(), zip(best.index, best.to_numpy(), strict=True)
    return [
        (name, meanings.get(name, ""), [(float(v), 100 * float(v) / top) for v in row])
        for name, row in rows
    ]


def balance(art):
    """Return the size and the share of positives of each fold, and of all of train as the last
    row.
    """
    train = art.slices[(art.slices["split"] == "train") & art.slices["fold"].notna()]
    groups = [
        *((f"fold {int(k)}", rows) for k, rows in train.groupby("fold")),
        ("all of train", train),
    ]
    return [
        {
            "name": name,
            "slices": len(rows),
            "patients": rows["patient_id"].nunique(),
            "shares": [float(v) for v in rows[list(LABELS)].mean()],
        }
        for name, rows in groups
        if len(train)
    ]


def prevalence(art):
    """Return per label the share of positives in train and the mean predictions on the test set,
    and a picture of them.
    """
    train = art.labelled[list(LABELS)].mean()
    tables = {"raw": art.raw_test, "calibrated": art.calibrated_test, "final": art.final_test}
    means = {kind: t[list(LABELS)].mean() for kind, t in tables.items() if t is not None and len(t)}
    if not means:
        return {}
    rows = [
        {
            "label": label,
            "train": float(train[label]),
            **{k: float(m[label]) for k, m in means.items()},
        }
        for label in LABELS
    ]
    kinds = {"train": "truth", **{kind: kind for kind in means}}
    drawn = [
        (
            r["label"],
            [(100 * r[key], kind, None) for key, kind in kinds.items() if np.isfinite(r[key])],
        )
        for r in rows
    ]
    alt = "Share of positive slices in train, and mean prediction on test, in percent; the table has the numbers"
    return {"rows": rows, "picture": figures.dots_panel(drawn, "percent of slices", alt)}


def data(art):
    """Return the quarantined files, the counts by kind and split, and the other facts that ingest
    found.
    """
    faults = art.quarantine
    counts = faults.groupby(["kind", "split"]).size() if len(faults) else {}
    facts = {k: len(v) if isinstance(v, list) else v for k, v in art.ingest.items()} | {
        "quarantined": len(faults)
    }
    geometry = art.ingest.get("geometry", {})
    return {
        "faults": faults.head(SHOWN_FAULTS).to_dict("records"),
        "more": max(0, len(faults) - SHOWN_FAULTS),
        "counts": [(FATES.get(key, ", ".join(key)), int(n)) for key, n in dict(counts).items()],
        "facts": facts,
        "geometry": [(text, geometry[name]) for name, text in GEOMETRY.items() if name in geometry],
        "series": geometry.get("series"),
        "patients": art.ingest.get("patients_in_both_sets", [])[:SHOWN_PATIENTS],
        "more_patients": max(0, facts.get("patients_in_both_sets", 0) - SHOWN_PATIENTS),
        "contradictory": art.ingest.get("contradictory_labels", []),
        "studies": art.ingest.get("their_test_studies", [])[:SHOWN_PATIENTS],
        "more_studies": max(0, facts.get("their_test_studies", 0) - SHOWN_PATIENTS),
    }


def cost(art):
    """Return a row a stage: seconds, peak memory and what it left on disk, in GB; the last row is
    their sum.
    """
    rows = [
        {
            "stage": stage,
            "seconds": receipt.get("seconds") or 0,
            "memory": (receipt.get("peak_memory_mb") or 0) / 1e3,
            "disk": sum(file["size"] for file in receipt.get("made", {}).values()) / 1e9,
            "finished": receipt.get("finished"),
        }
        for stage, receipt in art.receipts.items()
    ]
    whole = {"seconds": sum(r["seconds"] for r in rows), "disk": sum(r["disk"] for r in rows)}
    return (
        {"rows": rows, "whole": whole | {"memory": max(r["memory"] for r in rows)}} if rows else {}
    )


def provenance(art):
    """Return the recipe as text, versions and commits of all receipts, digests, and what a second
    training may not repeat.

    Where stages were made by different versions, a line for each says which.
    """
    versions = {
        name: version
        for r in art.receipts.values()
        for name, version in (r.get("versions") or {}).items()
    }
    read = art.receipts.get("ingest", {}).get("read", {})
    return {
        "recipe": yaml.safe_dump(art.recipe, sort_keys=False, width=100, allow_unicode=True),
        "versions": sorted(versions.items()),
        "commits": sorted({r["commit"] for r in art.receipts.values() if r.get("commit")}),
        "different_versions": version_differences(art.receipts),
        "digests": [(name, read[name]) for name in DIGESTS if read.get(name)],
        "not_repeatable": art.receipts.get("train", {}).get("not_repeatable", []),
    }


SECTIONS = {
    f.__name__: f
    for f in (
        summary,
        table,
        ladder,
        calibration,
        curves,
        confusion,
        learning,
        tuning,
        importances,
        balance,
        prevalence,
        data,
        cost,
        provenance,
    )
}
