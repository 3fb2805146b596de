"""The parts of benchmarks.scale_out: a schedule that is simulated, and real runs on each engine."""
