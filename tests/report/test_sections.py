"""The sections of the report: every number is the one in the artifacts."""

import numpy as np
from fabricated_run import FOLDS, MODELS
from parsed_page import page_of, signed

from ct import metrics
from ct.labels import LABELS, SUBTYPES
from ct.storage.file_formats import read_json, read_table, write_json, write_table
from report.run_artifacts import read_run
from report.sections.cost_and_provenance import different_environments
from report.sections.example_studies import example_series
from report.sections.learning_and_tuning import best_so_far
from report.sections.reliability_roc_confusion import confusion

pytest_plugins = "report_fixtures"


def test_the_verdict_depends_on_the_interval_of_the_gain(report_run):
    text, _ = page_of(report_run)
    scores = read_json(report_run.stage2 / "scores.json")
    assert f'<span class="big">{scores["stage_two"]["weighted"]["loss"]:.4f}</span>' in text
    assert "Stage two is better" in text and signed(scores["gain"]["weighted"]["low"]) in text
    scores["gain"]["weighted"] = {"gain": -0.01, "low": -0.02, "high": -0.001}
    write_json(report_run.stage2 / "scores.json", scores)
    assert "Stage two is <b>worse</b>" in page_of(report_run)[0]
    scores["gain"]["weighted"] = {"gain": 0.01, "low": -0.02, "high": 0.03}
    write_json(report_run.stage2 / "scores.json", scores)
    assert (
        "neither clearly better nor clearly worse" in page_of(report_run)[0]
        and "Better than stage two" not in text
    )
    scores["models"]["vgg"]["weighted"]["loss"] = 0.0
    write_json(report_run.stage2 / "scores.json", scores)
    assert "Better than stage two: vgg alone." in page_of(report_run)[0]


def test_one_patient_has_no_verdict_and_no_interval(report_run):
    scores = read_json(report_run.stage2 / "scores.json")
    tables = [*scores["models"].values(), scores["calibrated"], scores["stage_two"]]
    tables += [scores["gain"], *(step["gain"] for step in scores["ladder"])]
    for row in (row for table in tables for row in table.values()):
        row |= {"low": None, "high": None}
    scores |= {"patients": 1, "rows": 1}
    write_json(report_run.stage2 / "scores.json", scores)
    text, page = page_of(report_run)
    assert "one patient is too few for an interval" in text and "1 slice of 1 patient." in text
    assert "Stage two is better" not in text and ">None<" not in text
    assert all(page.row(label)[4] == "no interval" for label in ("weighted", *LABELS))


def test_the_table_of_scores_is_scores_json(whole):
    """Every number, to four decimals."""
    _, page, run = whole
    scores = read_json(run.stage2 / "scores.json")
    for label in ("weighted", *LABELS):
        stage_one, stage_two, gain = (
            scores["calibrated"][label],
            scores["stage_two"][label],
            scores["gain"][label],
        )
        row = page.row(label)
        assert row[1:3] == [f"{stage_one['loss']:.4f}", f"{stage_two['loss']:.4f}"]
        assert row[3:5] == [
            signed(gain["gain"]),
            f"{signed(gain['low'])} to {signed(gain['high'])}",
        ]
        if label != "weighted":
            assert row[5:7] == [
                f"{s['auc']:.4f}" if s["auc"] is not None else "undefined"
                for s in (stage_one, stage_two)
            ]
            assert row[7] == str(stage_two["positives"])
    assert page.row("epidural")[5:7] == ["undefined", "undefined"]


def test_a_label_that_is_not_stacked_has_its_reason(whole):
    """One is dropped in all folds, one in some; the others have no reason."""
    _, page, _ = whole
    notes = [" ".join(row[0].split()) for row in page.rows if len(row) == 1]
    assert notes == [
        "epidural: not stacked: fewer than 10 positives <b>in all</b>",
        "subdural: stacked in 2 of 3 folds: calibrated stage one was as good on the inner folds",
    ]


def test_reasons_that_differ_are_listed_by_fold(report_run):
    configs = read_json(report_run.stage2 / "configs.json")
    for config, why in zip(configs["any"], ("too few", "no gain", "too few"), strict=True):
        config |= {"stacked": False, "why": why}
    write_json(report_run.stage2 / "configs.json", configs)
    _, page = page_of(report_run)
    note = next(" ".join(row[0].split()) for row in page.rows if len(row) == 1)
    assert note == "any: not stacked: reasonsfold 0, 2: too fewfold 1: no gain"


def test_the_reason_of_the_blend_counts(report_run):
    """Not that of the tuning of one component."""
    scores = read_json(report_run.stage2 / "scores.json")
    facts = {
        label: [{"fold": k, "stacked": label != "any", "why": "no gain"} for k in range(FOLDS)]
        for label in LABELS
    }
    write_json(report_run.stage2 / "scores.json", {**scores, "blend": facts})
    notes = [" ".join(row[0].split()) for row in page_of(report_run)[1].rows if len(row) == 1]
    assert notes == ["any: not stacked: no gain"]


def test_the_ablation_has_a_row_for_each_component(report_run):
    """Losses, the gain with its interval, and what it was tuned on.

    A run without an ablation has no table.
    """
    _, page = page_of(report_run)
    scores = read_json(report_run.stage2 / "scores.json")
    for name, part in (("CNNs", "calibrated"), ("blend", "stage_two")):
        row = page.row(f"{name} tuned: what {name} needs")
        assert row[1] == f"{scores[part]['weighted']['loss']:.4f}"
        assert row[3:] == [f"{scores[part][label]['loss']:.4f}" for label in LABELS]
    gain = scores["gain"]["weighted"]
    blend = page.row("blend tuned: what blend needs")
    assert blend[2] == f"{signed(gain['gain'])} {signed(gain['low'])} to {signed(gain['high'])}"
    del scores["ladder"]
    write_json(report_run.stage2 / "scores.json", scores)
    assert not any(row[0].startswith("blend tuned") for row in page_of(report_run)[1].rows)


def test_each_cnn_has_its_loss_auc_and_weight(report_run):
    """An older run, or one of equal weights by its recipe, has no weights."""
    scores = read_json(report_run.stage2 / "scores.json")["models"]
    for columns in (3, 2):
        page = page_of(report_run)[1]
        row = next(r for r in page.rows if r[0].strip() == "subdural" and len(r) == 1 + 2 * columns)
        expected = []
        for model, weight in zip(MODELS, ("0.75", "0.25"), strict=True):
            of_label = scores[model]["subdural"]
            cells = [f"{of_label['loss']:.4f}", f"{of_label['auc']:.4f}", weight]
            expected += cells[:columns]
        assert [cell.strip() for cell in row[1:]] == expected
        report_run.cnn_weights.unlink(missing_ok=True)


def test_strips_are_whole_series_in_order(report_run):
    """Series of train, among them the worst, a negative one and positive ones."""
    art = read_run(report_run)
    series = example_series(art)
    assert 4 <= len(series) <= 6
    assert len({ids[0] for _, ids in series}) == len(series)
    for reason, ids in series:
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
    worst = next(ids for reason, ids in series if "greatest loss" in reason)
    assert worst[0] == art.labelled.index[8 * losses.argmax()]


def test_confusion_counts_by_hand(report_run):
    """Predicted as no bleed where `any` is below a half, whatever the subtypes are."""
    art = read_run(report_run)
    truth, predictions = art.labels_and_predictions(("final",))
    kind, rows = confusion(art)[-1]
    assert kind == "final" and [name for name, _, _ in rows] == ["no bleed", *SUBTYPES, "several"]
    tally = {}
    for y, p in zip(truth, predictions["final"], strict=True):
        bleeds = [label for label, value in zip(LABELS, y, strict=True) if value and label != "any"]
        row = bleeds[0] if len(bleeds) == 1 else "several" if bleeds else "no bleed"
        predicted = "no bleed" if p[0] < 0.5 else SUBTYPES[max(range(5), key=lambda j: p[1 + j])]
        tally[row, predicted] = tally.get((row, predicted), 0) + 1
    assert sum(slices for _, slices, _ in rows) == len(truth)
    for name, slices, shares in rows:
        expected = [tally.get((name, p), 0) / max(slices, 1) for p in ("no bleed", *SUBTYPES)]
        np.testing.assert_allclose(shares, expected if slices else [])
    assert dict((name, shares) for name, _, shares in rows)["epidural"] == []


def test_the_best_so_far_of_each_search_is_drawn(whole):
    """One line a fold, which rises; a pruned trial does not move it."""
    text, _, run = whole
    section = text[text.index('<section id="tuning"') :].partition("</section>")[0]
    assert section.count("<svg") == 5 and section.count('<g class="held-out"') == 5 * FOLDS
    assert "Tuning of subdural: best gain" in section and "Tuning of epidural" not in section
    trials = read_table(run.stage2 / "trials.parquet").query("label == 'any' and fold == 1")
    at, best = best_so_far(trials)[1]
    assert at == list(range(12)) and best == sorted(best)
    losses = trials["loss"].to_numpy()
    assert (
        best[2] == best[1] == -losses[:2].min()
        and best[-1] == -losses[trials["state"] == "complete"].min()
    )


def test_importance_of_the_settings_and_the_chosen_ones(whole):
    """In percent, a dash where a label has none; each choice once, with folds and gain."""
    text, page, _ = whole
    assert page.row("rate")[1:] == ["30", "–", "30", "30", "30", "30"] and page.row("L2")[1] == "1"
    rows = [[cell.strip() for cell in row] for row in page.rows]
    settings = ["context", "0.05", "7", "20", "0.4", "0.8", "10", "90", "12"]
    assert ["any", "0, 1, 2", *settings, "+0.0032"] in rows
    assert ["subdural", "0, 2", *settings, "+0.0032"] in rows
    assert ["subdural", "1", *settings, "+0.0032 not used"] in rows
    assert ["epidural", "0, 1, 2", "not tuned: fewer than 10 positives <b>in all</b>"] in rows
    assert "any, fold 1: 8 completed trials, fewer than 10" in text


def test_a_run_without_trials(report_run):
    """Nothing was tuned, or an earlier version has written no trials."""
    configs = read_json(report_run.stage2 / "configs.json")
    write_json(report_run.stage2 / "configs.json", dict.fromkeys(LABELS, configs["epidural"]))
    trials = read_table(report_run.stage2 / "trials.parquet")
    write_table(report_run.stage2 / "trials.parquet", trials[:0])
    assert "No label was tuned: fewer than 10 positives &lt;b&gt;in all" in page_of(report_run)[0]
    (report_run.stage2 / "trials.parquet").unlink()
    assert "This run has no record of its trials." in page_of(report_run)[0]


def test_few_trials_give_no_importances(report_run):
    write_json(
        report_run.stage2 / "tuning.json",
        {label: {"importances": {}, "folds": 0, "why": {}} for label in LABELS},
    )
    assert "Unknown: no search has enough trials." in page_of(report_run)[0]


def test_features_are_the_twenty_greatest(whole):
    """Sorted by the mean over the labels, first by SHAP, then by gain, with description."""
    text, page, run = whole
    rows = [[" ".join(cell.split()) for cell in row] for row in page.rows]
    features = [row for row in rows if row[0].endswith(" is")]
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
    assert features == expected and len(features) == 40
    assert text.index("By SHAP") < text.index("By gain")


def test_folds_and_prevalence(whole):
    _, page, run = whole
    table = read_table(run.slices).join(read_table(run.folds))
    rows = table[(table["split"] == "train") & (table["fold"] == 1)]
    shares = [f"{100 * rows[label].mean():.2f} %" for label in LABELS]
    assert page.row("fold 1")[1:] == [str(len(rows)), str(rows["patient_id"].nunique()), *shares]
    final = read_table(run.stage2 / "test.parquet")["any"].mean()
    row = next(r for r in page.rows if r[0].strip() == "any" and len(r) == 5 and "%" in r[1])
    assert row[4].strip() == f"{100 * final:.2f} %"


def test_patients_in_both_sets_are_listed_and_quarantined_files_counted(whole):
    text, page, _ = whole
    assert "<code>ID_00000000</code>" in text and "finished 2026-01-02 03:04 UTC" in text
    assert "<code>0123abc+</code> (+: with uncommitted changes)." in text
    assert "<b>1</b> train, header does not read: left out" in text
    assert "<b>2</b> files in quarantine" in text
    assert (
        "Geometry of the 20 series" in text
        and "<dt>series tilted by more than 1 degree</dt><dd>13</dd>" in text
    )


def test_the_cost_of_each_stage(whole):
    """Time, memory, disk and their total; engine and device; digests of the data and no others."""
    text, page, _ = whole
    finished = "2026-01-02 03:04 UTC"
    assert page.row("folds")[1:] == ["0.2 s", "512 MB", "1.5 GB", "", "", finished]
    device = "cuda, RTX or cpu, bf16"
    train = ["13 min 20 s", "512 MB", "1.5 GB", "ray, 4 at once", device, finished]
    assert page.row("train")[1:] == train
    assert page.row("tune")[4:6] == ["local", ""]
    assert page.row("total")[1:4] == ["17 min 26 s", "512 MB", "12.0 GB"]
    assert "<code>ingest0123</code>" in text and "train0123" not in text


def test_predictions_of_a_fold_on_different_devices_are_remarked(report_run):
    """Those of other folds and CNNs, and of jobs without a receipt, are not."""
    remark = "different devices or in different precision"
    gpu, cpu = job_receipt("cuda, RTX", "bf16"), job_receipt("cpu", "fp32")
    pairs = {0: (gpu, cpu), 1: (gpu, gpu), 2: (gpu, cpu)}
    for k, (train, predict) in pairs.items():
        write_json(report_run.fold("resnet", k) / "train.json", train)
        write_json(report_run.fold("resnet", k) / "predict.json", predict)
    write_json(report_run.fold("vgg", 0) / "train.json", gpu)
    write_json(report_run.fold("vgg", 1) / "train.json", gpu)
    write_json(report_run.fold("vgg", 1) / "predict.json", job_receipt("cuda, RTX", "fp16"))
    assert different_environments(read_run(report_run)) == [
        "resnet folds 0, 2: cuda, RTX in bf16, then cpu in fp32",
        "vgg fold 1: cuda, RTX in bf16, then cuda, RTX in fp16",
    ]
    text, _ = page_of(report_run)
    assert f"{remark}: resnet folds 0, 2: cuda, RTX in bf16" in text
    for cnn, k in (("resnet", 0), ("resnet", 2), ("vgg", 1)):
        write_json(report_run.fold(cnn, k) / "predict.json", gpu)
    text, _ = page_of(report_run)
    assert remark not in text


def job_receipt(device, precision):
    """The receipt of a job of one CNN and fold."""
    values = {"recipe": {}, "read": {}, "made": {}}
    return values | {"device": device, "precision": precision}
