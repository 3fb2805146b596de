"""What a slice, a label, a fold, a score and a run folder are. Knows neither torch nor lightgbm."""
