"""A config with every feature family, for the tests."""

from features.config import FeatureConfig

RICH = FeatureConfig(
    reach=2,
    model_reach=1,
    difference_reach=1,
    smooth_mm=(2.5, 8),
    smooth_best=True,
    rolling=(1, 2),
    cumulative=True,
    chain=True,
    probe=True,
    other_studies=True,
    place=True,
    padding=True,
    scanner=True,
)
