"""The verbs that are no stage, one module each; dispatch.py has the table of verbs."""
