"""Methods of training that a recipe may switch on: checkpointing of gradients, mean weights."""
