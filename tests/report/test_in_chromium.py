"""The report in Chromium: it opens without a complaint, and whoever has only keys, a wheel or a
phone can scroll in it.
"""

import shutil

import chromium as reader
import pytest
from chromium import by, opened

import run as command_line
from ct.run_dir import RunDir

pytestmark = [pytest.mark.slow, reader.NEEDED]


@pytest.fixture(scope="module")
def page(finished, tmp_path_factory):
    """The report of a run, with Grad-CAM maps, as the address of a file, and the run."""
    pytest.importorskip("captum", reason="captum is not installed: pip install -e '.[explain]'")
    copy = tmp_path_factory.mktemp("browser") / "run"
    shutil.copytree(finished, copy)
    for verb in ("explain", "report"):
        assert command_line.main([verb, f"--run={copy}"]) == 0
    made = RunDir(copy)
    return made.report.as_uri(), made


@pytest.mark.parametrize("does", [reader.scroll, reader.switch_windows, reader.overlay])
def test_keys_wheel_windows_and_overlay(browser, page, does):
    opened(browser, page[0])
    does(browser)


def test_a_link_of_the_costliest_slices_leads_there(browser, page):
    opened(browser, page[0])
    study, wanted = reader.follow_a_link(browser)
    opened(browser, f"{page[0]}#study={study}&slice={wanted}")
    assert by(browser, "link").get_attribute("href").endswith(f"slice={wanted}")


def test_errors_are_filtered(browser, page):
    opened(browser, page[0])
    count = lambda: int(by(browser, "count").text.split()[0])  # noqa: E731
    whole, found = count(), {}
    for label in range(1, 7):
        by(browser, "label").find_elements("tag name", "option")[label].click()
        for kind in (1, 2):
            by(browser, "kind").find_elements("tag name", "option")[kind].click()
            found[label, kind] = count()
        by(browser, "kind").find_elements("tag name", "option")[0].click()
        assert count() == found[label, 1] + found[label, 2]
    assert whole == sum(found.values()) > 0


@pytest.mark.parametrize("width", reader.SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_screen_and_everybody_can_read_it(browser, page, width, scheme, tmp_path):
    reader.dress(browser, reader.SIZES[width], scheme)
    opened(browser, page[0])
    by(browser, "map").find_elements("tag name", "option")[1].click()
    reader.fits(browser, tmp_path, f"{width}-{scheme}")


def test_the_page_of_one_study(browser, page):
    address, made = page
    study = next(made.gradcam_folder("resnet").glob("*.json")).stem
    assert command_line.main(["report", f"--run={made.root}", f"--study={study}"]) == 0
    opened(browser, made.study_page(study).as_uri())
    assert by(browser, "study").get_property("value") == study


@pytest.mark.parametrize("width", reader.SIZES)
def test_the_page_of_scores(browser, page, competition, width, tmp_path):
    """Scrolls as well; of errors and maps there is nothing."""
    words = [
        "score",
        f"--run={page[1].root}",
        f"--data={competition / 'stage_2_test'}",
        f"--to={tmp_path / 'out'}",
    ]
    assert command_line.main(words) == 0
    reader.dress(browser, reader.SIZES[width], "dark")
    opened(browser, (tmp_path / "out" / "page.html").as_uri())
    assert not by(browser, "errors").is_displayed() and not by(browser, "overlay").is_displayed()
    reader.scroll(browser)
    reader.switch_windows(browser)
    reader.fits(browser, tmp_path, width, ("study-browser", "slices"))


INJECTED = """<p id="strange" style="position: fixed">x</p><script>document.title = "ran"</script>
<img src="x.png" onerror="document.title = 'ran'"><svg onload="document.title = 'ran'"></svg><base href="https://example.org/">
<form action="https://example.org/"><button id="send">send</button></form></body>"""


@pytest.mark.parametrize("kind", ["report", "study", "scores"])
def test_what_strangers_put_into_a_page_does_nothing(browser, page, competition, kind, tmp_path):
    """The page itself is well with its policy, which `browser` asserts of all pages; what is put
    into it does not run.
    """
    address, made = page
    study = next(made.gradcam_folder("resnet").glob("*.json")).stem
    words = {
        "report": None,
        "study": ["report", f"--run={made.root}", f"--study={study}"],
        "scores": [
            "score",
            f"--run={made.root}",
            f"--data={competition / 'stage_2_test'}",
            f"--to={tmp_path / 'out'}",
        ],
    }[kind]
    assert not words or command_line.main(words) == 0
    path = {
        "report": made.report,
        "study": made.study_page(study),
        "scores": tmp_path / "out" / "page.html",
    }[kind]
    copy = tmp_path / "copy.html"
    copy.write_text(path.read_text().replace("</body>", INJECTED))
    opened(browser, copy.as_uri())
    browser.execute_script("document.getElementById('send').click()")
    assert browser.title != "ran" and browser.current_url == copy.as_uri()
    place = "return getComputedStyle(document.getElementById('strange')).position"
    assert browser.execute_script(place) == "static"
    assert browser.execute_script("return document.baseURI") == copy.as_uri()
    complaints = [entry["message"] for entry in browser.get_log("browser")]
    assert len(complaints) >= 5 and all("Content Security Policy" in text for text in complaints), (
        complaints
    )
    opened(browser, path.as_uri())
