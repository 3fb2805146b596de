"""Slices, studies and runs of the competition's size, made by repeating a few."""
