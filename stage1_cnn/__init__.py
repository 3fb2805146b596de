"""Stage one: timm CNNs on patient-grouped folds; six probabilities and an embedding a slice."""
