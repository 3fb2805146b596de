"""Settings of stage two."""

from collections.abc import Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from ct.config import Config
from ct.errors import InputError
from stage2_stack.components import COMPONENTS, DEFAULT, PACKAGES, TUNED

if TYPE_CHECKING:
    ComponentName = str  # mypy does not accept a computed Literal
else:
    ComponentName = Literal[COMPONENTS]


class StackConfig(Config):
    """How the stackers are tuned and fitted."""

    # what is blended; smooth and chain where the features have them
    components: tuple[ComponentName, ...] = DEFAULT
    # models of one component, label and fold that differ in their seed; their logits are averaged
    seeds: int = Field(1, ge=1, le=100)
    # `any` is raised to the largest subtype; off: a subtype left to stage one pulls it up
    any_at_least_largest: bool = False
    trials: int = Field(20, ge=1)  # optuna trials for each label and outer fold
    # optuna's storage, as a database URL that several machines may share; empty: files in the run
    # folder
    storage: str = ""
    max_rounds: int = Field(200, ge=1)  # rounds of boosting that a trial tries, at most
    # of the component lightgbm: rounds in the blend, in units of those that are best for it alone;
    # of pooled: rounds that are tried, in units of max_rounds
    blend_rounds: float = Field(2.0, ge=1, le=5)
    # whether pooled reads the slices at one distance below and above as the smaller and the larger
    # of both, so that a series and its mirror image are alike
    symmetric: bool = True
    # a label with positives in fewer patients of the training folds is not stacked
    positive_patients: int = Field(3, ge=2)
    # a label is stacked where the interval of its inner gain at this level lies above zero. At 0 it
    # is where its middle does: with few patients that is chance, and may be worse than stage one
    confidence: float = Field(0.95, ge=0, lt=1)
    # what counts as one observation in a calibration: a patient, so that few positive patients
    # change the CNNs' logits little, or each slice
    calibrate_by: Literal["patient", "slice"] = "patient"
    # bins of a feature for LightGBM, narrow in both tails: fits take less time; 0: its own 255,
    # equally full
    tail_bins: int = Field(0, ge=0, le=250)
    # of one LightGBM fit; fits run side by side on all cores anyway
    threads: int = Field(1, ge=1, le=1024)

    @property
    def has_tuned(self) -> bool:
        """Whether a component is blended whose settings are searched."""
        return not {*TUNED}.isdisjoint(self.components)

    @field_validator("components")
    @classmethod
    def _with_the_cnns(cls, components: tuple[str, ...]) -> tuple[str, ...]:
        if "raw" not in components or len(set(components)) < len(components):
            raise ValueError(
                "raw, the mean of the CNNs, is always one of them, and none is named twice"
            )
        return components


def check_installed(components: Iterable[str]) -> None:
    """Raise InputError where a component needs a package that is not installed."""
    for name, package in PACKAGES.items():
        if name in components and not find_spec(package):
            raise InputError(
                f"stage2.components: {name} is not installed: "
                f"pip install -e '.[{package}]', or leave it out"
            )
