"""Learners that fit one model, of LightGBM or recurrent, and their fits on nested folds."""
