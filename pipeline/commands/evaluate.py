"""The verb `evaluate`: how good a model is on labelled studies that it never saw."""

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from ct.errors import InputError, number_of
from ct.evaluation.label_figures import figure_table, figures, group_table
from ct.evaluation.patient_draws import Interval
from ct.label_tables.own_labels import read_probabilities
from ct.label_tables.public_data import read_truth, warning_of_competition
from ct.labels import LABELS
from ct.storage.atomic_write import discard, replacing
from ct.storage.file_formats import write_json
from ct.tables.spreadsheet import write_sheet
from pipeline.checked_options import EvaluateOptions
from pipeline.evaluation.predicted_data import evaluate_predictions
from pipeline.evaluation.scored_data import EvaluatedData, evaluate_studies, table_values
from pipeline.progress import Bar, log, progress_bar
from pipeline.receipt import versions
from pipeline.run_lock import check_fresh, opened
from pipeline.scoring.packed_model import model_of_folder
from pipeline.scoring.scoring_model import (
    STAGES,
    ScoringModel,
    model_of_run,
    other_versions,
    with_distilled,
)
from report.evaluation_page import write_evaluation_page
from stage1_cnn.device import pick_device


def evaluate(options: EvaluateOptions) -> None:
    """Evaluate a run, a packed model, or a table of predictions on labels."""
    to = Path(options.to)
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise InputError(f"--to={to} is there already; name a new folder")
    if options.predictions:
        print(f"evaluate: the predictions {options.predictions}")
        labels = read_truth(options.labels, options.format, {})
        predictions = read_probabilities(options.predictions)
        where = f"--predictions={options.predictions}"
        with replacing(to, among_users=True) as part:
            part.mkdir()
            data = evaluate_predictions(predictions, labels, where)
            _write(part, data, None, "predictions")
        for note in data.notes:
            log(f"  {note}")
        log(f"  wrote {to}")
    elif options.model:
        print(f"evaluate: the model {options.model}")
        model = with_distilled(model_of_folder(options.model), options.fast)
        _evaluate_model(model, options, log, progress_bar)
    else:
        with opened(options) as run:
            check_fresh(run, "evaluate", STAGES)
            print(f"evaluate: the models of {options.run}")
            model = with_distilled(model_of_run(run), options.fast)
            _evaluate_model(model, options, run.log, run.bar)


def _evaluate_model(
    model: ScoringModel,
    options: EvaluateOptions,
    log: Callable[[str], None],
    bar: Callable[..., Bar],
) -> None:
    """Score the labelled studies, and write the figures."""
    to = Path(options.to)
    labels = read_truth(options.labels, options.format, model.recipe.labels.given())
    if Path(str(options.data)).resolve() in to.resolve().parents:
        raise InputError(f"--to={to} lies in --data={options.data}; name a folder elsewhere")
    device = pick_device(options.device)
    for note in (other_versions(model), warning_of_competition([options.data, options.labels])):
        if note:
            log(f"  {note}")
    with replacing(to, among_users=True) as part:
        part.mkdir()
        key, work = model.key or secrets.token_bytes(32), part / "pixels"
        data = evaluate_studies(model, labels, key, work, options, device, bar)
        _write(part, data, model, model.recipe.name)
        discard(work)
    for note in data.notes:
        log(f"  {note}")
    log(f"  wrote {to}")


def _write(folder: Path, data: EvaluatedData, model: ScoringModel | None, name: str) -> None:
    """Write evaluation.json, the tables and the page, and log the figures of `any`."""
    points = (model.stage2.get("operating_points") if model else None) or {}
    results = {
        level: figures(evaluated, points.get(level)) for level, evaluated in data.levels.items()
    }
    if not results:
        raise InputError("no slice and no study has all six labels and a probability")
    groups = {level: group_table(evaluated) for level, evaluated in data.levels.items()}
    values: dict[str, Any] = {"name": name, **results, **table_values(data), "made_by": versions()}
    write_json(folder / "evaluation.json", values)
    write_sheet(folder / "labels.csv", _by_level(results, figure_table), index=False)
    write_sheet(folder / "operating_points.csv", _by_level(results, _point_rows), index=False)
    write_sheet(folder / "calibration.csv", _by_level(results, _bin_rows), index=False)
    write_sheet(folder / "groups.csv", _by_level(groups, pd.DataFrame.copy), index=False)
    write_sheet(folder / "training_ranges.csv", data.ranges, index=False)
    write_sheet(folder / "remarks.csv", data.remarks, index=False)
    write_evaluation_page(folder / "page.html", name, data.levels, values, groups)
    for level, result in results.items():
        area = result["labels"]["any"]["auc"]
        rows = number_of(result["rows"], "slice" if level == "slices" else "study")
        log(f"  {rows}: AUC of any {_interval_text(area)}")


def _interval_text(figure: Interval | None) -> str:
    """Return a figure with its interval for the log."""
    if figure is None:
        return "undefined"
    if figure["low"] is None:
        return f"{figure['value']:.3f} (no interval: too few patients, or all draws alike)"
    return "{value:.3f} [{low:.3f}, {high:.3f}]".format(**figure)


def _by_level(results: dict[str, Any], table: Callable[[Any], pd.DataFrame]) -> pd.DataFrame:
    """Return the rows of all levels, with the column `level` first."""
    parts = []
    for level, result in results.items():
        rows = table(result)
        rows.insert(0, "level", level)
        parts.append(rows)
    return pd.concat(parts)


def _point_rows(result: dict[str, Any]) -> pd.DataFrame:
    """Return a row for each label and operating point."""
    rows = []
    for label in LABELS:
        for name, point in result["labels"][label]["operating_points"].items():
            row = {"label": label, "point": name}
            for key, value in point.items():
                if key in ("sensitivity", "specificity"):
                    ends = value or dict.fromkeys(("value", "low", "high"))
                    row |= {key if end == "value" else f"{key}_{end}": ends[end] for end in ends}
                else:
                    row[key] = value
            rows.append(row)
    return pd.DataFrame(rows)


def _bin_rows(result: dict[str, Any]) -> pd.DataFrame:
    """Return a row for each label and bin of its calibration."""
    return pd.DataFrame(
        {"label": label, **values}
        for label in LABELS
        for values in result["labels"][label]["calibration"]["bins"]
    )
