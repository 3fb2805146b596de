"""The report of a run: one HTML file that opens from disk. Reads artifacts, computes nothing that a
stage should have.
"""

from report.page import write_report, write_study
from report.viewer import shown_studies

__all__ = ["shown_studies", "write_report", "write_study"]
