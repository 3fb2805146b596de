"""Stage one: timm CNNs trained on patient-grouped folds; six probabilities and an embedding a
slice.
"""
