"""The report of a fabricated run: every section, every number, and what may go wrong."""

import html.parser
import re

import numpy as np
import pandas as pd
import pytest

import report.page
from ct import metrics, rundir
from ct.errors import InputError
from ct.labels import LABELS, SUBTYPES
from ct.slices import COLUMNS
from report import plots, read, write_report

FOLDS = 3
MODELS = ("resnet", "vgg")
SECTIONS = "summary labels studies calibration roc learning features folds test-set data provenance".split()
VOID = {"meta", "img", "br", "hr", "link", "input"}
SECRET = "/home/somebody/secret place"


def make_slices(rng, studies, slices):
    """A slice table: a third as many test studies as train studies; the first test patient is also in train."""
    rows = []
    for number in range(studies + studies // 3):
        split = "train" if number < studies else "test"
        patient = 0 if number == studies else number
        bleeds = {s for s, share in zip(SUBTYPES, (0, 0.4, 0.3, 0.3, 0.5), strict=True) if rng.random() < share}
        centre, width = rng.uniform(0.3, 0.8), rng.uniform(0.1, 0.3)
        for place in range(slices):
            hit = abs(place / slices - centre) < width
            found = {s: float(hit and s in bleeds) for s in SUBTYPES}
            labels = {"any": max(found.values()), **found} if split == "train" else dict.fromkeys(LABELS, np.nan)
            row = dict.fromkeys(COLUMNS, 0.0) | {
                "slice_id": f"ID_{number:04x}{place:04x}",
                "split": split,
                "patient_id": f"ID_{patient:08x}",
                "study_id": f"ID_{number:06x}aa",
                "series_id": f"ID_{number:06x}bb",
                "path": f"{split}/ID_{number:04x}{place:04x}.dcm",
                "place": place,
                "position_mm": 5.0 * place,
                "series_slices": slices,
                "readable": True,
            }
            rows.append(row | {label: np.float32(value) for label, value in labels.items()})
    return pd.DataFrame(rows).set_index("slice_id")


def make_probabilities(rng, truth, skill):
    """Probabilities (n, 6) that know the truth, or its prevalence where it is NaN, the better the greater `skill` is."""
    known = np.nan_to_num(truth, nan=0.2)
    logit = skill * (known - 0.6) * 4 + rng.normal(0, 1, truth.shape)
    return 1 / (1 + np.exp(-logit))


def make_run(root, studies=15, slices=8, seed=0):
    """Write all the artifacts of a run except the pixels, and return its RunDir."""
    rng = np.random.default_rng(seed)
    run = rundir.RunDir(root)
    table = make_slices(rng, studies, slices)
    train, test = (table[table["split"] == split] for split in ("train", "test"))
    number = table["patient_id"].str[3:].map(lambda text: int(text, 16))
    fold = (number % FOLDS).where((table["split"] == "train") | number.isin(number[train.index]), -1)
    rundir.write_table(run.slices, table)
    rundir.write_table(run.folds, pd.DataFrame({"fold": fold.astype(np.int8)}))
    rundir.write_yaml(run.recipe, make_recipe())
    make_faults(run, table)
    make_stage_one(rng, run, train, test)
    make_stage_two(rng, run, train, test)
    for stage, seconds in zip(read.STAGES, (12.5, 0.2, 800, 90, 4, 130, 9, 0.4), strict=True):
        facts = {"stage": stage, "seconds": seconds, "peak_memory_mb": 512.25, "versions": {"numpy": "2.4.6", "torch": "2.9"}}
        facts |= {"commit": "0123abc", "recipe": {}, "read": {"root": SECRET}, "made": {}, "finished": "2026-01-02T03:04:05"}
        rundir.write_json(run.receipt(stage), facts)
    return run


def make_recipe():
    """A recipe with absolute paths in it."""
    cnn = {"backbone": "resnet18", "windows": ["brain", "subdural"], "neighbours": True, "epochs": 4}
    data = {"source": f"{SECRET}/rsna", "labels": f"{SECRET}/train.csv", "sample": None, "missing": "refuse"}
    return {
        "name": "demo",
        "seed": 1,
        "data": {**data, "allow_unlabelled": False},
        "folds": {"k": FOLDS},
        "pixels": {"size": 256},
        "stage1": {"models": [{"name": name, **cnn} for name in MODELS]},
        "stage2": {"trials": 20},
    }


def make_faults(run, table):
    """Write the quarantine and ingest's facts."""
    faults = [
        ("train/ID_6431af929.dcm", "ID_6431af929", "train", "header", "<script>alert(1)</script> & \"no header\""),
        ("test/x.dcm", table.index[-1], "test", "pixels", f"{SECRET.replace(' ', '_')}/rsna/test/x.dcm: 12 of 524288 bytes"),
    ]
    columns = ["path", "slice_id", "split", "kind", "reason"]
    pd.DataFrame(faults, columns=columns).to_csv(run.quarantine, index=False)
    splits = table["split"].value_counts()
    facts = {"train_slices": int(splits["train"]), "test_slices": int(splits["test"]), "train_studies": 15, "test_studies": 5}
    facts |= {"quarantined": 1, "unreadable": 1, "repaired_intercept": 3, "duplicate_label_rows": 4}
    facts |= {"labels_without_file": 0, "unlabelled": 0, "patients_in_both_sets": ["ID_00000000"], "ignored_files": 2}
    rundir.write_json(run.ingest, facts)


def make_stage_one(rng, run, train, test):
    """Write the learning curves and the predictions of the CNNs; one slice is unreadable."""
    for model, skill in zip(MODELS, (0.9, 1.0), strict=True):
        oof = pd.DataFrame(make_probabilities(rng, train[list(LABELS)].to_numpy(), skill), train.index, list(LABELS))
        oof.iloc[3] = np.nan
        rundir.write_table(run.oof(model), oof.astype(np.float32))
        for k in range(FOLDS):
            epochs = np.arange(1, 5)
            falling = 0.1 + 0.4 / epochs + rng.normal(0, 0.01, 4)
            rows = zip(epochs, falling, falling + 0.02 * epochs, strict=True)
            curve = [{"epoch": e, "lr": 1e-3, "train_loss": t, "held_out_loss": h, "seconds": 9.0} for e, t, h in rows]
            rundir.write_json(run.fold(model, k) / "curve.json", curve)
            p = make_probabilities(rng, test[list(LABELS)].to_numpy(), 1)
            rundir.write_table(run.fold(model, k) / "test.parquet", pd.DataFrame(p, test.index, list(LABELS)))


def make_stage_two(rng, run, train, test):
    """Write stage two: subdural is stacked in two of three folds; epidural has no positives, so that its AUC is undefined."""
    y = train[list(LABELS)].to_numpy(float)
    made = {}
    for name, skill in (("calibrated", 1.1), ("oof", 1.6)):
        made[name] = make_probabilities(rng, y, skill)
        rundir.write_table(run.stage2 / f"{name}.parquet", pd.DataFrame(made[name], train.index, list(LABELS)))
    for name in ("calibrated_test", "test"):
        p = make_probabilities(rng, test[list(LABELS)].to_numpy(), 1.2)
        rundir.write_table(run.stage2 / f"{name}.parquet", pd.DataFrame(p, test.index, list(LABELS)))
    cnns = {m: metrics.score_table(y, rundir.read_table(run.oof(m)).fillna(0.2).to_numpy()) for m in MODELS}
    patients = train["patient_id"].to_numpy()
    scores = {"rows": len(y), "patients": len(set(patients)), "models": cnns}
    scores |= {"calibrated": metrics.score_table(y, made["calibrated"]), "stage_two": metrics.score_table(y, made["oof"])}
    scores |= {"gain": metrics.compare(y, made["calibrated"], made["oof"], patients)}
    rundir.write_json(run.stage2 / "scores.json", scores)
    names = [f"{label}_{place}" for label in LABELS for place in ("z-2", "z-1", "z+0", "z+1", "z+2", "study_max")]
    shares = pd.DataFrame(rng.dirichlet(np.full(len(names), 0.3), len(LABELS)).T, names, list(LABELS)).rename_axis("feature")
    rundir.write_table(run.stage2 / "importances.parquet", shares.assign(epidural=0.0))
    why = "fewer than 10 positives <b>in all</b>"
    configs = {label: [{"fold": k, "stacked": True, "why": "", "rounds": 90} for k in range(FOLDS)] for label in LABELS}
    configs["epidural"] = [{"fold": k, "stacked": False, "why": why, "rounds": 0} for k in range(FOLDS)]
    configs["subdural"][1] |= {"stacked": False, "why": "calibrated stage one was as good on the inner folds"}
    rundir.write_json(run.stage2 / "configs.json", configs)


class Page(html.parser.HTMLParser):
    """What is on a page; refuses a tag that closes what is not open."""

    def __init__(self, text):
        super().__init__()
        self.open, self.sections, self.headings, self.links, self.images, self.ids = [], [], [], [], [], []
        self.rows, self.scopes, self.lang, self.words = [], [], None, []
        self.feed(text)
        self.close()
        assert self.open == [], f"left open: {self.open}"

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.links += [attrs[key] for key in ("src", "href") if key in attrs]
        self.ids += [attrs["id"]] if "id" in attrs else []
        if tag == "html":
            self.lang = attrs["lang"]
        elif tag == "section":
            self.sections.append(attrs["id"])
        elif tag in ("h1", "h2", "h3"):
            self.headings.append(int(tag[1]))
        elif tag == "img":
            self.images.append(attrs)
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.scopes += [attrs.get("scope")] if tag == "th" else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)
            if {"td", "th"} & set(self.open):
                self.rows[-1][-1] += data

    def row(self, head):
        """The cells of the first row of a table's body that begins with `head`."""
        return next([cell.strip() for cell in row] for row in self.rows if len(row) > 2 and row[0].strip() == head)


class FakePixels:
    """Stands for ct.pixels.PixelCache: a slice's number is its brightness."""

    size = 32

    def __init__(self, folder):
        self.folder = folder

    def read(self, slice_numbers):
        """HU, int16 (n, 32, 32)."""
        return np.repeat(np.asarray(slice_numbers, np.int16) % 80, 32 * 32).reshape(-1, 32, 32)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A whole run, with a stand-in for the pixels."""
    made = make_run(tmp_path / "runs" / "demo")
    made.pixels.mkdir()
    monkeypatch.setattr(report.page, "PixelCache", FakePixels)
    return made


def page_of(run):
    """The text of the run's report and its parsed page."""
    path = write_report(run)
    assert path == run.report
    text = path.read_text()
    return text, Page(text)
