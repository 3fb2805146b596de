"""Units of work: the pieces of a stage, each with its own receipt and its own lock."""
