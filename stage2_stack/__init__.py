"""Stage two: a stacker that corrects the CNNs' predictions from the study around each slice.

The concepts of `stacker.fit_stack`:

StackData           the training slices as arrays: features, labels, folds, patients
StackContext        the input of every component's fit: StackData, NestedFolds, settings, seed
NestedFolds         the outer folds and, for each of them, the inner folds of all other rows
Component           predicts one logit per slice and label: a feature, boosters, a network
FittedComponent     a component's result for one label: predictions, model files, importances
NestedPredictions   a component's logits: nested (for decisions on fold k) and out of fold
Platt               calibration of a logit: slope and intercept
Blend               calibrations and weights of the components, for one label and outer fold
FoldStacker         all blends and model files of one outer fold: predicts slices
LabelStack          what fit_stack returns for a label: blends, probabilities, model files
"""
