"""What model.json and stage2.json of a packed model may hold: every value is checked before one of
them is used.
"""

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from ct.config import Config
from ct.labels import LABELS, SUBTYPES
from stage2_stack.components import COLUMNS
from stage2_stack.config import COMPONENTS

FORMAT = "ich-stack model 1"
Text = Annotated[str, Field(max_length=80, pattern=r"^[ -~]*$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Logit = Annotated[float, Field(ge=-1e4, le=1e4)]
Slope = Annotated[float, Field(ge=0, le=1e6)]
Share = Annotated[float, Field(gt=0, lt=1)]


class About(Config):
    """model.json."""

    format: Literal[FORMAT]
    made: Text
    commit: Text
    versions: dict[Text, Text]
    files: dict[str, Digest]

    @field_validator("files")
    @classmethod
    def _plain_names(cls, files):
        for name in files:
            parts = PurePosixPath(name).parts
            if (
                not name.isprintable()
                or "\\" in name
                or name != "/".join(parts)
                or {"..", "/"} & set(parts)
                or not parts
            ):
                raise ValueError("its names should lie inside the folder")
        return files


class PlattValues(Config):
    """stage2_stack.calibration.Platt."""

    slope: Slope
    intercept: Logit
    prior: Logit
    floor: Logit | None = None
    step: float = Field(0.0, ge=0, le=1e4)


class BlendValues(Config):
    """stage2_stack.blending.Blend, without what it was decided on."""

    calibrations: dict[Literal[COMPONENTS], PlattValues]
    weights: dict[Literal[COMPONENTS], Annotated[float, Field(gt=0, le=1)]] = Field(min_length=1)
    last: PlattValues | None

    @model_validator(mode="after")
    def _whole(self):
        if not set(self.weights) <= set(self.calibrations):
            raise ValueError("a component has a weight, but no calibration")
        if abs(sum(self.weights.values()) - 1) > 1e-6:
            raise ValueError("the weights do not sum to 1")
        return self


class ChainValues(Config):
    """features.markov.MarkovChain."""

    slope: Slope
    intercept: Logit
    prior: Logit
    temper: float = Field(ge=0, le=1)
    first: Share
    share: Share
    rate: float = Field(gt=0, le=1e6)


class StageTwo(Config):
    """stage2.json."""

    names: tuple[str, ...] = Field(min_length=len(LABELS))
    blend: dict[Literal[LABELS], tuple[BlendValues, ...]]
    calibration: dict[Literal[LABELS], tuple[PlattValues, ...]]
    chain: dict[Literal[LABELS], ChainValues] | None = None
    studies: dict[Literal[LABELS], PlattValues]
    prior: dict[Literal[LABELS], Share]
    training: dict[Text, Annotated[int, Field(ge=1)] | tuple[float, float]]

    @field_validator("blend", "calibration", "chain", "studies", "prior")
    @classmethod
    def _all_labels(cls, values):
        if values is not None and (lacking := [label for label in LABELS if label not in values]):
            raise ValueError(f"the label {lacking[0]} is missing")
        return values

    @field_validator("training")
    @classmethod
    def _ranges(cls, training):
        if not isinstance(training.get("series"), int):
            raise ValueError("series, the largest number of series in a study, is missing")
        for name, value in training.items():
            if name != "series" and (isinstance(value, int) or value[0] > value[1]):
                raise ValueError(f"{name} is no range from low to high")
        return training


def check_fit(stage2: StageTwo, recipe, names: list[str]) -> None:
    """Raise ValueError where stage two does not fit the recipe. names: of the features that the
    recipe makes.
    """
    k_folds = recipe.folds.k
    if list(stage2.names) != names:
        raise ValueError(
            "names: they are those of other features than this version builds from the recipe"
        )
    if (stage2.chain is not None) != recipe.features.chain:
        raise ValueError(
            "chain: it is there without the recipe's features.chain, or the other way round"
        )
    for label in LABELS:
        for part in ("blend", "calibration"):
            if len(getattr(stage2, part)[label]) != k_folds:
                raise ValueError(
                    f"{part}.{label}: {len(getattr(stage2, part)[label])} entries for {k_folds} folds"
                )
        for blend in stage2.blend[label]:
            for component in blend.weights:
                column = label + COLUMNS.get(component, "")
                known = component in recipe.stage2.components and column in names
                if (
                    not known
                    or (component, label) == ("pooled", "any")
                    or (component == "subtypes" and label in SUBTYPES)
                ):
                    raise ValueError(f"blend.{label}: {component} is no component of it")
