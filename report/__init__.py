"""The report of a run: one HTML file, made of what the stages have written to the run folder."""

from report.page import shown_studies, write_report, write_study

__all__ = ["shown_studies", "write_report", "write_study"]
