"""Component `raw`: the mean logit of the CNNs, weighted where that gains."""

from stage2_stack.components.feature_column import FeatureColumn


class CnnMean(FeatureColumn):
    """Stage one as it is; a label that is not stacked keeps its calibration."""

    title = "mean of the CNNs"
    tuned_on = "its calibration, and the weights of the CNNs where they gain"
