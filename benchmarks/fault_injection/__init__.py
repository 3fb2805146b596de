"""Faults of the machine, for `benchmarks.faults`: where they strike, and a process that is hit."""
