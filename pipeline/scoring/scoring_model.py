"""What `score` needs of a run: CNNs, stackers, calibrations. Here of a run; packed_model.py reads
it from a folder.

model.json               the format, the versions it was made with, and the digest of every other
file recipe.yaml              the recipe, without anybody's paths stage2.json              features'
names, blends, calibrations, chains; what the training data were like
weights/<model>-fold<k>.safetensors  boosters/<name>  probes.safetensors README.md  card.json
what it is, what it was trained on, how good it is
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ct.checks.domain_shift import training_ranges
from ct.errors import InputError
from ct.labels import LABELS
from ct.patient_folds import patient_folds
from ct.run_dir import read_arrays, read_json, read_table
from features.linear_probe import PARTS, LinearProbe
from features.markov import MarkovChain
from pipeline.receipt import versions
from pipeline.recipe import Recipe
from pipeline.stage_data.run_tables import training_prior
from stage2_stack.apply import Stacker, read_blend
from stage2_stack.calibration import Platt
from stage2_stack.study_level import fit_studies

STAGES = ("ingest", "folds", "train", "features", "tune", "stack")  # whose work a model is made of


@dataclass(frozen=True)
class Model:
    """The fitted models of a run."""

    recipe: Recipe
    stage2: dict  # plain values, as of `stage_two`
    weights: dict  # (CNN's name, fold) -> path of its weights
    boosters: dict  # file name -> path of a model of stage two
    probes: Path | None  # where the recipe's features have probes
    versions: dict  # package -> version it was made with
    key: bytes | None = None  # of the run's pseudonyms; no folder has it
    # `fold` and `part` of each patient of train, by pseudonym; likewise
    patients: pd.DataFrame | None = None
    # label -> values of the Chain without each fold; likewise, and older runs lack them
    held_out_chains: dict | None = None

    def stacker(self, k):
        """Return the Stacker of fold k."""
        settings, end = self.recipe.stage2, f"-fold{k}-"
        boosters = {
            name.replace(end, "-"): path for name, path in self.boosters.items() if end in name
        }
        return Stacker(
            {label: read_blend(self.stage2["blend"][label][k]) for label in LABELS},
            {label: Platt(**self.stage2["calibration"][label][k]) for label in LABELS},
            {name: path.read_bytes() for name, path in boosters.items()},
            settings.seeds,
            settings.any_at_least_largest,
            settings.threads,
        )

    def chains(self):
        """Return K + 1 lists of the Chain of each label, in the order of LABELS: without each fold
        and, last, of all folds.

        A packed model and an older run have those of all folds alone, which then stand for the
        others, too.
        """
        k_folds, whole = self.recipe.folds.k, self.stage2["chain"]
        apart = self.held_out_chains or {label: [whole[label]] * k_folds for label in LABELS}
        of_fold = [{label: apart[label][k] for label in LABELS} for k in range(k_folds)]
        return [
            [MarkovChain.from_json(each[label]) for label in LABELS] for each in (*of_fold, whole)
        ]

    def probe(self, name, k):
        """Return (probe, parts) of one CNN of fold k: the Probe of all patients, and a list of
        those without each part.

        The list is empty in a packed model, and in an older run.
        """
        arrays, fields = read_arrays(self.probes), ("centre", "weights", "intercept")
        start = f"{name}.fold{k}."
        count = sum(f"{start}part{j}.centre" in arrays for j in range(PARTS))
        prefixes = [start, *(f"{start}part{j}." for j in range(count))]
        probe, *parts = (
            LinearProbe(*(arrays[prefix + field] for field in fields)) for prefix in prefixes
        )
        return probe, parts

    def studies(self):
        """Return the calibration of whole studies, {label: Platt}."""
        return {label: Platt(**values) for label, values in self.stage2["studies"].items()}


def model_of_run(run):
    """Return the Model that a finished run is. Raises InputError where it has no CNNs of its own,
    or something is missing.
    """
    recipe, folder = run.recipe, run.dir
    if recipe.stage1.imports:
        raise InputError(
            f"{folder.root} stacks imported predictions ({', '.join(recipe.stage1.imports)}), whose models are not in it and "
            "cannot be asked about new slices; take them out (`import-predictions --remove`) and call `all`"
        )
    if not recipe.stage1.models:
        raise InputError(f"{folder.root} has no CNNs, which are needed to look at new slices")
    if recipe.features.probe and not folder.probes.is_file():
        raise InputError(
            f"{folder.probes} is not there; remove {folder.receipt('features')} and call `all`"
        )
    slices, fold = read_table(folder.slices), read_table(folder.folds)["fold"]
    train = slices[slices["split"] == "train"]
    folds = [(config.name, k) for config in recipe.stage1.models for k in range(recipe.folds.k)]
    return Model(
        recipe=recipe,
        stage2=json.loads(json.dumps(stage_two(run, train, fold.reindex(train.index).to_numpy()))),
        weights={(name, k): folder.fold(name, k) / "weights.safetensors" for name, k in folds},
        boosters={path.name: path for path in sorted((folder.stage2 / "boosters").iterdir())},
        probes=folder.probes if recipe.features.probe else None,
        versions=read_json(folder.receipt("stack"))["versions"],
        key=run.pseudonym_key(),
        patients=_known_patients(folder, train["patient_id"], fold),
        held_out_chains=_held_out_chains(run),
    )


def _known_patients(folder, patients, fold):
    """Return `fold` and `part` of each patient of train, indexed by patient; an older run's parts
    are -1, the whole probe.
    """
    known = patient_folds(patients, fold).rename("fold").to_frame()
    part = read_table(folder.parts)["part"].reindex(known.index) if folder.parts.exists() else -1
    return known.assign(part=part)


def _held_out_chains(run):
    """Return {label: values of the Chain without each fold}; None without chains, and in an older
    run, which used those of all folds for everybody.
    """
    if not run.recipe.features.chain or not run.dir.parts.exists():
        return None
    kept = read_json(run.dir.chain)
    return {
        label: [kept[label][f"without fold {k}"] for k in range(run.recipe.folds.k)]
        for label in LABELS
    }


def stage_two(run, train, fold):
    """Return what is kept of stage two, beside boosters and probes, as plain values.

    train: slice table; fold: (n,) of its rows
    """
    folder, kept = run.dir.stage2, {}
    for name in ("blend", "calibration"):
        kept[name] = read_json(folder / f"{name}.json")
    if run.recipe.features.chain:
        kept["chain"] = {
            label: chains["of all folds"] for label, chains in read_json(run.dir.chain).items()
        }
    platts, _ = studies_of_run(run, train, fold)
    return {
        "names": list(read_json(folder / "features" / "names.json")),
        **kept,
        "studies": {label: platt._asdict() for label, platt in platts.items()},
        "prior": training_prior(run.dir),
        "training": training_ranges(train),
    }


def studies_of_run(run, train, fold):
    """Return `fit_studies` of a run's probabilities out of fold. train: slice table; fold: (n,) of
    its rows.
    """
    oof = read_table(run.dir.stage2 / "oof.parquet").reindex(train.index)[list(LABELS)].to_numpy()
    y = train[list(LABELS)].to_numpy(np.float64)
    return fit_studies(train["study_id"].to_numpy(object), oof, y, fold, run.recipe.features.clip)


def other_versions(model):
    """Return a line about packages that are not those the model was made with, or ""."""
    here = versions()
    unlike = [
        f"{name} {made} (here {here.get(name)})"
        for name, made in model.versions.items()
        if here.get(name) != made
    ]
    return f"made with {', '.join(unlike)}: the last digits may differ" if unlike else ""
