"""What stage two looks at."""

from typing import Annotated

from pydantic import Field, PositiveFloat, field_validator

from ct.config import Config


class FeatureConfig(Config):
    """Which features are built. The defaults suit a small run; the rich set, for thousands of
    studies, is

    features: {reach: 10, model_reach: 10, difference_reach: 10, smooth_mm: [2.5, 5, 10, 20],
    smooth_best: true,
               rolling: [1, 2, 4], cumulative: true, chain: true, probe: true, place: true}
    """

    # neighbours on each side whose logits, mean over the CNNs, enter one by one
    reach: int = Field(3, ge=0, le=20)
    # the same of each CNN by itself, where there are several
    model_reach: int = Field(0, ge=0, le=20)
    # neighbours on each side whose difference to the slice enters
    difference_reach: int = Field(0, ge=0, le=20)
    # widths of the Gaussian means along the slice normal, mm
    smooth_mm: tuple[PositiveFloat, ...] = (3.0, 8.0)
    # a Gaussian mean of each label's own width (features/neighbours.py: BEST_MM)
    smooth_best: bool = False
    # smallest and largest logit within so many slices
    rolling: tuple[Annotated[int, Field(ge=1, le=20)], ...] = ()
    cumulative: bool = False  # mean and spread of all that lies below a slice, and above
    # posterior logit of a two-state Markov chain along the series, fitted on the other folds'
    # labels
    chain: bool = False
    # logits of a linear probe of the CNNs' embeddings, fitted on other patients' labels
    probe: bool = False
    study: bool = True  # summaries over the whole study
    # the patient's other studies; few test patients have one, and they are often follow-ups
    other_studies: bool = False
    geometry: bool = True  # place in the series, spacing, tilt, areas and HU of the pixels
    # more of it: absolute height, distance to the nearer end, brain's area beside the series'
    # largest
    place: bool = False
    # whether the slice is padded: a real signal in train, whose share differs in test
    padding: bool = False
    scanner: bool = False  # header values that tell one scanner or site from another
    # probabilities are clipped this far from 0 and 1 before their logit is taken
    clip: float = Field(1e-5, gt=0, lt=0.1)

    @field_validator("smooth_mm", "rolling")
    @classmethod
    def _each_width_once(cls, widths):
        names = [f"{width:g}" for width in widths]
        if len(set(names)) < len(names):
            raise ValueError("a width is given twice; each makes features of one name")
        return widths
