"""The sections of the report: each function turns artifacts into values for a template."""
