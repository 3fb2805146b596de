"""Where files come from: a folder or a zip archive, read in place."""
