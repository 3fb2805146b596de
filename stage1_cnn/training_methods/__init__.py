"""Methods of training of a recipe: gradient checkpointing, mean weights, a held body."""
