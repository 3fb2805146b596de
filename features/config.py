"""Which features are built."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, field_validator

from ct.config import Config


class FeatureConfig(Config):
    """Which features are built.

    The defaults suit a small run. The rich set, for thousands of studies, is

    features: {reach: 10, model_reach: 10, difference_reach: 10, smooth_mm: [2.5, 5, 10, 20],
               smooth_best: true, rolling: [1, 2, 4], cumulative: true, chain: true, probe: true,
               place: true}
    """

    # weights of the CNNs in their mean logit, per label: equal, or fitted on the other folds where
    # that gains significantly
    cnn_weights: Literal["fitted", "equal"] = "fitted"
    # neighbours on each side whose logits, mean over the CNNs, are features
    reach: int = Field(3, ge=0, le=20)
    # the same for each CNN, where there are several
    model_reach: int = Field(0, ge=0, le=20)
    # neighbours on each side whose difference from the slice is a feature
    difference_reach: int = Field(0, ge=0, le=20)
    # widths (sigma) of Gaussian means along the slice normal, mm
    smooth_mm: tuple[PositiveFloat, ...] = (3.0, 8.0)
    # a Gaussian mean with the best width of each label (features/neighbours.py: BEST_MM)
    smooth_best: bool = False
    # minimum and maximum logit within this number of slices on each side
    rolling: tuple[Annotated[int, Field(ge=1, le=20)], ...] = ()
    # mean and standard deviation of the logits of all slices below, and of all above
    cumulative: bool = False
    # posterior logits of a two-state Markov chain along the series, fitted on the other folds
    chain: bool = False
    # logits of a linear probe of the CNN embeddings, fitted on other patients
    probe: bool = False
    # summaries over the whole study
    study: bool = True
    # the patient's other studies; few test patients have one, often a follow-up
    other_studies: bool = False
    # place in the series, spacing, tilt, areas and HU of the pixels
    geometry: bool = True
    # absolute position, distance to the nearer end, brain area relative to the series' largest
    place: bool = False
    # whether the slice is padded; informative in train, but the share of padded slices differs in
    # test
    padding: bool = False
    # header values that differ between scanners and sites
    scanner: bool = False
    # imported probabilities, and those of older versions, are clipped to [clip, 1 - clip] before
    # their logit is taken; logits of a CNN are not clipped
    clip: float = Field(1e-5, gt=0, lt=0.1)

    @field_validator("smooth_mm", "rolling")
    @classmethod
    def _each_width_once(cls, widths: tuple[float, ...]) -> tuple[float, ...]:
        names = [f"{width:g}" for width in widths]
        if len(set(names)) < len(names):
            raise ValueError("a width occurs twice, and its features would have the same names")
        return widths
