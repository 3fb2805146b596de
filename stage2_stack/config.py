"""Settings of stage two."""

from importlib.util import find_spec
from typing import Literal

from pydantic import Field, field_validator

from ct.config import Config
from ct.errors import InputError

DEFAULT = ("raw", "smooth", "chain", "lightgbm", "pooled", "subtypes")
COMPONENTS = (*DEFAULT, "xgboost", "catboost", "gru")
# components that need a package, and an extra, of their own name
OPTIONAL = ("xgboost", "catboost")


class StackConfig(Config):
    """How the stackers are tuned and fitted."""

    # what is blended; smooth and chain where the features have them
    components: tuple[Literal[COMPONENTS], ...] = DEFAULT
    # boosters of one kind and fold, alike but for their seed, whose logits are averaged
    seeds: int = Field(1, ge=1, le=100)
    # `any` is raised to the largest subtype; off: a subtype left to stage one pulls it up
    any_at_least_largest: bool = False
    trials: int = Field(20, ge=1)  # optuna trials for each label and outer fold
    # optuna's store, as a database URL that several machines may share; empty: files in the run
    # folder
    storage: str = ""
    max_rounds: int = Field(200, ge=1)  # longest boosting that a trial looks at
    # a label with fewer among the training folds is not stacked
    positive_patients: int = Field(3, ge=2)
    # it is stacked where this interval of its inner gain lies above zero
    confidence: float = Field(0.95, ge=0, lt=1)
    # of one LightGBM fit; fits run side by side on all cores anyway
    threads: int = Field(1, ge=1, le=1024)

    @field_validator("components")
    @classmethod
    def _with_the_cnns(cls, components):
        if "raw" not in components or len(set(components)) < len(components):
            raise ValueError(
                "raw, the mean of the CNNs, is always one of them, and none is named twice"
            )
        return components


def check_installed(components):
    """Raise InputError where a component needs a package that is not installed."""
    for name in OPTIONAL:
        if name in components and not find_spec(name):
            raise InputError(
                f"stage2.components: {name} is not installed: pip install -e '.[{name}]', or leave it out"
            )
