"""What an update may not lose: receipts, checkpoints, journals and recipes that an older version
wrote, read by this one.

The rule for whoever adds a field to a Config: its default reproduces what the code did before the
field was there, or OLDER_VALUES names the value that does. A receipt, recipe, journal or checkpoint
that lacks the field then counts as having that value, so nothing is made again and no checkpoint is
thrown away.
"""

from collections.abc import Collection
from pathlib import Path

from pydantic_core import to_jsonable_python

from ct.config import Config, config_class_of
from pipeline.recipe import Recipe, StageOneConfig

# "CnnConfig.field" -> the value that reproduces what was before the field, where its default does
# not
OLDER_VALUES = {}
FIRST_FIELDS = {  # of those Configs that are digested: the fields they had when digests began
    "CnnConfig": """
        name backbone pretrained windows neighbours image_size epochs batch accumulate lr weight_decay warmup clip ema dropout
        mixup positive_share flip rotate scale shift erase reverse hu_shift hu_noise tta threads deterministic precision
        compile
    """,
    "StackConfig": """
        components seeds any_at_least_largest trials storage max_rounds positive_patients confidence threads
    """,
}
# in what a receipt read, before a CNN's name: the local file that the CNN begins with
WEIGHTS = "pretrained weights of "


def with_older_values(
    known: object, now: object, kind: type[Config] | None = None, top: bool = True
) -> object:
    """Return plain values that an older version wrote, with the fields that it lacked, at any
    depth, at their older values.

    known: as they were written; now: the same of today, which says what may be lacking; kind: the
    Config at this depth; top: whether the keys are those of a job's part of the recipe ("seed",
    "stage1.models", "model") and not a Config's fields
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
            filled[key] = with_older_values(
                known[key], value, config_class_of(owner, field), top=False
            )
        elif not owner.model_fields[field].is_required():
            filled[key] = older_value(owner, field)
    return filled


def without_later_fields(part: dict) -> dict:
    """Return a job's part of the recipe without the fields that came after FIRST_FIELDS and have
    their older value.

    A digest of it is the same before and after such a field is added.
    """
    return {key: _without_later(value, _kind_of_part(key)) for key, value in part.items()}


def older_value(kind: type[Config], field: str) -> object:
    """Return the plain value of a Config's field that reproduces what was before there was the
    field.
    """
    name = f"{kind.__name__}.{field}"
    default = kind.model_fields[field].get_default(call_default_factory=True)
    return to_jsonable_python(OLDER_VALUES.get(name, default))


def older_recipe(values: dict) -> dict:
    """Return the values of a run's or a packed model's recipe.yaml, with the OLDER_VALUES of fields
    that it lacks.
    """
    return _older_fields(values, Recipe)


def reads_as_now(read: dict, part: dict, shared: Collection[str] = ()) -> dict:
    """Return what an older receipt read, {name: digest}, under today's names.

    part: the receipt's part of the recipe; shared: names of files of weights that several CNNs
    begin with, beside those of the part. Local weights were named by their file alone, so of two
    files of one name one digest was kept: nothing is known of them, nor of the weights of a CNN
    that is not in the part.
    """
    files = weight_files(part.get("stage1.models") or [part.get("model")])
    known = {name: digest for name, digest in read.items() if not name.startswith("weights ")}
    for model, file in files.items():
        if f"weights {file}" in read and file not in shared_names(files) and file not in shared:
            known[WEIGHTS + model] = read[f"weights {file}"]
    return known


def weight_files(models: list[dict]) -> dict[str, str]:
    """Return {CNN: name of the file of local weights that it begins with} of plain values of CNNs;
    without those of none.
    """
    values = [
        (model.get("name"), model.get("pretrained")) for model in models if isinstance(model, dict)
    ]
    return {
        name: Path(file).name
        for name, file in values
        if isinstance(name, str) and isinstance(file, str)
    }


def shared_names(files: dict[str, str]) -> set[str]:
    """Return the names of files that several CNNs begin with. files: as returned by
    `weight_files`
    """
    names = list(files.values())
    return {name for name in names if names.count(name) > 1}


def may_lack(name: str) -> bool:
    """Whether a receipt may lack `name` among what it read, and still hold: an older one, of which
    nothing is known.
    """
    return name == "key" or name.startswith(WEIGHTS)


def reads_of_before(read: dict, models: list[dict]) -> dict:
    """Return what a training reads under the names that checkpoints of before were digested with:
    the opposite of `reads_as_now`.

    read: {name: digest} of all CNNs; models: plain values of the recipe's CNNs
    """
    files = weight_files(models)
    weights = {
        f"weights {file}": read[WEIGHTS + model]
        for model, file in files.items()
        if WEIGHTS + model in read
    }
    return {name: digest for name, digest in read.items() if not name.startswith(WEIGHTS)} | weights


def reads_of_cnn(read: dict, model: str) -> dict:
    """Return what the training of one CNN reads, of what the stage does: of local weights its own
    alone.
    """
    return {
        name: digest
        for name, digest in read.items()
        if not name.startswith(WEIGHTS) or name == WEIGHTS + model
    }


def _field_of_part(key):
    """Return (Config class, field) of a key of a job's part of the recipe; (None, key) where it is
    no field.
    """
    if key == "model":  # one of them
        return StageOneConfig, "models"
    *path, field = key.split(".")
    kind = Recipe
    for name in path:
        kind = config_class_of(kind, name)
    return kind, field


def _kind_of_part(key):
    owner, field = _field_of_part(key)
    return config_class_of(owner, field) if owner and field in owner.model_fields else None


def _without_later(value, kind):
    if isinstance(value, list):
        return [_without_later(each, kind) for each in value]
    if not isinstance(value, dict) or kind is None:
        return value
    first = (
        FIRST_FIELDS[kind.__name__].split() if kind.__name__ in FIRST_FIELDS else kind.model_fields
    )
    later = {name for name in kind.model_fields if name not in first}
    same = {name for name in later if name in value and value[name] == older_value(kind, name)}
    return {
        name: _without_later(inner, config_class_of(kind, name))
        for name, inner in value.items()
        if name not in same
    }


def _older_fields(values, kind):
    if isinstance(values, list):
        return [_older_fields(each, kind) for each in values]
    if not isinstance(values, dict) or kind is None:
        return values
    filled = {
        name: _older_fields(value, config_class_of(kind, name)) for name, value in values.items()
    }
    lacking = {
        name
        for name in kind.model_fields
        if name not in values and f"{kind.__name__}.{name}" in OLDER_VALUES
    }
    return filled | {name: older_value(kind, name) for name in lacking}
