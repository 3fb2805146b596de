"""The report in Chromium: no errors on the console; keys, wheel and a narrow screen work."""

import shutil

import browser_steps
import pytest
from browser_steps import element, open_page
from fabricated_run import make_run

import run as command_line
from ct.run_dir import RunDir
from ct.storage.file_formats import read_table, write_table
from report import write_report

pytest_plugins = "report_fixtures"
pytestmark = [pytest.mark.slow, browser_steps.NEEDED]


@pytest.fixture(scope="module")
def page(finished, tmp_path_factory):
    """(address of a report with Grad-CAM maps, its RunDir)."""
    pytest.importorskip("captum", reason="captum is not installed: pip install -e '.[explain]'")
    copy = tmp_path_factory.mktemp("browser") / "run"
    shutil.copytree(finished, copy)
    for verb in ("explain", "report"):
        assert command_line.main([verb, f"--run={copy}"]) == 0
    folder = RunDir(copy)
    return folder.report.as_uri(), folder


@pytest.mark.parametrize(
    "step", [browser_steps.scroll_study, browser_steps.switch_windows, browser_steps.show_gradcam]
)
def test_keys_wheel_windows_and_overlay(browser, page, step):
    open_page(browser, page[0])
    step(browser)


def test_a_link_in_the_table_of_losses_opens_its_slice(browser, page):
    open_page(browser, page[0])
    study, slice_id = browser_steps.follow_slice_link(browser)
    open_page(browser, f"{page[0]}#study={study}&slice={slice_id}")
    assert element(browser, "link").get_attribute("href").endswith(f"slice={slice_id}")


def test_errors_are_filtered(browser, page):
    open_page(browser, page[0])

    def count():
        return int(element(browser, "count").text.split()[0])

    whole, counts = count(), {}
    for label in range(1, 7):
        element(browser, "label").find_elements("tag name", "option")[label].click()
        for kind in (1, 2):
            element(browser, "kind").find_elements("tag name", "option")[kind].click()
            counts[label, kind] = count()
        element(browser, "kind").find_elements("tag name", "option")[0].click()
        assert count() == counts[label, 1] + counts[label, 2]
    assert whole == sum(counts.values()) > 0


@pytest.mark.parametrize("width", browser_steps.SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_the_screen_and_is_accessible(browser, page, width, scheme, tmp_path):
    browser_steps.set_screen(browser, browser_steps.SIZES[width], scheme)
    open_page(browser, page[0])
    element(browser, "map").find_elements("tag name", "option")[1].click()
    browser_steps.check_layout(browser, tmp_path, f"{width}-{scheme}")


def test_the_page_of_one_study(browser, page):
    address, folder = page
    study = next(folder.gradcam_folder("resnet").glob("*.json")).stem
    assert command_line.main(["report", f"--run={folder.root}", f"--study={study}"]) == 0
    open_page(browser, folder.study_page(study).as_uri())
    assert element(browser, "study").get_property("value") == study


@pytest.mark.parametrize("width", browser_steps.SIZES)
def test_the_page_of_scores(browser, page, competition, width, tmp_path):
    """It also scrolls; it has neither errors nor maps."""
    words = [
        "score",
        f"--run={page[1].root}",
        f"--data={competition / 'stage_2_test'}",
        f"--to={tmp_path / 'out'}",
    ]
    assert command_line.main(words) == 0
    browser_steps.set_screen(browser, browser_steps.SIZES[width], "dark")
    open_page(browser, (tmp_path / "out" / "page.html").as_uri())
    assert (
        not element(browser, "errors").is_displayed()
        and not element(browser, "overlay").is_displayed()
    )
    browser_steps.scroll_study(browser)
    browser_steps.switch_windows(browser)
    browser_steps.check_layout(browser, tmp_path, width, ("study-browser", "slices"))


def test_the_chosen_settings_fit_into_a_wide_page(browser, whole):
    browser.get(whole[2].report.as_uri())
    box = "const box = document.querySelector('.chosen').parentElement;"
    widths = browser.execute_script(f"{box} return [box.scrollWidth, box.clientWidth]")
    assert widths[0] == widths[1] > 1000


@pytest.mark.parametrize("width", browser_steps.SIZES)
def test_the_name_of_a_lane_keeps_its_swatch_beside_one_slice(browser, width, tmp_path):
    run = make_run(tmp_path / "run", slices=1)
    table = read_table(run.stage2 / "oof.parquet")
    write_table(run.stage2 / "oof.parquet", table * 0 + 0.9)  # every label has a lane
    browser_steps.set_screen(browser, browser_steps.SIZES[width], "light")
    browser.get(write_report(run).as_uri())
    tags = browser.execute_script(
        "return [...document.querySelectorAll('.film .tag')].map(tag => [tag.offsetHeight,"
        "tag.getBoundingClientRect().left - tag.parentElement.getBoundingClientRect().left])"
    )
    assert tags and len(tags) % 6 == 0
    assert all(height <= 20 and left == 10 for height, left in tags)


INJECTED = """<p id="injected" style="position: fixed">x</p><script>document.title = "ran"</script>
<img src="x.png" onerror="document.title = 'ran'"><svg onload="document.title = 'ran'"></svg><base href="https://example.org/">
<form action="https://example.org/"><button id="send">send</button></form></body>"""


@pytest.mark.parametrize("kind", ["report", "study", "scores"])
def test_markup_injected_into_a_page_does_nothing(browser, page, competition, kind, tmp_path):
    """The policy blocks it; that the page itself obeys the policy is asserted by `browser`."""
    address, folder = page
    study = next(folder.gradcam_folder("resnet").glob("*.json")).stem
    words = {
        "report": None,
        "study": ["report", f"--run={folder.root}", f"--study={study}"],
        "scores": [
            "score",
            f"--run={folder.root}",
            f"--data={competition / 'stage_2_test'}",
            f"--to={tmp_path / 'out'}",
        ],
    }[kind]
    assert not words or command_line.main(words) == 0
    path = {
        "report": folder.report,
        "study": folder.study_page(study),
        "scores": tmp_path / "out" / "page.html",
    }[kind]
    copy = tmp_path / "copy.html"
    copy.write_text(path.read_text().replace("</body>", INJECTED))
    open_page(browser, copy.as_uri())
    browser.execute_script("document.getElementById('send').click()")
    assert browser.title != "ran" and browser.current_url == copy.as_uri()
    place = "return getComputedStyle(document.getElementById('injected')).position"
    assert browser.execute_script(place) == "static"
    assert browser.execute_script("return document.baseURI") == copy.as_uri()
    complaints = [entry["message"] for entry in browser.get_log("browser")]
    assert len(complaints) >= 5 and all("Content Security Policy" in text for text in complaints), (
        complaints
    )
    open_page(browser, path.as_uri())
