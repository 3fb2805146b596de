"""What `score` and `export-model` need: the fitted models, and studies that no run has."""
