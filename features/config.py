"""What stage two looks at."""

from pydantic import Field, PositiveFloat, field_validator

from ct.config import Config


class FeatureConfig(Config):
    """Which features are built."""

    reach: int = Field(3, ge=0, le=20)  # neighbours on each side whose logits enter one by one
    smooth_mm: tuple[PositiveFloat, ...] = (3.0, 8.0)  # widths of the Gaussian means along the slice normal, mm
    study: bool = True  # summaries over the whole study
    geometry: bool = True  # place in the series, spacing, tilt, areas and HU of the pixels
    clip: float = Field(1e-5, gt=0, lt=0.1)  # probabilities are clipped this far from 0 and 1 before their logit is taken

    @field_validator("smooth_mm")
    @classmethod
    def _each_width_once(cls, widths):
        names = [f"{width:g}" for width in widths]
        if len(set(names)) < len(names):
            raise ValueError("a width is given twice; each makes features of one name")
        return widths
