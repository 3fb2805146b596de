"""Component `chain`: the posterior of a two-state Markov chain along the series."""

from stage2_stack.components.feature_column import FeatureColumn


class MarkovPosterior(FeatureColumn):
    """The posterior logit of a Markov chain, which features/ fits on the other folds' labels."""

    title, tuned_on = "chain", "rates and temper on the other folds"
    ending = "_chain"
