"""Settings of stage two."""

from importlib.util import find_spec
from typing import Literal

from pydantic import Field, field_validator

from ct.config import Config
from ct.errors import InputError

DEFAULT = ("raw", "smooth", "chain", "lightgbm", "pooled", "subtypes")
COMPONENTS = (*DEFAULT, "xgboost", "catboost", "gru")
OPTIONAL = ("xgboost", "catboost")  # components that need a package, and an extra, of their own name


class StackConfig(Config):
    """How the stackers are tuned and fitted."""

    components: tuple[Literal[COMPONENTS], ...] = DEFAULT  # what is blended; smooth and chain where the features have them
    seeds: int = Field(1, ge=1, le=100)  # boosters of one kind and fold, alike but for their seed, whose logits are averaged
    any_at_least_largest: bool = False  # `any` is raised to the largest subtype; off: a subtype left to stage one pulls it up
    trials: int = Field(20, ge=1)  # optuna trials for each label and outer fold
    storage: str = ""  # optuna's store, as a database URL that several machines may share; empty: files in the run folder
    max_rounds: int = Field(200, ge=1)  # longest boosting that a trial looks at
    positive_patients: int = Field(3, ge=2)  # a label with fewer among the training folds is not stacked
    confidence: float = Field(0.95, ge=0, lt=1)  # it is stacked where this interval of its inner gain lies above zero
    threads: int = Field(1, ge=1, le=1024)  # of one LightGBM fit; fits run side by side on all cores anyway

    @field_validator("components")
    @classmethod
    def _with_the_cnns(cls, components):
        if "raw" not in components or len(set(components)) < len(components):
            raise ValueError("raw, the mean of the CNNs, is always one of them, and none is named twice")
        return components


def check_installed(components):
    """Raise InputError where a component needs a package that is not installed."""
    for name in OPTIONAL:
        if name in components and not find_spec(name):
            raise InputError(f"stage2.components: {name} is not installed: pip install -e '.[{name}]', or leave it out")
