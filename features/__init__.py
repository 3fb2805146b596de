"""Features of stage two: logits of each slice, its neighbours and study, and the geometry."""
