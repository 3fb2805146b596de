"""For `benchmarks.faults`: where a fault hits, and a process that is killed at a rename."""
