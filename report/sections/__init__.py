"""The sections of the report: each function turns artifacts into what a template prints."""
