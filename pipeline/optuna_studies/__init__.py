"""Optuna studies on disk or in a database, and the trials of a CNN search."""
