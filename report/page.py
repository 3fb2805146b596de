"""Fills the page: one function a section, each from artifacts to what the template prints."""

from pathlib import Path

import jinja2
import numpy as np
import yaml

from ct.errors import InputError
from ct.labels import LABELS
from ct.rundir import write_text
from report import plots
from report.browser import BROWSER_SLICES, browser, choose, costliest
from report.read import read_run, scrub, thumbnails, typical_series
from report.tuning import tuning

SHOWN_FEATURES = 20
SHOWN_FAULTS = 100  # rows of the quarantine; the rest is counted
SHOWN_PATIENTS = 40
SHOWN_SLICES = 64  # of a study; a longer one shows every second, third, ...
FATES = {  # of a file in quarantine
    ("header", "train"): "train, header does not read: left out",
    ("header", "test"): "test, header does not read: given the training prior",
    ("pixels", "train"): "train, pixels do not read: stage one is blank there",
    ("pixels", "test"): "test, pixels do not read: stage one is blank there",
}


def write_report(run, progress=None, browser_slices=BROWSER_SLICES):
    """Write the report of a ct.rundir.RunDir as one HTML file that needs nothing else, and return its path.

    progress: called with the name of each section that is begun, if given; browser_slices: in its study browser, at most
    Raises InputError where recipe, slice table or ingest's facts are missing; what later stages lack, the page says.
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
    context |= {"shown": shown, "costliest": costliest(art, shown), "browser": browser(art, run, shown)}
    write_text(run.report, environment().get_template("page.html").render(context))
    return run.report


def write_study(run, study):
    """Write the page of one study and return its path. Raises InputError where the run has no such study."""
    art = read_run(run)
    if study not in set(art.slices["study_id"]):
        raise InputError(f"--study={study}: the run has no such study; slices.parquet lists them in study_id")
    context = {"name": art.recipe.get("name", run.root.name), "study": study}
    context["browser"] = browser(art, run, {study: "asked for"})
    write_text(run.study_page(study), environment().get_template("study.html").render(context))
    return run.study_page(study)


def environment():
    """Return jinja2's environment of the templates, with the filters that they use."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters |= {"percent": percent, "span": time_span, "moment": moment, "count": lambda n: f"{n:,}"}
    return made


def percent(share):
    """A share in [0, 1] as text: "12.34 %", or a dash where it is NaN."""
    return f"{100 * share:.2f} %" if np.isfinite(share) else "–"


def time_span(seconds):
    """Seconds as text: "0.4 s", "3 min 20 s", "2 h 05 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    return f"{minutes} min {seconds % 60:02.0f} s" if not hours else f"{hours} h {minutes % 60:02d} min"


def moment(time):
    """An ISO time as text, to the minute: "2026-01-02 03:04 UTC"; empty where there is none."""
    return f"{time[:10]} {time[11:16]}{' UTC' * time.endswith(('+00:00', 'Z'))}" if time else ""


def summary(art):
    """Return the verdict on stage two, the ladder of losses and the counts of the first screen."""
    train, test = (art.slices[art.slices["split"] == split] for split in ("train", "test"))
    found = {
        "train": {"slices": len(train), "studies": train["study_id"].nunique(), "patients": train["patient_id"].nunique()},
        "test": {"slices": len(test), "studies": test["study_id"].nunique(), "patients": test["patient_id"].nunique()},
        "folds": int(art.recipe.get("folds", {}).get("k", 0)),
        "faults": len(art.quarantine),
        "scored": art.scores is not None,
        "finished": max((r["finished"] for r in art.receipts.values() if r.get("finished")), default=None),
    }
    if art.scores is None:
        return found
    losses = {f"{m} alone": s["weighted"]["loss"] for m, s in art.scores["models"].items()}
    losses |= {"calibrated mean": art.scores["calibrated"]["weighted"]["loss"]}
    losses |= {"stage two": art.scores["stage_two"]["weighted"]["loss"]}
    worst = max(losses.values()) or 1
    gain = art.scores["gain"]["weighted"]
    verdict = "better" if gain["low"] > 0 else "worse" if gain["high"] < 0 else "unclear"
    ladder = [{"name": name, "loss": loss, "width": 100 * loss / worst} for name, loss in losses.items()]
    better = [m for m, s in art.scores["models"].items() if s["weighted"]["loss"] < losses["stage two"]]
    return found | {"ladder": ladder, "gain": gain, "verdict": verdict, "better_alone": better}


def table(art):
    """Return a row per label, the weighted one first: losses, AUCs, gain, and why a label is not stacked."""
    if art.scores is None:
        return []
    gains = art.scores["gain"].values()
    start, stop = min(0, *(g["low"] for g in gains)), max(0, *(g["high"] for g in gains))
    decided, rows = art.scores.get("blend") or art.configs or {}, []
    for label in ("weighted", *LABELS):
        gain = art.scores["gain"][label]
        rows.append(
            {
                "label": label,
                "before": art.scores["calibrated"][label],
                "after": art.scores["stage_two"][label],
                "models": {m: s[label] for m, s in art.scores["models"].items()},
                "gain": gain,
                "whisker": plots.whisker(gain["gain"], gain["low"], gain["high"], start, stop),
                "note": None if label == "weighted" else _stacking(decided.get(label, [])),
            }
        )
    return rows


def ladder(art):
    """Return the rungs from the mean of the CNNs to the blend, as scores.json has them: one a component; [] without any."""
    return [] if art.scores is None else art.scores.get("ladder", [])


def _stacking(folds):
    """Return {"head": in how many folds a label is not stacked, "why": [(fold numbers, reason)]}; None where it is in all."""
    dropped = [f for f in folds if not f["stacked"]]
    if not dropped:
        return None
    reasons = {}
    for found in dropped:
        reasons.setdefault(scrub(found["why"]), []).append(str(found["fold"]))
    head = "not stacked" if len(dropped) == len(folds) else f"stacked in {len(folds) - len(dropped)} of {len(folds)} folds"
    return {"head": head, "why": [(", ".join(numbers), reason) for reason, numbers in reasons.items()]}


def calibration(art):
    """Return (label, reliability panel) of each label."""
    truth, found = art.opinions(("raw", "calibrated", "final"))
    columns = [(label, truth[:, j], {kind: p[:, j] for kind, p in found.items()}) for j, label in enumerate(LABELS)]
    return [(label, plots.reliability_panel(label, y, opinions)) for label, y, opinions in columns if found]


def roc(art):
    """Return per label its ROC panel, None where undefined, and its AUC before and after stage two."""
    truth, found = art.opinions(art.compared)
    scores = art.scores or {"calibrated": {}, "stage_two": {}}
    return [
        {
            "label": label,
            "panel": plots.roc_panel(label, truth[:, j], {kind: p[:, j] for kind, p in found.items()}),
            "before": scores["calibrated"].get(label, {}).get("auc"),
            "after": scores["stage_two"].get(label, {}).get("auc"),
        }
        for j, label in enumerate(LABELS)
        if found
    ]


def learning(art):
    """Return (CNN, panel) of each CNN that has been trained in some fold."""
    return [(model, plots.learning_panel(model, folds)) for model, folds in art.curves.items() if folds]


def importances(art):
    """Return the features with the greatest gain over all labels: name, and (share, width in %) per label."""
    if art.importances is None or art.importances.empty:
        return []
    shares = art.importances.reindex(columns=list(LABELS)).fillna(0)
    order = shares.mean(axis=1).sort_values(ascending=False, kind="stable")
    best = shares.loc[order[order > 0].index[:SHOWN_FEATURES]]
    top = max(best.to_numpy().max(initial=0), 1e-12)
    rows = zip(best.index, best.to_numpy(), strict=True)
    return [(name, [(float(share), 100 * float(share) / top) for share in row]) for name, row in rows]


def balance(art):
    """Return the size and the share of positives of each fold, and of all of train as the last row."""
    train = art.slices[(art.slices["split"] == "train") & art.slices["fold"].notna()]
    groups = [*((f"fold {int(k)}", rows) for k, rows in train.groupby("fold")), ("all of train", train)]
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
    """Return per label the share of positives in train and the mean predictions on the test set."""
    train = art.labelled[list(LABELS)].mean()
    tables = {"raw": art.raw_test, "calibrated": art.calibrated_test, "final": art.final_test}
    means = {kind: t[list(LABELS)].mean() for kind, t in tables.items() if t is not None and len(t)}
    if not means:
        return []
    reach = max(float(train.max()), *(float(m.max()) for m in means.values()))
    rows = []
    for label in LABELS:
        found = {kind: float(m[label]) for kind, m in means.items()}
        marks = [(float(train[label]), "truth"), *((v, kind) for kind, v in found.items() if np.isfinite(v))]
        rows.append({"label": label, "train": float(train[label]), **found, "picture": plots.dumbbell(marks, reach)})
    return rows


def data(art):
    """Return the quarantined files, the counts by kind and split, and the other facts that ingest found."""
    faults = art.quarantine
    counts = faults.groupby(["kind", "split"]).size() if len(faults) else {}
    facts = {k: len(v) if isinstance(v, list) else v for k, v in art.ingest.items()} | {"quarantined": len(faults)}
    return {
        "faults": faults.head(SHOWN_FAULTS).to_dict("records"),
        "more": max(0, len(faults) - SHOWN_FAULTS),
        "counts": [(FATES.get(key, ", ".join(key)), int(n)) for key, n in dict(counts).items()],
        "facts": facts,
        "patients": art.ingest.get("patients_in_both_sets", [])[:SHOWN_PATIENTS],
        "more_patients": max(0, facts.get("patients_in_both_sets", 0) - SHOWN_PATIENTS),
        "studies": art.ingest.get("their_test_studies", [])[:SHOWN_PATIENTS],
        "more_studies": max(0, facts.get("their_test_studies", 0) - SHOWN_PATIENTS),
    }


def provenance(art):
    """Return the recipe as text, the versions and commits of all receipts, and what a second training may not repeat."""
    versions = {name: version for r in art.receipts.values() for name, version in (r.get("versions") or {}).items()}
    return {
        "recipe": yaml.safe_dump(art.recipe, sort_keys=False, width=100, allow_unicode=True),
        "versions": sorted(versions.items()),
        "commits": sorted({r["commit"] for r in art.receipts.values() if r.get("commit")}),
        "seconds": sum(r.get("seconds") or 0 for r in art.receipts.values()),
        "not_repeatable": art.receipts.get("train", {}).get("not_repeatable", []),
    }


SECTIONS = {
    f.__name__: f
    for f in (summary, table, ladder, calibration, roc, learning, tuning, importances, balance, prevalence, data, provenance)
}


def studies(art, pictures):
    """Return the strips of the studies worth a look. pictures: a function from slice ids to pictures, or None."""
    return [_strip(art, reason, ids, pictures) for reason, ids in typical_series(art)]


def _strip(art, reason, ids, pictures):
    """Return one strip: why it was chosen, its thumbnails, and a lane for each label that matters in it."""
    step = -(-len(ids) // SHOWN_SLICES)
    rows = art.slices.loc[ids[::step]]
    truth, found = art.opinions(art.compared, rows)
    lanes = [
        (label, plots.lane(label, truth[:, j], {kind: p[:, j] for kind, p in found.items()}))
        for j, label in enumerate(LABELS)
        if label == "any" or plots.worth_a_lane(truth[:, j], [p[:, j] for p in found.values()])
    ]
    return {
        "study": rows["study_id"].iloc[0],
        "reason": reason,
        "fold": rows["fold"].iloc[0],
        "step": step,
        "slices": len(ids),
        "width": len(rows),
        "lanes": lanes,
        "found": [label for j, label in enumerate(LABELS) if j and (truth[:, j] == 1).any()],
        "picture": plots.montage(pictures(rows.index)) if pictures else None,
    }
