"""The values that model.json and stage2.json of a packed model may hold; all are checked first."""

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, get_args

from pydantic import Field, field_validator, model_validator

from ct.config import Config
from ct.evaluation.operating_points import POINTS
from ct.labels import LABELS
from pipeline.recipe import Recipe
from stage2_stack.components import COMPONENTS
from stage2_stack.components.component import load_component

Format = Literal["ich-stack model 1"]
FORMAT: str = get_args(Format)[0]
if TYPE_CHECKING:  # type checkers accept only a Literal whose values are written out
    Label: TypeAlias = str
    Component: TypeAlias = str
    PointName: TypeAlias = str
else:
    Label = Literal[LABELS]
    Component = Literal[COMPONENTS]
    PointName = Literal[POINTS]
Text = Annotated[str, Field(max_length=80, pattern=r"^[ -~]*$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Logit = Annotated[float, Field(ge=-1e4, le=1e4)]
Slope = Annotated[float, Field(ge=0, le=1e6)]
Share = Annotated[float, Field(gt=0, lt=1)]
Rate = Annotated[float, Field(ge=0, le=1)]


class ModelFile(Config):
    """The values of model.json."""

    format: Format
    made: Text
    commit: Text
    versions: dict[Text, Text]
    files: dict[str, Digest]

    @field_validator("files")
    @classmethod
    def _plain_names(cls, files: dict[str, str]) -> dict[str, str]:
        for name in files:
            parts = PurePosixPath(name).parts
            if (
                not name.isprintable()
                or "\\" in name
                or name != "/".join(parts)
                or {"..", "/"} & set(parts)
                or not parts
            ):
                raise ValueError("every name should lie inside the folder")
        return files


class PlattValues(Config):
    """The values of a stage2_stack.calibration.Platt."""

    slope: Slope
    intercept: Logit
    prior: Logit
    floor: Logit | None = None
    step: float = Field(0.0, ge=0, le=1e4)


class BlendValues(Config):
    """The values of a stage2_stack.blending.Blend, without the gains that decided its weights."""

    calibrations: dict[Component, PlattValues]
    weights: dict[Component, Annotated[float, Field(gt=0, le=1)]] = Field(min_length=1)
    last: PlattValues | None

    @model_validator(mode="after")
    def _weights_fit(self) -> "BlendValues":
        if not set(self.weights) <= set(self.calibrations):
            raise ValueError("a component has a weight but no calibration")
        if abs(sum(self.weights.values()) - 1) > 1e-6:
            raise ValueError("the weights do not sum to 1")
        return self


class ChainValues(Config):
    """The values of a features.markov.MarkovChain."""

    slope: Slope
    intercept: Logit
    prior: Logit
    temper: float = Field(ge=0, le=1)
    first: Share
    share: Share
    rate: float = Field(gt=0, le=1e6)


class RateValues(Config):
    """A sensitivity or specificity with its 95 % interval."""

    value: Rate
    low: Rate
    high: Rate


class PointValues(Config):
    """The values of an operating point, or `why` there is none."""

    threshold: Rate | None = None
    sensitivity: RateValues | None = None
    specificity: RateValues | None = None
    why: Text = ""

    @model_validator(mode="after")
    def _whole(self) -> "PointValues":
        missing = [v is None for v in (self.threshold, self.sensitivity, self.specificity)]
        if missing != [bool(self.why)] * 3:
            raise ValueError("a point has a threshold and both rates, or why it has none")
        return self


class StageTwo(Config):
    """The values of stage2.json."""

    names: tuple[str, ...] = Field(min_length=len(LABELS))
    blend: dict[Label, tuple[BlendValues, ...]]
    calibration: dict[Label, tuple[PlattValues, ...]]
    chain: dict[Label, ChainValues] | None = None
    # CNN -> label -> weight in the mean logit; None where weights are equal
    cnn_weights: dict[Text, dict[Label, Rate]] | None = None
    studies: dict[Label, PlattValues]
    prior: dict[Label, Share]
    training: dict[Text, Annotated[int, Field(ge=1)] | tuple[float, float]]
    operating_points: (
        dict[Literal["slices", "studies"], dict[Label, dict[PointName, PointValues]]] | None
    ) = None  # older models have none

    @field_validator("blend", "calibration", "chain", "studies", "prior")
    @classmethod
    def _all_labels(cls, values: dict[str, Any] | None) -> dict[str, Any] | None:
        missing = [] if values is None else [label for label in LABELS if label not in values]
        if missing:
            raise ValueError(f"the label {missing[0]} is missing")
        return values

    @field_validator("cnn_weights")
    @classmethod
    def _convex(
        cls, weights: dict[str, dict[str, float]] | None
    ) -> dict[str, dict[str, float]] | None:
        for label in LABELS if weights is not None else ():
            of_label = [of_cnn.get(label) for of_cnn in (weights or {}).values()]
            if None in of_label or abs(sum(filter(None, of_label)) - 1) > 1e-6:
                raise ValueError(f"the weights of {label} are missing or do not sum to 1")
        return weights

    @field_validator("operating_points")
    @classmethod
    def _all_points(cls, points: dict[str, Any] | None) -> dict[str, Any] | None:
        for level in ("slices", "studies") if points is not None else ():
            for label in LABELS:
                if set((points or {}).get(level, {}).get(label, {})) != set(POINTS):
                    raise ValueError(f"{level}: an operating point of {label} is missing")
        return points

    @field_validator("training")
    @classmethod
    def _ranges(cls, training: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(training.get("series"), int):
            raise ValueError("series, the largest number of series in a study, is missing")
        for name, value in training.items():
            if name != "series" and (isinstance(value, int) or value[0] > value[1]):
                raise ValueError(f"{name} is not a range from low to high")
        return training


def check_fit(stage2: StageTwo, recipe: Recipe, names: list[str]) -> None:
    """Raise ValueError where stage two does not fit the recipe.

    names: of the features, as this version builds them from the recipe
    """
    k_folds = recipe.folds.k
    if list(stage2.names) != names:
        raise ValueError("names: this version builds other features from the recipe")
    if (stage2.chain is not None) != recipe.features.chain:
        raise ValueError("chain: it should be there exactly if the recipe has features.chain")
    cnns = {config.name for config in recipe.stage1.models}
    if set(stage2.cnn_weights or cnns) != cnns:
        raise ValueError("cnn_weights: they should be those of the recipe's CNNs")
    if (stage2.cnn_weights is not None) != (recipe.features.cnn_weights == "fitted"):
        raise ValueError(
            "cnn_weights: they should be there exactly if the recipe says that they are fitted"
        )
    for label in LABELS:
        for part in ("blend", "calibration"):
            count = len(getattr(stage2, part)[label])
            if count != k_folds:
                raise ValueError(f"{part}.{label}: {count} entries for {k_folds} folds")
        for blend in stage2.blend[label]:
            for component in blend.weights:
                if not _predicts(component, label, recipe, names):
                    raise ValueError(f"blend.{label}: {component} is not one of its components")


def _predicts(component: str, label: str, recipe: Recipe, names: list[str]) -> bool:
    """Return whether a component of the recipe predicts this label."""
    if component not in recipe.stage2.components:
        return False
    return load_component(component).can_predict(label, names)
