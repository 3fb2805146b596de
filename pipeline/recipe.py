"""A recipe: one YAML a pipeline, checked. `new` writes the resolved one into the run folder."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from ct.config import Config, suggestion, validate
from ct.errors import InputError
from ct.run_dir import MODEL_NAME
from ct.storage.file_formats import write_yaml
from ct.yaml_file import read_yaml, refuse_strange_values
from features.config import FeatureConfig
from stage1_cnn.config import CnnConfig
from stage1_cnn.search_space import SearchConfig
from stage2_stack.config import StackConfig

RECIPES = Path(__file__).resolve().parent.parent / "recipes"


class DataConfig(Config):
    """Where the slices come from and what may be missing."""

    source: str = ""  # folder laid out as Kaggle's, or Kaggle's zip
    labels: str | None = None  # label csv, if not in there
    sample: str | None = None  # sample submission, if not in there
    # a table of slices instead of images, for stage two alone; "" until `new --slices` names it
    slices: str | None = None
    # take that many train slices at most, as whole patients; None: all
    train_slices: int | None = Field(None, ge=1)
    # leave train slices without all six labels out of training, after folds
    allow_unlabelled: bool = False
    # sample rows without any file, most test files unreadable: stop, or prior
    missing: Literal["refuse", "prior"] = "refuse"


class FoldConfig(Config):
    """The patient-grouped folds."""

    k: int = Field(5, ge=2, le=20)


class PixelConfig(Config):
    """The pixel cache."""

    size: int = Field(256, ge=32, le=512)  # side of the cached slices, pixels


class ReportConfig(Config):
    """The report."""

    # in its study browser, at most: of 256 px, 600 are about 15 MB
    browser_slices: int = Field(600, ge=0)


class StageOneConfig(Config):
    """The CNNs of stage one."""

    models: tuple[CnnConfig, ...] = ()
    # models trained elsewhere, by `import-predictions`
    imports: tuple[Annotated[str, Field(pattern=MODEL_NAME)], ...] = ()
    # write each training's scalars to stage1/<model>/fold<k>/tensorboard (extra `track`)
    tensorboard: bool = False

    @field_validator("models")
    @classmethod
    def _named_apart(cls, models):
        names = [model.name for model in models]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(
                f"two models are called {twice.pop()!r}; a name is a folder, give each its own"
            )
        return models

    @field_validator("imports")
    @classmethod
    def _imported_once(cls, imports, info):
        names = [*imports, *(model.name for model in info.data.get("models", ()))]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(
                f"two models are called {twice.pop()!r}; give the imported one another --name"
            )
        return imports


class Recipe(Config):
    """Everything that decides what a run makes."""

    name: str
    seed: int = Field(0, ge=0, le=2**32 - 1)
    data: DataConfig = DataConfig()
    folds: FoldConfig = FoldConfig()
    pixels: PixelConfig = PixelConfig()
    stage1: StageOneConfig
    features: FeatureConfig = FeatureConfig()
    stage2: StackConfig = StackConfig()
    search: SearchConfig = SearchConfig()
    report: ReportConfig = ReportConfig()

    @field_validator("stage1")
    @classmethod
    def _some_opinions(cls, stage1, info):
        slices = info.data["data"].slices if "data" in info.data else None
        if not (stage1.models or stage1.imports or slices is not None):
            raise ValueError(
                "stage1.models is empty; name a CNN, or import a model's predictions (recipe stack_only)"
            )
        if stage1.models and slices:
            raise ValueError(
                "stage1.models has CNNs, which need images; with --slices take the recipe stack_only"
            )
        return stage1


def load_recipe(path, completed=lambda values: values):
    """Read and check a recipe file. Raises InputError with the key and the file for whatever does
    not fit.

    completed(values) -> the values with those that an older version left out; of a recipe that a
    user wrote nothing is
    """
    try:
        values = read_yaml(path)
    except FileNotFoundError:
        raise InputError(
            f"{path} is not there; a run folder is made by `new --run=DIR --recipe=NAME --data=DIR`"
        ) from None
    if not isinstance(values, dict):
        raise InputError(f"{path} holds no recipe: expected keys such as name, stage1, stage2")
    refuse_strange_values(values, path)
    return validate(Recipe, completed(values), path, strict=True)


def find_recipe(name):
    """Return the path of a recipe: a name from recipes/, or a YAML file of one's own."""
    known = sorted(path.stem for path in RECIPES.glob("*.yaml"))
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise InputError(
                f"--recipe={name}: no such file; give the path of one, or a name: {', '.join(known)}"
            )
        return Path(name)
    if name not in known:
        raise InputError(
            f"--recipe={name}: no such recipe{suggestion(name, known)}; or give a path that ends in .yaml"
        )
    return RECIPES / f"{name}.yaml"


def save_recipe(path, recipe):
    """Write a recipe as YAML."""
    write_yaml(path, recipe.model_dump(mode="json"))


def with_changes(recipe, changes):
    """Return the recipe with `changes` ({"stage2.trials": 30}) checked and applied."""
    values = recipe.model_dump(mode="json")
    for dotted, value in changes.items():
        *path, last = dotted.split(".")
        inner = values
        for key in path:
            inner = inner[key]
        inner[last] = value
    return validate(Recipe, values, "recipe", strict=True)
