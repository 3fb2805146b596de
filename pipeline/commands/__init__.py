"""The commands that are no stage, one module each, and the table that finds them."""
