"""The verbs: checked plans, a table of stages, and what is fresh or stale."""
