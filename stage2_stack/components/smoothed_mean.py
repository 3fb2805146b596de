"""Component `smooth`: a Gaussian mean of the CNNs' logits along the series."""

from stage2_stack.components.feature_column import FeatureColumn


class SmoothedMean(FeatureColumn):
    """The mean logit of the CNNs, smoothed along the slice normal with each label's own width."""

    title, tuned_on = "smoothed", "widths that served public solutions"
    ending = "_smooth_best"
