"""Receipts, checkpoints, journals and recipes of older versions, read by this version.

An update loses no work. A new field of a Config has a default that reproduces what the code did
without the field; where it has another default, OLDER_VALUES holds the value that does. A receipt,
recipe, journal or checkpoint that lacks the field counts as having that value: nothing is made
again.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from ct.config import Config, config_class_of
from pipeline.recipe import Recipe, StageOneConfig
from stage1_cnn.config import PACKAGE

# "CnnConfig.field" -> the value that reproduces older versions, if it is not the default
OLDER_VALUES: dict[str, Any] = {
    "CnnConfig.body_rate": 1.0,
    "CnnConfig.freeze_norms": False,
    "CnnConfig.outputs": "probabilities",
    "DataConfig.series": "all",
    "FeatureConfig.cnn_weights": "equal",
    "StackConfig.blend_rounds": 1.0,
    "StackConfig.calibrate_by": "slice",
    "StackConfig.symmetric": False,
}
FIRST_FIELDS = {  # Configs that enter digests: the fields that they had in the first version
    "CnnConfig": """
        name backbone pretrained windows neighbours image_size epochs batch accumulate lr
        weight_decay warmup clip ema dropout mixup positive_share flip rotate scale shift erase
        reverse hu_shift hu_noise tta threads deterministic precision compile
    """,
    "StackConfig": """
        components seeds any_at_least_largest trials storage max_rounds positive_patients
        confidence threads
    """,
}
# start of the name of a CNN's local weights among the inputs in a receipt; the CNN's name follows
WEIGHTS = "pretrained weights of "

KnownValues = dict[str, Any]  # plain values of Configs, by field or dotted key


def with_older_values(
    known: Any, now: Any, kind: type[Config] | None = None, top: bool = True
) -> Any:
    """Return the plain values of an older version, with the older values of fields that it lacks.

    known: the older version's values; now: this version's, which have all fields; kind: the Config
    class at this depth; top: whether the keys are those of a job's part of the recipe ("seed",
    "stage1.models", "model") and not the fields of a Config
    """
    if isinstance(known, list) and isinstance(now, list) and len(known) == len(now):
        return [with_older_values(a, b, kind, top=False) for a, b in zip(known, now, strict=True)]
    if not (isinstance(known, dict) and isinstance(now, dict)):
        return known
    filled = dict(known)
    for key, value in now.items():
        owner, field = _field_of_part(key) if top else (kind, key)
        if owner is None or field not in owner.model_fields:
            continue
        if key in known:
            inner = config_class_of(owner, field)
            filled[key] = with_older_values(known[key], value, inner, top=False)
        elif not owner.model_fields[field].is_required():
            filled[key] = older_value(owner, field)
    return filled


def by_single_fields(known: KnownValues, part: Mapping[str, Any]) -> KnownValues:
    """Return an older receipt's part of the recipe by the keys of this version's.

    A job that depended on a whole Config, "stage2", may depend on some of its fields now,
    "stage2.trials" and others: they are taken from it.
    """
    owners = {key: key.rpartition(".")[0] for key in part if key not in known}
    whole = {owner for owner in owners.values() if owner in known and owner not in part}
    filled = {key: value for key, value in known.items() if key not in whole}
    for key, owner in owners.items():
        kind = _kind_of_part(owner) if owner in whole else None
        if kind is not None:
            older = {name: older_value(kind, name) for name in kind.model_fields}
            config = kind.model_construct(**(older | known[owner]))
            filled[key] = to_jsonable_python(getattr(config, key.rpartition(".")[2]))
    return filled


def without_later_fields(part: Mapping[str, Any]) -> KnownValues:
    """Return a job's part of the recipe without later fields that have their older value.

    Later fields are those that are not in FIRST_FIELDS. The digest of the result is the same before
    and after a field is added.
    """
    return {key: _without_later(value, _kind_of_part(key)) for key, value in part.items()}


def older_value(kind: type[Config], field: str) -> Any:
    """Return the plain value of a Config's field that reproduces versions without the field."""
    name = f"{kind.__name__}.{field}"
    default = kind.model_fields[field].get_default(call_default_factory=True)
    return to_jsonable_python(OLDER_VALUES.get(name, default))


def older_recipe(values: KnownValues) -> KnownValues:
    """Return the values of a recipe.yaml, with OLDER_VALUES for the fields that it lacks.

    A file with `version` was written with all fields: what it lacks, such as fields of a CNN that
    was added by hand, has the defaults of now.
    """
    if "version" in values:
        return values
    filled: KnownValues = _with_listed_values(values, Recipe)
    return filled


def under_current_names(
    read: Mapping[str, str], part: Mapping[str, Any], shared: Collection[str] = ()
) -> dict[str, str]:
    """Return the inputs of an older receipt, {name: digest}, under the names of this version.

    part: the receipt's part of the recipe; shared: names of weight files that several CNNs of the
    recipe start from. An older receipt names local weights by their file name, and of two files of
    one name it has one digest: such an input is left out, as unknown.
    """
    files = weight_files(part.get("stage1.models") or [part.get("model")])
    known = {name: digest for name, digest in read.items() if not name.startswith("weights ")}
    for model, file in files.items():
        if f"weights {file}" in read and file not in shared_names(files) and file not in shared:
            known[WEIGHTS + model] = read[f"weights {file}"]
    return known


def weight_files(models: Collection[Any]) -> dict[str, str]:
    """Return {CNN: name of its file of local weights}; CNNs without one are left out.

    models: plain values of CNNs
    """
    files = {}
    for model in models:
        if isinstance(model, dict):
            name, file = model.get("name"), model.get("pretrained")
            if isinstance(name, str) and isinstance(file, str) and file != PACKAGE:
                files[name] = Path(file).name
    return files


def shared_names(files: Mapping[str, str]) -> set[str]:
    """Return the file names that several CNNs start from. files: as `weight_files` returns them"""
    names = list(files.values())
    return {name for name in names if names.count(name) > 1}


def may_lack(name: str) -> bool:
    """Return whether a receipt without the input `name` can be fresh: older ones do not list it."""
    return name == "key" or name.startswith(WEIGHTS)


def under_older_names(read: Mapping[str, str], models: Collection[Any]) -> dict[str, str]:
    """Return the inputs of a training under the names of older checkpoints.

    The inverse of `under_current_names`. read: {name: digest} of all CNNs; models: plain values of
    the recipe's CNNs
    """
    older = {name: digest for name, digest in read.items() if not name.startswith(WEIGHTS)}
    for model, file in weight_files(models).items():
        if WEIGHTS + model in read:
            older[f"weights {file}"] = read[WEIGHTS + model]
    return older


def reads_of_cnn(read: Mapping[str, str], model: str) -> dict[str, str]:
    """Return the inputs of one CNN's training: those of the stage without other CNNs' weights."""
    return {
        name: digest
        for name, digest in read.items()
        if not name.startswith(WEIGHTS) or name == WEIGHTS + model
    }


def _field_of_part(key: str) -> tuple[type[Config] | None, str]:
    """Return (Config class, field) of a key of a job's part of the recipe; (None, key) for none."""
    if key == "model":  # one of stage1.models
        return StageOneConfig, "models"
    *path, field = key.split(".")
    kind: type[Config] | None = Recipe
    for name in path:
        kind = config_class_of(kind, name) if kind else None
    return kind, field


def _kind_of_part(key: str) -> type[Config] | None:
    owner, field = _field_of_part(key)
    return config_class_of(owner, field) if owner and field in owner.model_fields else None


def _without_later(value: Any, kind: type[Config] | None) -> Any:
    if isinstance(value, list):
        return [_without_later(each, kind) for each in value]
    if not isinstance(value, dict) or kind is None:
        return value
    fields = list(kind.model_fields)
    first = FIRST_FIELDS[kind.__name__].split() if kind.__name__ in FIRST_FIELDS else fields
    kept = {}
    for name, inner in value.items():
        later = name in fields and name not in first
        if not (later and inner == older_value(kind, name)):
            kept[name] = _without_later(inner, config_class_of(kind, name))
    return kept


def _with_listed_values(values: Any, kind: type[Config] | None) -> Any:
    """Fill in the OLDER_VALUES of fields that are lacking, at any depth."""
    if isinstance(values, list):
        return [_with_listed_values(each, kind) for each in values]
    if not isinstance(values, dict) or kind is None:
        return values
    filled = {}
    for name, value in values.items():
        filled[name] = _with_listed_values(value, config_class_of(kind, name))
    for name in kind.model_fields:
        if name not in values and f"{kind.__name__}.{name}" in OLDER_VALUES:
            filled[name] = older_value(kind, name)
    return filled
