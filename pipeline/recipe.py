"""A recipe: one checked YAML file per pipeline; `new` writes it to the run folder."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from ct.config import Config, suggestion, validate
from ct.errors import InputError
from ct.label_tables.public_data import DataFormat
from ct.run_dir import ALL_DATA, MODEL_NAME, seed_names
from ct.storage.file_formats import write_yaml
from ct.yaml_file import read_yaml, refuse_strange_values
from features.config import FeatureConfig
from stage1_cnn.config import CnnConfig, DistilledCnn
from stage1_cnn.search_space import SearchConfig
from stage2_stack.config import StackConfig

RECIPES = Path(__file__).resolve().parent.parent / "recipes"


class DataConfig(Config):
    """Where the slices come from and what may be missing."""

    source: str = ""  # folder or zip archive, of Kaggle's or of your own studies
    # Kaggle's layout, or your own studies and their label table ("own"; `new` sets it), which has
    # no test set, or a public data set as it is published
    format: DataFormat = "kaggle"
    labels: str | None = None  # label csv, if not in the source; the label table of own studies
    sample: str | None = None  # sample submission, if not in the source
    # a table of slices instead of images, for stage two alone; "" before `new --slices` sets it
    slices: str | None = None
    # use at most this number of train slices, as whole patients; None: all
    train_slices: int | None = Field(None, ge=1)
    # of a study with several series: read the one that the rules choose, or all as one study; the
    # competition's own studies are read as they are
    series: Literal["best", "all"] = "best"
    # do not train on train slices without all six labels; they keep their folds
    allow_unlabelled: bool = False
    # sample rows without a file, or most test files unreadable: stop, or use the training prior
    missing: Literal["refuse", "prior"] = "refuse"


class LabelNames(Config):
    """The names of the labels in a label table of your own; None: a name in common use."""

    any: str | None = None
    epidural: str | None = None
    intraparenchymal: str | None = None
    intraventricular: str | None = None
    subarachnoid: str | None = None
    subdural: str | None = None

    def given(self) -> dict[str, str]:
        """Return {label: name} of those that are given."""
        return {label: name for label, name in self.model_dump().items() if name is not None}


class FoldConfig(Config):
    """The patient-grouped folds."""

    k: int = Field(5, ge=2, le=20)


class PixelConfig(Config):
    """The pixel cache."""

    size: int = Field(256, ge=32, le=512)  # side of the square cached slices, pixels


class ReportConfig(Config):
    """The report."""

    # slices in its study browser, at most; 600 of 256 px are about 15 MB
    browser_slices: int = Field(600, ge=0)


class StageOneConfig(Config):
    """The CNNs of stage one."""

    models: tuple[CnnConfig, ...] = ()
    # names of models trained elsewhere; `import-predictions` adds them
    imports: tuple[Annotated[str, Field(pattern=MODEL_NAME)], ...] = ()
    # train each CNN on the slices of all folds, too; for new patients, `score` and `export-model`
    # use it in place of the folds' CNNs
    all_data: bool = False
    # one CNN that learns what the others predict together; `score --fast` uses it in their place
    distilled: DistilledCnn | None = None
    # write scalars to stage1/<model>/fold<k>/tensorboard; needs the extra `track`
    tensorboard: bool = False

    @property
    def clipped(self) -> bool:
        """Whether logits may lie on a floor: those of imports and older versions are clipped."""
        kept = {model.outputs for model in self.models}
        return bool(self.imports) or "probabilities" in kept

    def fits(self) -> list[CnnConfig]:
        """Return the CNNs, each as often as it has seeds, under the names of `seed_names`."""
        return [
            model.model_copy(update={"name": name, "seeds": 1})
            for model in self.models
            for name in seed_names(model.name, model.seeds)
        ]

    def trained(self) -> list[CnnConfig]:
        """Return the CNNs as `fits` does, and the distilled one last."""
        return [*self.fits(), *([self.distilled] if self.distilled else [])]

    def model(self, name: str) -> CnnConfig:
        """Return the CNN of this name, or its fit with another seed, or the distilled one.

        Raises InputError where it was renamed or taken out since it was planned.
        """
        for model in self.trained():
            if model.name == name:
                return model
        raise InputError(
            f"stage1.models has no CNN called {name} any more: recipe.yaml was changed meanwhile; "
            "run the stage again, with the recipe that you want"
        )

    def soft_label_fits(self, name: str) -> dict[str, list[str]]:
        """Return {CNN: its fits} of those whose predictions are soft labels of the fit `name`."""
        seeds = {model.name: model.seeds for model in self.models}
        return {cnn: seed_names(cnn, seeds[cnn]) for cnn in self.model(name).pseudo_from}

    @field_validator("models")
    @classmethod
    def _sources_come_first(cls, models: tuple[CnnConfig, ...]) -> tuple[CnnConfig, ...]:
        for number, model in enumerate(models):
            before = [other.name for other in models[:number]]
            for name in model.pseudo_from:
                if name not in before:
                    raise ValueError(
                        f"{model.name}: pseudo_from has {name!r}; name CNNs that stand before it: "
                        f"{', '.join(before) or 'there are none'}"
                    )
        return models

    @field_validator("models")
    @classmethod
    def _unique_names(cls, models: tuple[CnnConfig, ...]) -> tuple[CnnConfig, ...]:
        names = [model.name for model in models]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(
                f"two models are called {twice.pop()!r}; a name is a folder, give each its own"
            )
        for model in models:
            if model.seeds > 1 and model.outputs != "logits":
                raise ValueError(
                    f"{model.name}: the mean over seeds = {model.seeds} is one of logits; set "
                    "outputs: logits"
                )
        return models

    @field_validator("imports")
    @classmethod
    def _unique_imports(cls, imports: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        names = [*imports, *(model.name for model in info.data.get("models", ()))]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(
                f"two models are called {twice.pop()!r}; give the imported one another --name"
            )
        return imports

    @field_validator("distilled")
    @classmethod
    def _has_teachers(
        cls, distilled: DistilledCnn | None, info: ValidationInfo
    ) -> DistilledCnn | None:
        if distilled is None or not {"models", "imports"} <= info.data.keys():
            return distilled
        names = [model.name for model in info.data["models"]]
        if info.data["imports"] or not names:
            raise ValueError("it learns from the CNNs of stage1.models, without imports; remove it")
        if distilled.name in names:
            raise ValueError(f"two models are called {distilled.name!r}; give it another name")
        return distilled


class Recipe(Config):
    """Everything that decides the results of a run."""

    # of the fields and their defaults; a run's recipe without it is of an older version of the code
    version: Literal[1] = 1
    name: str
    seed: int = Field(0, ge=0, le=2**32 - 1)
    data: DataConfig = DataConfig()
    labels: LabelNames = LabelNames()
    folds: FoldConfig = FoldConfig()
    pixels: PixelConfig = PixelConfig()
    stage1: StageOneConfig
    features: FeatureConfig = FeatureConfig()
    stage2: StackConfig = StackConfig()
    search: SearchConfig = SearchConfig()
    report: ReportConfig = ReportConfig()

    def trained_folds(self) -> list[int]:
        """Return the folds that each CNN is trained without, and ALL_DATA with stage1.all_data."""
        return [*range(self.folds.k), *([ALL_DATA] if self.stage1.all_data else [])]

    @field_validator("features")
    @classmethod
    def _embeddings_of_folds(cls, features: FeatureConfig, info: ValidationInfo) -> FeatureConfig:
        if features.probe and "stage1" in info.data and info.data["stage1"].all_data:
            raise ValueError(
                "features.probe reads embeddings of the folds' CNNs, and those of a CNN that is "
                "trained on all data are others; set stage1.all_data or features.probe to false"
            )
        if features.probe and "stage1" in info.data and info.data["stage1"].distilled:
            raise ValueError(
                "features.probe reads embeddings of the folds' CNNs, and those of a distilled CNN "
                "are others; remove stage1.distilled, or set features.probe to false"
            )
        models = info.data["stage1"].models if "stage1" in info.data else ()
        if features.probe and any(model.seeds > 1 for model in models):
            raise ValueError(
                "features.probe reads the embeddings of one fit for each fold; set seeds to 1, or "
                "features.probe to false"
            )
        return features

    @field_validator("stage1")
    @classmethod
    def _has_models(cls, stage1: StageOneConfig, info: ValidationInfo) -> StageOneConfig:
        slices = info.data["data"].slices if "data" in info.data else None
        if not (stage1.models or stage1.imports or slices is not None):
            raise ValueError(
                "stage1.models is empty; name a CNN, or import a model's predictions "
                "(recipe stack_only)"
            )
        has_test = "data" not in info.data or info.data["data"].format == "kaggle"
        for model in stage1.models:
            if model.pseudo_from and not has_test:
                raise ValueError(
                    f"{model.name}: pseudo_from needs test slices, and studies of your own have "
                    "none; remove it"
                )
        if stage1.models and slices:
            raise ValueError(
                "stage1.models has CNNs, which need images; with --slices use the recipe stack_only"
            )
        return stage1


def load_recipe(
    path: Path, completed: Callable[[dict[str, Any]], Mapping[str, Any]] = lambda values: values
) -> Recipe:
    """Read and check a recipe file. Raises InputError with the key and the file of a fault.

    completed(values) adds the fields that the recipe of an older run lacks
    """
    try:
        values = read_yaml(path)
    except FileNotFoundError:
        raise InputError(
            f"{path} is not there; a run folder is made by `new --run=DIR --recipe=NAME --data=DIR`"
        ) from None
    if not isinstance(values, dict):
        raise InputError(f"{path} is not a recipe: expected keys such as name, stage1, stage2")
    refuse_strange_values(values, path)
    return validate(Recipe, completed(values), path, strict=True)


def find_recipe(name: str) -> Path:
    """Return the path of a recipe: the user's YAML file, or that of a name from recipes/."""
    known = sorted(path.stem for path in RECIPES.glob("*.yaml"))
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise InputError(
                f"--recipe={name}: no such file; give a path, or a name: {', '.join(known)}"
            )
        return Path(name)
    if name not in known:
        raise InputError(
            f"--recipe={name}: no such recipe{suggestion(name, known)}; or give a .yaml file"
        )
    return RECIPES / f"{name}.yaml"


def save_recipe(path: Path, recipe: Recipe) -> None:
    """Write a recipe as YAML."""
    write_yaml(path, recipe.model_dump(mode="json"))


def with_changes(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """Return the recipe with `changes` checked and applied. changes: {"stage2.trials": 30}"""
    values = recipe.model_dump(mode="json")
    for dotted, value in changes.items():
        *path, last = dotted.split(".")
        inner = values
        for key in path:
            inner = inner[key]
        inner[last] = value
    return validate(Recipe, values, "recipe", strict=True)
