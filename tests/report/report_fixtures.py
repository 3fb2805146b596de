"""Fixtures of the fabricated run and of its report, a plugin of the test modules here."""

import pytest
from fabricated_run import FakePixels, make_run, with_pixels
from parsed_page import page_of

import report.run_artifacts


@pytest.fixture(scope="session")
def fabricated(tmp_path_factory):
    """A whole run without pixels, made once. Not to be changed."""
    return make_run(tmp_path_factory.mktemp("report") / "demo")


@pytest.fixture
def report_run(fabricated, tmp_path, monkeypatch):
    """A copy of the fabricated run with fake pixels; it may be changed."""
    monkeypatch.setattr(report.run_artifacts, "PixelCache", FakePixels)
    return with_pixels(fabricated, tmp_path)


@pytest.fixture(scope="session")
def whole(fabricated, tmp_path_factory):
    """(text, parsed page, run) of the fabricated run's report. Not to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report.run_artifacts, "PixelCache", FakePixels)
        run = with_pixels(fabricated, tmp_path_factory.mktemp("whole"))
        return *page_of(run), run
