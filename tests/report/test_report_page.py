"""The report of a fabricated run: every section, every number, and what may go wrong."""

import html.parser
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from test_content_security import check

import report.load
from ct import metrics
from ct.errors import InputError
from ct.labels import LABELS, SUBTYPES
from ct.run_dir import RunDir
from ct.slices import COLUMNS
from ct.storage.atomic_write import discard
from ct.storage.file_formats import read_json, read_table, write_json, write_table, write_yaml
from report import load as read
from report import series_strips as strips
from report import write_report, write_study
from report.sections import stage_scores as scores
from report.sections import tuning_history as tuning

FOLDS = 3
MODELS = ("resnet", "vgg")
SECTIONS = [
    "summary",
    "labels",
    "studies",
    "study-browser",
    "calibration",
    "curves",
    "confusion",
    "learning",
    "tuning",
    "features",
    "folds",
    "test-set",
]
SECTIONS += ["data", "cost", "provenance"]
TAKEN = {
    "scope": "context",
    "learning_rate": 0.05,
    "num_leaves": 7,
    "min_data_in_leaf": 20,
    "feature_fraction": 0.4,
}
TAKEN |= {"bagging_fraction": 0.8, "lambda_l2": 10.0}
SHARES = dict(zip(TAKEN, (0.4, 0.3, 0.1, 0.1, 0.05, 0.04, 0.01), strict=True))
VOID = {"meta", "img", "br", "hr", "link", "input"}
SECRET = "/home/somebody/secret place"


def make_slices(rng, studies, slices):
    """A slice table: a third as many test studies as train studies; the first test patient is also
    in train.
    """
    rows = []
    for number in range(studies + studies // 3):
        split = "train" if number < studies else "test"
        patient = 0 if number == studies else number
        bleeds = {
            s
            for s, share in zip(SUBTYPES, (0, 0.4, 0.3, 0.3, 0.5), strict=True)
            if rng.random() < share
        }
        centre, width = rng.uniform(0.3, 0.8), rng.uniform(0.1, 0.3)
        for place in range(slices):
            hit = abs(place / slices - centre) < width
            found = {s: float(hit and s in bleeds) for s in SUBTYPES}
            labels = (
                {"any": max(found.values()), **found}
                if split == "train"
                else dict.fromkeys(LABELS, np.nan)
            )
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
    """Probabilities (n, 6) that know the truth, or its prevalence where it is NaN, the better the
    greater `skill` is.
    """
    known = np.nan_to_num(truth, nan=0.2)
    logit = skill * (known - 0.6) * 4 + rng.normal(0, 1, truth.shape)
    return 1 / (1 + np.exp(-logit))


def make_run(root, studies=15, slices=8, seed=0):
    """Write all the artifacts of a run except the pixels, and return its RunDir."""
    rng = np.random.default_rng(seed)
    run = RunDir(root)
    table = make_slices(rng, studies, slices)
    train, test = (table[table["split"] == split] for split in ("train", "test"))
    number = table["patient_id"].str[3:].map(lambda text: int(text, 16))
    fold = (number % FOLDS).where(
        (table["split"] == "train") | number.isin(number[train.index]), -1
    )
    write_table(run.slices, table)
    write_table(run.folds, pd.DataFrame({"fold": fold.astype(np.int8)}))
    write_yaml(run.recipe, make_recipe())
    make_faults(run, table)
    make_stage_one(rng, run, train, test)
    make_stage_two(rng, run, train, test)
    for stage, seconds in zip(read.STAGES, (12.5, 0.2, 800, 90, 4, 130, 9, 0.4), strict=True):
        facts = {
            "stage": stage,
            "seconds": seconds,
            "peak_memory_mb": 512.25,
            "versions": {"numpy": "2.4.6", "torch": "2.9"},
        }
        facts |= {
            "commit": "0123abc+",
            "recipe": {},
            "read": {SECRET: "0a1b", "train files": f"{stage}0123"},
            "made": {
                f"{SECRET}/a": {"digest": "x", "size": 1_500_000_000, "mtime_ns": 1},
                "b": {"digest": "x", "size": 40_000, "mtime_ns": 1},
            },
            "finished": "2026-01-02T03:04:05+00:00",
        }
        write_json(run.receipt(stage), facts)
    return run


def make_recipe():
    """A recipe with absolute paths in it."""
    cnn = {
        "backbone": "resnet18",
        "windows": ["brain", "subdural"],
        "neighbours": True,
        "epochs": 4,
    }
    data = {
        "source": f"{SECRET}/rsna",
        "labels": f"{SECRET}/train.csv",
        "sample": None,
        "missing": "refuse",
    }
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
        (
            "stage_2_train/ID_6431af929.dcm",
            "ID_6431af929",
            "train",
            "header",
            '<script>alert(1)</script> & "no header"',
        ),
        (
            "test/x.dcm",
            table.index[-1],
            "test",
            "pixels",
            f"{SECRET.replace(' ', '_')}/rsna/test/x.dcm: 12 of 524288 bytes",
        ),
    ]
    columns = ["path", "slice_id", "split", "kind", "reason"]
    pd.DataFrame(faults, columns=columns).to_csv(run.quarantine, index=False)
    splits = table["split"].value_counts()
    facts = {
        "train_slices": int(splits["train"]),
        "test_slices": int(splits["test"]),
        "train_studies": 15,
        "test_studies": 5,
    }
    facts |= {"quarantined": 1, "unreadable": 1, "repaired_intercept": 3, "duplicate_label_rows": 4}
    facts |= {
        "labels_without_file": 0,
        "unlabelled": 0,
        "patients_in_both_sets": ["ID_00000000"],
        "their_test_studies": ["ID_s7"],
        "geometry": {"series": 20, "tilted": 13, "gaps": 0},
    }
    write_json(run.ingest, facts)


def make_stage_one(rng, run, train, test):
    """Write the learning curves and the predictions of the CNNs; one slice is unreadable."""
    for model, skill in zip(MODELS, (0.9, 1.0), strict=True):
        oof = pd.DataFrame(
            make_probabilities(rng, train[list(LABELS)].to_numpy(), skill),
            train.index,
            list(LABELS),
        )
        oof.iloc[3] = np.nan
        write_table(run.oof(model), oof.astype(np.float32))
        for k in range(FOLDS):
            epochs = np.arange(1, 5)
            falling = 0.1 + 0.4 / epochs + rng.normal(0, 0.01, 4)
            rows = zip(epochs, falling, falling + 0.02 * epochs, strict=True)
            curve = [
                {"epoch": e, "lr": 1e-3, "train_loss": t, "held_out_loss": h, "seconds": 9.0}
                for e, t, h in rows
            ]
            write_json(run.fold(model, k) / "curve.json", curve)
            p = make_probabilities(rng, test[list(LABELS)].to_numpy(), 1)
            write_table(
                run.fold(model, k) / "test.parquet", pd.DataFrame(p, test.index, list(LABELS))
            )


def make_stage_two(rng, run, train, test):
    """Write stage two: subdural is stacked in two of three folds; epidural has no positives, so
    that its AUC is undefined.
    """
    y = train[list(LABELS)].to_numpy(float)
    made = {}
    for name, skill in (("calibrated", 1.1), ("oof", 1.6)):
        made[name] = make_probabilities(rng, y, skill)
        write_table(
            run.stage2 / f"{name}.parquet", pd.DataFrame(made[name], train.index, list(LABELS))
        )
    for name in ("calibrated_test", "test"):
        p = make_probabilities(rng, test[list(LABELS)].to_numpy(), 1.2)
        write_table(run.stage2 / f"{name}.parquet", pd.DataFrame(p, test.index, list(LABELS)))
    patients = train["patient_id"].to_numpy()
    cnns = {
        m: metrics.score_table(y, read_table(run.oof(m)).fillna(0.2).to_numpy(), patients)
        for m in MODELS
    }
    scores = {"rows": len(y), "patients": len(set(patients)), "models": cnns}
    scores |= {"calibrated": metrics.score_table(y, made["calibrated"], patients)}
    scores |= {"stage_two": metrics.score_table(y, made["oof"], patients)}
    scores |= {"gain": metrics.gain_table(y, made["calibrated"], made["oof"], patients)}
    scores["ladder"] = [
        make_rung(name, scores, part)
        for name, part in (("CNNs", "calibrated"), ("blend", "stage_two"))
    ]
    write_json(run.stage2 / "scores.json", scores)
    names = [
        f"{label}_{place}"
        for label in LABELS
        for place in ("z-2", "z-1", "z+0", "z+1", "z+2", "study_max")
    ]
    shares = pd.DataFrame(
        rng.dirichlet(np.full(len(names), 0.3), len(LABELS)).T, names, list(LABELS)
    ).rename_axis("feature")
    write_table(run.stage2 / "importances.parquet", shares.assign(epidural=0.0))
    write_table(
        run.stage2 / "contributions.parquet", shares.iloc[::-1].assign(any=shares["any"].to_numpy())
    )
    write_json(run.stage2 / "features" / "names.json", {name: f"what {name} is" for name in names})
    make_tuning(rng, run)


def make_tuning(rng, run):
    """Write twelve trials of each label and fold but of epidural, every third of them pruned, and
    what was taken.
    """
    why = "fewer than 10 positives <b>in all</b>"
    rows = [
        {
            "label": label,
            "fold": k,
            "trial": n,
            "state": "pruned" if n % 3 == 2 else "complete",
            "loss": loss,
            "inner_folds": 2,
        }
        for label in LABELS
        for k in range(FOLDS)
        for n, loss in enumerate(rng.normal(-0.002, 0.002, 12))
        if label != "epidural"
    ]
    write_table(run.stage2 / "trials.parquet", pd.DataFrame(rows))
    found = {label: {"importances": SHARES, "folds": FOLDS, "why": {}} for label in LABELS}
    found["epidural"] = {
        "importances": {},
        "folds": 0,
        "why": dict.fromkeys(map(str, range(FOLDS)), why),
    }
    found["any"]["why"] = {"1": "8 completed trials, fewer than 10"}
    write_json(run.stage2 / "tuning.json", found)
    tuned = {"params": TAKEN, "trials": 12, "inner_loss": 0.0471, "inner_calibrated": 0.0503}
    configs = {
        label: [
            {"fold": k, "stacked": True, "why": "", "rounds": 90, **tuned} for k in range(FOLDS)
        ]
        for label in LABELS
    }
    nothing = {"params": {}, "trials": 0, "inner_loss": None, "inner_calibrated": None}
    configs["epidural"] = [
        {"fold": k, "stacked": False, "why": why, "rounds": 0, **nothing} for k in range(FOLDS)
    ]
    configs["subdural"][1] |= {
        "stacked": False,
        "why": "calibrated stage one was as good on the inner folds",
    }
    write_json(run.stage2 / "configs.json", configs)


def make_rung(name, scores, part):
    """A rung of the ladder."""
    names = ("weighted", *LABELS)
    nothing = dict.fromkeys(names, {"gain": 0.0, "low": 0.0, "high": 0.0})
    gain = nothing if part == "calibrated" else scores["gain"]
    loss = {label: scores[part][label]["loss"] for label in names}
    return {
        "component": name.lower(),
        "name": name,
        "tuned_on": f"what {name} needs",
        "loss": loss,
        "gain": gain,
    }


class Page(html.parser.HTMLParser):
    """What is on a page; refuses a tag that closes what is not open."""

    def __init__(self, text):
        super().__init__()
        self.open, self.sections, self.headings, self.links, self.images, self.ids = (
            [],
            [],
            [],
            [],
            [],
            [],
        )
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
        return next(
            [cell.strip() for cell in row]
            for row in self.rows
            if len(row) > 2 and row[0].strip() == head
        )


class FakePixels:
    """Stands for ct.pixel_cache.reader.PixelCache: a slice's number is its brightness."""

    size = 32

    def __init__(self, folder):
        self.folder = folder

    def read(self, slice_numbers):
        """HU, int16 (n, 32, 32)."""
        return np.repeat(np.asarray(slice_numbers, np.int16) % 80, 32 * 32).reshape(-1, 32, 32)


@pytest.fixture(scope="module")
def fabricated(tmp_path_factory):
    """A whole run, made once; nobody writes to it."""
    return make_run(tmp_path_factory.mktemp("report") / "demo")


@pytest.fixture
def run(fabricated, tmp_path, monkeypatch):
    """A copy of the whole run, with a stand-in for the pixels."""
    monkeypatch.setattr(report.load, "PixelCache", FakePixels)
    return with_pixels(fabricated, tmp_path)


@pytest.fixture(scope="module")
def whole(fabricated, tmp_path_factory):
    """The text of the whole run's report, its parsed page, and the run; made once, nobody writes to
    it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report.load, "PixelCache", FakePixels)
        run = with_pixels(fabricated, tmp_path_factory.mktemp("whole"))
        return *page_of(run), run


def with_pixels(fabricated, folder):
    shutil.copytree(fabricated.root, folder / "runs" / "demo")
    made = RunDir(folder / "runs" / "demo")
    made.pixels.mkdir()
    return made


def page_of(run):
    """The text of the run's report and its parsed page."""
    path = write_report(run)
    assert path == run.report
    text = path.read_text()
    return text, Page(text)


def test_its_policy_allows_its_own_script_and_style_alone(whole, run):
    check(whole[0])
    study = read_table(run.slices)["study_id"].iloc[0]
    check(write_study(run, study).read_text())


def signed(value):
    """A gain as the page shows it, with a minus that is as wide as a plus."""
    return f"{value:+.4f}".replace("-", "−")


def test_the_page_is_whole(whole):
    """Every section is there once and in order, tags are balanced, headings do not skip a level,
    ids are unique.
    """
    text, page, run = whole
    assert page.sections == SECTIONS
    assert page.lang == "en" and page.headings[0] == 1 and page.headings.count(1) == 1
    assert all(
        after <= before + 1 for before, after in zip(page.headings, page.headings[1:], strict=False)
    )
    assert len(page.ids) == len(set(page.ids))
    assert set(page.scopes) <= {"row", "col", "colgroup"} and "row" in page.scopes
    assert (
        {link[1:] for link in page.links if link.startswith("#") and "=" not in link} - {"browser"}
        == set(SECTIONS) - {"summary"}
        <= set(page.ids)
    )
    assert "has not run" not in text and "Not a medical device" in text
    assert "out of fold: scored patients were never seen by the models or the tuning" in text


def test_nothing_outside_is_asked_for(whole):
    """All pictures and scripts lie in the page, and pictures have an alternative text."""
    text, page, _ = whole
    assert all(link.startswith(("#", "data:image/jpeg;base64,")) for link in page.links)
    assert not re.search(
        r"<script[^>]+src|@import|url\(|fetch\(|https?://(?!www.w3.org/2000/svg)", text
    )
    assert page.images and all(image["alt"] for image in page.images)
    assert len(text) < 6e6


def test_the_table_says_what_the_scores_say(whole):
    """Every figure of the table is that of scores.json, to four decimals."""
    _, page, run = whole
    scores = read_json(run.stage2 / "scores.json")
    for label in ("weighted", *LABELS):
        before, after, gain = (
            scores["calibrated"][label],
            scores["stage_two"][label],
            scores["gain"][label],
        )
        row = page.row(label)
        assert row[1:3] == [f"{before['loss']:.4f}", f"{after['loss']:.4f}"]
        assert row[3:5] == [
            signed(gain["gain"]),
            f"{signed(gain['low'])} to {signed(gain['high'])}",
        ]
        if label != "weighted":
            assert row[5:7] == [
                f"{s['auc']:.4f}" if s["auc"] is not None else "undefined" for s in (before, after)
            ]
            assert row[7] == str(after["positives"])
    assert page.row("epidural")[5:7] == ["undefined", "undefined"]


def test_the_ladder_has_a_row_for_each_component(run):
    """Losses per label and weighted, the gain with its interval, and what it was tuned on; a run
    without one has no table.
    """
    _, page = page_of(run)
    scores = read_json(run.stage2 / "scores.json")
    for name, part in (("CNNs", "calibrated"), ("blend", "stage_two")):
        row = page.row(f"{name} tuned: what {name} needs")
        assert row[1] == f"{scores[part]['weighted']['loss']:.4f}"
        assert row[3:] == [f"{scores[part][label]['loss']:.4f}" for label in LABELS]
    gain = scores["gain"]["weighted"]
    blend = page.row("blend tuned: what blend needs")
    assert blend[2] == f"{signed(gain['gain'])} {signed(gain['low'])} to {signed(gain['high'])}"
    del scores["ladder"]
    write_json(run.stage2 / "scores.json", scores)
    assert not any(row[0].startswith("blend tuned") for row in page_of(run)[1].rows)


def test_the_blend_says_why_a_label_is_not_stacked(run):
    """It decides; what tuning thought of one component does not count."""
    scores = read_json(run.stage2 / "scores.json")
    facts = {
        label: [{"fold": k, "stacked": label != "any", "why": "in doubt"} for k in range(FOLDS)]
        for label in LABELS
    }
    write_json(run.stage2 / "scores.json", {**scores, "blend": facts})
    notes = [" ".join(row[0].split()) for row in page_of(run)[1].rows if len(row) == 1]
    assert notes == ["any: not stacked: in doubt"]


def test_of_a_database_only_the_kind_is_shown():
    recipe = {"stage2": {"storage": "postgresql://me:secret@host/db"}}
    assert read.without_paths(recipe) == {"stage2": {"storage": "postgresql://…"}}


def test_each_cnn_has_its_scores(whole):
    """The second table holds loss and AUC of each CNN."""
    _, page, run = whole
    scores = read_json(run.stage2 / "scores.json")["models"]
    row = next(
        r
        for r in page.rows
        if [c.strip() for c in r[:1]] == ["subdural"] and len(r) == 1 + 2 * len(MODELS)
    )
    expected = [
        f"{scores[model]['subdural'][key]:.4f}" for model in MODELS for key in ("loss", "auc")
    ]
    assert [cell.strip() for cell in row[1:]] == expected


def test_the_first_screen_gives_the_verdict(run):
    """The headline holds final loss, gain and interval, and turns when stage two is worse."""
    text, _ = page_of(run)
    scores = read_json(run.stage2 / "scores.json")
    assert f'<span class="big">{scores["stage_two"]["weighted"]["loss"]:.4f}</span>' in text
    assert "Stage two is better" in text and signed(scores["gain"]["weighted"]["low"]) in text
    scores["gain"]["weighted"] = {"gain": -0.01, "low": -0.02, "high": -0.001}
    write_json(run.stage2 / "scores.json", scores)
    assert "Stage two is <b>worse</b>" in page_of(run)[0]
    scores["gain"]["weighted"] = {"gain": 0.01, "low": -0.02, "high": 0.03}
    write_json(run.stage2 / "scores.json", scores)
    assert "cannot be told apart" in page_of(run)[0] and "Better than stage two" not in text
    scores["models"]["vgg"]["weighted"]["loss"] = 0.0
    write_json(run.stage2 / "scores.json", scores)
    assert "Better than stage two: vgg alone." in page_of(run)[0]


def test_labels_that_are_not_stacked_say_why(whole):
    """A label dropped in all folds and one dropped in some give their reasons; the others have
    none.
    """
    _, page, _ = whole
    notes = [" ".join(row[0].split()) for row in page.rows if len(row) == 1]
    assert notes == [
        "epidural: not stacked: fewer than 10 positives <b>in all</b>",
        "subdural: stacked in 2 of 3 folds: calibrated stage one was as good on the inner folds",
    ]


def test_reasons_that_differ_are_listed_by_fold(run):
    """They unfold, as there may be one a fold."""
    configs = read_json(run.stage2 / "configs.json")
    for found, why in zip(configs["any"], ("too few", "no gain", "too few"), strict=True):
        found |= {"stacked": False, "why": why}
    write_json(run.stage2 / "configs.json", configs)
    _, page = page_of(run)
    note = next(" ".join(row[0].split()) for row in page.rows if len(row) == 1)
    assert note == "any: not stacked: whyfold 0, 2: too fewfold 1: no gain"


def test_text_from_outside_is_escaped(whole):
    """A reason that holds a script stays text."""
    text, page, _ = whole
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<b>in all" not in text
    assert page.row("stage_2_train/ID_6431af929.dcm")[1:] == [
        '<script>alert(1)</script> & "no header"',
        "train",
        "header",
    ]


def test_no_path_of_the_machine_is_shown(whole):
    """Neither the data's folder, nor that of the run, nor those in receipts and reasons."""
    text, _, run = whole
    assert str(run.root.parent) not in text and "somebody" not in text and "/home" not in text
    assert (
        "source: rsna" in text
        and "labels: train.csv" in text
        and "…/x.dcm: 12 of 524288 bytes" in text
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot open /data/x/y.dcm", "cannot open …/y.dcm"),
        (r"C:\scans\new\y.dcm: no pixels", "…/y.dcm: no pixels"),
        ("train/y.dcm has 1/2 of it", "train/y.dcm has 1/2 of it"),
    ],
)
def test_scrub(text, shown):
    """Absolute paths lose their folders, relative ones and fractions stay."""
    assert read.scrub(text) == shown


def test_a_reason_names_no_other_file_and_quotes_no_tag(run):
    """quarantine.csv says which file a second copy equals; older ones hold what a decoder
    quoted.
    """
    rows = [
        "same SOPInstanceUID as stage_2_train/Jane Doe/a.dcm",
        "cannot be decoded: no value of 'Jane Doe'",
        "empty file",
    ]
    table = pd.DataFrame(
        {
            "path": "stage_2_train/Jane Doe/x",
            "slice_id": list("abc"),
            "split": "train",
            "kind": "header",
        }
    )
    table.assign(reason=rows).to_csv(run.quarantine, index=False)
    text, _ = page_of(run)
    assert (
        "Jane" not in text
        and "same SOPInstanceUID as another file" in text
        and "empty file" in text
    )


def test_patients_in_both_sets_are_named(whole):
    """The test patient who is also in train is named, and the fates of quarantined files are
    counted.
    """
    text, page, _ = whole
    assert "<code>ID_00000000</code>" in text and "finished 2026-01-02 03:04 UTC" in text
    assert "<code>0123abc+</code> (+: files were changed since)." in text
    assert "<b>1</b> train, header does not read: left out" in text
    assert "<b>2</b> files in quarantine" in text
    assert (
        "How the 20 series lie" in text
        and "<dt>series tilted by more than 1 degree</dt><dd>13</dd>" in text
    )


def test_folds_and_prevalence(whole):
    """Sizes and shares are those of the tables."""
    _, page, run = whole
    table = read_table(run.slices).join(read_table(run.folds))
    rows = table[(table["split"] == "train") & (table["fold"] == 1)]
    shares = [f"{100 * rows[label].mean():.2f} %" for label in LABELS]
    assert page.row("fold 1")[1:] == [str(len(rows)), str(rows["patient_id"].nunique()), *shares]
    final = read_table(run.stage2 / "test.parquet")["any"].mean()
    row = next(r for r in page.rows if r[0].strip() == "any" and len(r) == 5 and "%" in r[1])
    assert row[4].strip() == f"{100 * final:.2f} %"


def test_the_best_so_far_of_each_search_is_drawn(whole):
    """A line a fold, which rises, and which a pruned trial does not move."""
    text, _, run = whole
    section = text[text.index('<section id="tuning"') :].partition("</section>")[0]
    assert section.count("<svg") == 5 and section.count('<g class="held-out"') == 5 * FOLDS
    assert "Tuning of subdural: best gain" in section and "Tuning of epidural" not in section
    trials = read_table(run.stage2 / "trials.parquet").query("label == 'any' and fold == 1")
    at, best = tuning._best_so_far(trials)[1]
    assert at == list(range(12)) and best == sorted(best)
    losses = trials["loss"].to_numpy()
    assert (
        best[2] == best[1] == -losses[:2].min()
        and best[-1] == -losses[trials["state"] == "complete"].min()
    )


def test_settings_that_mattered_and_those_that_were_taken(whole):
    """In percent, a dash where a label has none; each choice once, with its folds and its gain."""
    text, page, _ = whole
    assert page.row("rate")[1:] == ["30", "–", "30", "30", "30", "30"] and page.row("L2")[1] == "1"
    rows = [[cell.strip() for cell in row] for row in page.rows]
    settings = ["context", "0.05", "7", "20", "0.4", "0.8", "10", "90", "12"]
    assert ["any", "0, 1, 2", *settings, "+0.0032"] in rows
    assert ["subdural", "0, 2", *settings, "+0.0032"] in rows
    assert ["subdural", "1", *settings, "+0.0032 in doubt: not used"] in rows
    assert ["epidural", "0, 1, 2", "not tuned: fewer than 10 positives <b>in all</b>"] in rows
    assert "any, fold 1: 8 completed trials, fewer than 10" in text


def test_a_run_without_trials(run):
    """Nothing was tuned, or an earlier version has left no trials."""
    configs = read_json(run.stage2 / "configs.json")
    write_json(run.stage2 / "configs.json", dict.fromkeys(LABELS, configs["epidural"]))
    trials = read_table(run.stage2 / "trials.parquet")
    write_table(run.stage2 / "trials.parquet", trials[:0])
    assert "No label was tuned: fewer than 10 positives &lt;b&gt;in all" in page_of(run)[0]
    (run.stage2 / "trials.parquet").unlink()
    assert "This run kept no trials." in page_of(run)[0]


def test_few_trials_tell_no_importances(run):
    write_json(
        run.stage2 / "tuning.json",
        {label: {"importances": {}, "folds": 0, "why": {}} for label in LABELS},
    )
    assert "It cannot be told: no search has trials enough." in page_of(run)[0]


def test_features_are_the_twenty_greatest(whole):
    """Ordered by the mean over the labels, first by SHAP, then by gain, each with its meaning and
    its values.
    """
    text, page, run = whole
    rows = [[" ".join(cell.split()) for cell in row] for row in page.rows]
    found = [row for row in rows if row[0].endswith(" is")]
    expected = []
    for table in ("contributions", "importances"):
        values = read_table(run.stage2 / f"{table}.parquet")
        best = values.loc[values.mean(axis=1).sort_values(ascending=False).index[:20]]
        shown = [
            [f"{100 * value:.1f}" if value >= 0.0005 else "–" for value in row]
            for row in best.to_numpy()
        ]
        expected += [
            [f"{name} what {name} is", *row] for name, row in zip(best.index, shown, strict=True)
        ]
    assert found == expected and len(found) == 40
    assert text.index("By SHAP") < text.index("By gain")


def test_a_run_without_contributions(run):
    """Of an earlier version: neither contributions nor intervals of the losses."""
    (run.stage2 / "contributions.parquet").unlink()
    found = read_json(run.stage2 / "scores.json")
    for score in (*found["models"].values(), found["calibrated"], found["stage_two"]):
        del score["weighted"]["low"], score["weighted"]["high"]
    write_json(run.stage2 / "scores.json", found)
    text, page = page_of(run)
    assert "By SHAP" not in text and "By gain" in text and page.sections == SECTIONS


def test_the_cost_of_each_stage(whole):
    """Seconds, memory and disk, and their sum; the data's digests and no others."""
    text, page, _ = whole
    assert page.row("train")[1:] == ["13 min 20 s", "512 MB", "1.5 GB", "2026-01-02 03:04 UTC"]
    assert page.row("together")[1:4] == ["17 min 26 s", "512 MB", "12.0 GB"]
    assert "<code>ingest0123</code>" in text and "train0123" not in text


def test_confusion_counts_by_hand(run):
    """One subtype, several or none; called nothing where `any` is under a half, whatever the
    subtypes say.
    """
    art = read.read_run(run)
    truth, found = art.opinions(("final",))
    kind, rows = scores.confusion(art)[-1]
    assert kind == "final" and [name for name, _, _ in rows] == ["no bleed", *SUBTYPES, "several"]
    tally = {}
    for y, p in zip(truth, found["final"], strict=True):
        bleeds = [label for label, value in zip(LABELS, y, strict=True) if value and label != "any"]
        row = bleeds[0] if len(bleeds) == 1 else "several" if bleeds else "no bleed"
        called = "no bleed" if p[0] < 0.5 else SUBTYPES[max(range(5), key=lambda j: p[1 + j])]
        tally[row, called] = tally.get((row, called), 0) + 1
    assert sum(slices for _, slices, _ in rows) == len(truth)
    for name, slices, cells in rows:
        expected = [
            tally.get((name, called), 0) / max(slices, 1) for called in ("no bleed", *SUBTYPES)
        ]
        np.testing.assert_allclose([share for share, _ in cells], expected if slices else [])
    assert dict((name, cells) for name, _, cells in rows)["epidural"] == []


def test_stage_one_alone(run):
    """Without stage two its sections say so in a line and the others are as they were."""
    discard(run.stage2)
    for stage in ("features", "tune", "stack", "submit"):
        run.receipt(stage).unlink()
    text, page = page_of(run)
    assert page.sections == SECTIONS
    assert text.count("Stage two has not run yet") >= 4 and "mean of the CNNs" in text
    assert page.images and "stage two</li>" not in text


def test_ingest_alone(run):
    """A run that has only read its data has a page too."""
    for path in (run.stage1, run.stage2, run.folds, run.pixels, run.root / "receipts"):
        discard(path)
    text, page = page_of(run)
    assert page.sections == SECTIONS and not page.images
    for sentence in (
        "No out-of-fold predictions",
        "No learning curves",
        "folds have not been made",
        "No receipts",
    ):
        assert sentence in text


def test_nothing_at_all(tmp_path):
    """An empty folder is refused with the file that lacks."""
    with pytest.raises(InputError, match="recipe.yaml is not there"):
        write_report(RunDir(tmp_path))


@pytest.mark.parametrize("content", ["", "path,slice_id,split,kind,reason\n"])
def test_empty_quarantine(run, content):
    """Nothing in quarantine is said as such."""
    run.quarantine.write_text(content)
    text, _ = page_of(run)
    assert "Empty: every file read." in text and "<b>0</b> files in quarantine" in text


def test_no_test_set_and_unlabelled_slices(run):
    """A run without test slices, and train slices without labels, which no score may count."""
    table = read_table(run.slices)
    table.iloc[:5, table.columns.get_indexer(list(LABELS))] = np.nan
    write_table(run.slices, table[table["split"] == "train"])
    for path in run.root.rglob("*test.parquet"):
        path.unlink()
    text, page = page_of(run)
    assert "No predictions on a test set yet" in text and page.sections == SECTIONS


def test_the_same_run_gives_the_same_bytes(run):
    """And the sections are told as they begin."""
    told = []
    first = write_report(run, told.append).read_bytes()
    assert first == write_report(run).read_bytes()
    assert told[0] == "reading the run" and told[-1] == "browser"


def test_strips_are_whole_series_in_order(run):
    """Each strip is one series of train from bottom to top; the worst, a negative one and some
    positive ones are there.
    """
    art = read.read_run(run)
    found = strips.typical_series(art)
    assert 4 <= len(found) <= 6
    assert len({ids[0] for _, ids in found}) == len(found)
    for reason, ids in found:
        rows = art.slices.loc[ids]
        assert (
            rows["series_id"].nunique() == 1
            and list(rows["place"]) == list(range(8))
            and set(rows["split"]) == {"train"}
        )
        bleeding = [label for label in SUBTYPES if label in reason]
        assert (rows[bleeding] == 1).any().all() and not (
            reason == "no bleeding" and rows["any"].any()
        )
    y, p = (art.labelled[list(LABELS)], art.final.loc[art.labelled.index])
    losses = (metrics.log_loss(y, p) @ metrics.WEIGHTS).reshape(-1, 8).mean(axis=1)
    worst = next(ids for reason, ids in found if "greatest loss" in reason)
    assert worst[0] == art.labelled.index[8 * losses.argmax()]


def test_the_common_opinion_of_the_cnns(run):
    """It is the mean of logits; a test patient who is also in train gets that of the patient's own
    fold alone.
    """
    art = read.read_run(run)
    two = [
        read_table(run.oof(model)).iloc[7].to_numpy(float).clip(1e-5, 1 - 1e-5) for model in MODELS
    ]
    odds = np.sqrt(two[0] / (1 - two[0]) * two[1] / (1 - two[1]))
    np.testing.assert_allclose(art.raw.iloc[7], odds / (1 + odds), rtol=1e-6)
    assert art.raw.iloc[3].isna().all()
    folds = [
        read._mean_of_models({m: read_table(run.fold(m, k) / "test.parquet") for m in MODELS}, 1e-5)
        for k in range(FOLDS)
    ]
    both = art.slices.index[
        (art.slices["split"] == "test") & (art.slices["patient_id"] == "ID_00000000")
    ]
    others = art.raw_test.index.difference(both)
    assert len(both) == 8
    pd.testing.assert_frame_equal(art.raw_test.loc[both], folds[0].loc[both])
    pd.testing.assert_frame_equal(art.raw_test.loc[others], sum(folds).loc[others] / FOLDS)


def test_lane_draws_labels_and_probabilities_in_place():
    """The labelled slice is shaded at its own place, a gap breaks the curve, and 1 is above 0."""
    picture = strips.lane(
        "any", np.array([0, 1, np.nan, 0]), {"final": np.array([0.0, 1.0, np.nan, 0.5])}
    )
    assert picture.count("<rect") == 1 and '<rect x="1" y="0" width="1"' in picture
    assert '<path class="final" d="M0.5 38.0h0L1.5 2.0M3.5 20.0h0"/>' in picture


def test_montage_crops_the_air_around():
    """A bright disc in the dark is cut out of it; a dark picture is kept whole."""
    grid = np.hypot(*np.mgrid[-32:32, -32:32])
    assert strips._extent((grid < 16).max(axis=0)) == slice(15, 50)
    assert strips._extent(np.zeros(64)) == slice(0, 64)
    assert strips.montage(np.zeros((2, 64, 64))).startswith("data:image/jpeg;base64,")
