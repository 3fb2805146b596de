"""The sections of the report, each from artifacts to what the template prints."""
