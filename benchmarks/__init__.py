"""Measurements of speed, memory and gain, and two searches for faults. Figures: RESULTS.md.

Each is a module that runs by itself from the repository's root: `python -m benchmarks.ingest`.
"""
