"""Write an example competition: synthetic head-CT studies with bleeds, in Kaggle's layout.

It contains the difficulties of the real one: tilted gantries, half steps, gaps, two slices at one
position, 12-bit and 16-bit pixels, the intercept defect, a truncated file, a patient who is in both
sets, file names without order.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ct.errors import InputError
from ct.labels import KAGGLE_ORDER
from ct.storage.atomic_write import replacing
from ct.storage.file_formats import write_json
from ct.synthetic.study_files import Study, make_study, write_study
from ct.synthetic.study_plan import StudyPlan, plan_competition

SYNTH_FILE = "synth.json"  # beside the data: number of studies and seed


def write_competition(
    out: str | Path,
    studies: int,
    seed: int,
    size: int = 256,
    slices: tuple[int, int] = (20, 28),
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write an example competition below the folder `out`; about one study in six is in test.

    Images have size x size pixels; a study has slices[0] to slices[1] slices. The same arguments
    give the same bytes. `progress` is called with (done, studies) after each study. SYNTH_FILE
    records the number of studies and the seed.

    Returns counts: `studies`, `train_slices`, `test_slices`, `positive_slices` and
    `positive_studies` per label (train only); and names: `truncated` (an id), `defects` (ids),
    `shared_patient`. Raises InputError where `out` is not empty, or for fewer than 2 studies or 32
    pixels.
    """
    out = Path(out)
    _check_arguments(out, studies, size, slices)
    plans = plan_competition(studies, seed)
    labels: dict[bool, dict[str, list[int]]] = {True: {}, False: {}}  # by StudyPlan.test
    summary = _empty_summary(plans)
    with replacing(out, among_users=True) as part:
        for folder in ("stage_2_train", "stage_2_test"):
            (part / folder).mkdir(parents=True)
        for plan in plans:
            study = make_study(plan, seed, size, slices)
            write_study(study, part / ("stage_2_test" if plan.test else "stage_2_train"))
            labels[plan.test].update(zip(study.ids, study.labels.tolist(), strict=True))
            _add_to_summary(summary, study)
            if progress:
                progress(plan.number + 1, studies)
        _write_csv(part / "stage_2_train.csv", labels[False])
        sample = {slice_id: [0.5] * 6 for slice_id in labels[True]}
        _write_csv(part / "stage_2_sample_submission.csv", sample)
        write_json(part / SYNTH_FILE, {"studies": studies, "seed": seed})
    return summary


def _check_arguments(out: Path, studies: int, size: int, slices: tuple[int, int]) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(
            f"{out} is there already; name a new folder for the example competition, or remove "
            "this one first"
        )
    if studies < 2:
        raise InputError(
            f"studies is {studies}; an example competition needs at least 2, one for train and "
            "one for test"
        )
    if size < 32:
        raise InputError(f"size is {size}; the anatomy needs at least 32 pixels")
    if not 5 <= slices[0] <= slices[1]:
        raise InputError(f"slices is {tuple(slices)}; it should be (fewest, most) with at least 5")


def _write_csv(path: Path, labels: Mapping[str, Sequence[float]]) -> None:
    """Write slice id -> six values in KAGGLE_ORDER in the long form `ID,Label`, sorted by id."""
    lines = ["ID,Label\n"]
    for slice_id in sorted(labels):
        for name, value in zip(KAGGLE_ORDER, labels[slice_id], strict=True):
            lines.append(f"{slice_id}_{name},{value}\n")
    path.write_text("".join(lines), encoding="utf-8", newline="\n")


def _empty_summary(plans: Sequence[StudyPlan]) -> dict[str, Any]:
    test_patients = {plan.patient for plan in plans if plan.test}
    train_patients = [plan.patient for plan in plans if not plan.test]
    return {
        "studies": len(plans),
        "train_slices": 0,
        "test_slices": 0,
        "positive_slices": dict.fromkeys(KAGGLE_ORDER, 0),
        "positive_studies": dict.fromkeys(KAGGLE_ORDER, 0),
        "truncated": None,
        "defects": [],
        "shared_patient": next(name for name in train_patients if name in test_patients),
    }


def _add_to_summary(summary: dict[str, Any], study: Study) -> None:
    """Add a Study to the summary in place."""
    summary["test_slices" if study.plan.test else "train_slices"] += len(study.ids)
    for k, damage in study.damage.items():
        if damage == "truncated":
            summary["truncated"] = study.ids[k]
        else:
            summary["defects"].append(study.ids[k])
    if not study.plan.test:
        for name, column in zip(KAGGLE_ORDER, study.labels.T, strict=True):
            summary["positive_slices"][name] += int(column.sum())
            summary["positive_studies"][name] += int(column.any())
