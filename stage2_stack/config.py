"""Settings of stage two."""

from pydantic import Field

from ct.config import Config


class StackConfig(Config):
    """How the stackers are tuned and fitted."""

    trials: int = Field(20, ge=1)  # optuna trials for each label and outer fold
    storage: str = ""  # optuna's store, as a database URL that several machines may share; empty: files in the run folder
    max_rounds: int = Field(200, ge=1)  # longest boosting that a trial looks at
    positive_patients: int = Field(3, ge=2)  # a label with fewer among the training folds is not stacked
    confidence: float = Field(0.95, ge=0, lt=1)  # it is stacked where this interval of its inner gain lies above zero
    threads: int = Field(1, ge=1)  # of one LightGBM fit; fits run side by side on all cores anyway
