"""The batches that a CNN gets: which slices, read ahead, augmented and windowed."""
