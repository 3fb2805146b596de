"""Optuna's search of the settings of a label's LightGBM booster."""
