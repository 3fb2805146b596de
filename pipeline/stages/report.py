"""The stage `report`: write report.html."""

from report import write_report


def report(run, receipt):
    """Write report.html."""
    with run.bar(None, "report", "section") as bar:
        receipt.made = [
            write_report(run.dir, lambda section: bar.update(), run.recipe.report.browser_slices)
        ]
