"""The report of a run: one HTML file that opens from disk. Reads artifacts, computes nothing that a stage should have."""

from report.page import write_report

__all__ = ["write_report"]
