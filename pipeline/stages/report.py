"""The stage `report`: write report.html."""

from pipeline.receipt import Receipt
from pipeline.run_context import Run
from report import write_report


def report(run: Run, receipt: Receipt) -> None:
    """Write report.html."""
    with run.bar(None, "report", "section") as bar:
        path = write_report(run.dir, lambda section: bar.update(), run.recipe.report.browser_slices)
    receipt.made = [path]
