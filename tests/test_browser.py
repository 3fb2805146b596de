"""The report in Chromium: it opens without a complaint, and whoever has only keys, a wheel or a phone can scroll in it."""

import shutil

import pytest

import run as command_line
from ct.rundir import RunDir

selenium = pytest.importorskip("selenium", reason="selenium is not installed: pip install -e '.[dev]'")
CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium or chromedriver: apt-get install chromium-driver"),
]
SIZES = {"wide": 1280, "narrow": 390}


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


@pytest.fixture(scope="module")
def chromium():
    from selenium import webdriver

    options, service = webdriver.ChromeOptions(), webdriver.ChromeService(DRIVER)
    options.binary_location = CHROMIUM
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, service)
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium):
    """Chromium, wide and light; afterwards nothing may stand in its console."""
    dress(chromium, 1280, "light")
    chromium.get("about:blank")
    chromium.get_log("browser")
    yield chromium
    assert chromium.get_log("browser") == []


def dress(chromium, width, scheme):
    sizes = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", sizes)
    features = [{"name": "prefers-color-scheme", "value": scheme}, {"name": "prefers-reduced-motion", "value": "reduce"}]
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def opened(browser, address):
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(address)
    WebDriverWait(browser, 60).until(lambda driver: drawn(driver) is not None)


def by(browser, name):
    return browser.find_element("id", f"b-{name}")


def slice_now(browser):
    return int(by(browser, "slice").get_property("value"))


def drawn(browser):
    """What the canvas shows, None while it is blank."""
    return browser.execute_script(
        "const c = document.getElementById('b-canvas'), blank = document.createElement('canvas');"
        "blank.width = c.width; blank.height = c.height;"
        "return c.toDataURL() === blank.toDataURL() ? null : c.toDataURL();"
    )


def turns(browser, before):
    """Wait until the canvas shows something else, and return its digest."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 30).until(lambda driver: drawn(driver) not in (before, None) and drawn(driver))


def test_keys_wheel_and_slider_scroll(browser, page):
    from selenium.webdriver.common.action_chains import ActionChains, ScrollOrigin
    from selenium.webdriver.common.keys import Keys

    opened(browser, page[0])
    screen, picture = by(browser, "screen"), drawn(browser)
    screen.send_keys(Keys.HOME)
    assert slice_now(browser) == 0
    screen.send_keys(Keys.ARROW_UP)
    assert slice_now(browser) == 1 and "2 of 5" in by(browser, "canvas").get_attribute("aria-label")
    screen.send_keys(Keys.END)
    assert slice_now(browser) == 4
    picture = turns(browser, picture)
    ActionChains(browser).scroll_from_origin(ScrollOrigin.from_element(screen), 0, 100).perform()
    assert slice_now(browser) == 3
    picture = turns(browser, picture)
    by(browser, "slice").send_keys(Keys.ARROW_LEFT)
    assert slice_now(browser) == 2
    turns(browser, picture)


def test_windows_and_overlay(browser, page):
    opened(browser, page[0])
    picture = drawn(browser)
    buttons = by(browser, "windows").find_elements("tag name", "button")
    assert [button.text for button in buttons] == ["brain", "subdural", "soft", "bone"]
    buttons[3].click()
    picture = turns(browser, picture)
    assert [button.get_attribute("aria-pressed") for button in buttons] == ["false", "false", "false", "true"]
    by(browser, "screen").send_keys("1")
    turns(browser, picture)
    heat = "const c = document.getElementById('b-heat'), blank = document.createElement('canvas');"
    heat += "blank.width = c.width; blank.height = c.height; return c.toDataURL() !== blank.toDataURL();"
    assert not browser.execute_script(heat)
    by(browser, "map").find_elements("tag name", "option")[1].click()
    assert "the CNN of fold" in by(browser, "mapnote").text or "the mean of all 2 folds" in by(browser, "mapnote").text
    seen = []
    for number in range(5):
        browser.execute_script(f"const s = document.getElementById('b-slice'); s.value = {number};"
                               "s.dispatchEvent(new Event('input'));")  # fmt: skip
        turns(browser, None)
        seen.append(browser.execute_script(heat))
    assert any(seen)


def test_a_link_of_the_costliest_slices_leads_there(browser, page):
    opened(browser, page[0])
    link = browser.find_elements("css selector", ".costly a[href*='slice=']")[0]
    study, wanted = link.get_attribute("href").partition("#study=")[2].split("&slice=")
    link.click()
    assert by(browser, "study").get_property("value") == study
    assert by(browser, "link").get_attribute("href").endswith(f"slice={wanted}")
    assert browser.switch_to.active_element.get_attribute("id") == "b-screen"
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


@pytest.mark.parametrize("width", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_screen_and_everybody_can_read_it(browser, page, width, scheme, tmp_path):
    axe = pytest.importorskip("axe_selenium_python", reason="axe is not installed: pip install -e '.[dev]'")
    dress(browser, SIZES[width], scheme)
    opened(browser, page[0])
    assert browser.execute_script("return document.documentElement.scrollWidth") <= SIZES[width]
    by(browser, "map").find_elements("tag name", "option")[1].click()
    for name, place in (("top", "summary"), ("browser", "study-browser")):
        browser.execute_script(f"document.getElementById('{place}').scrollIntoView()")
        assert browser.save_screenshot(str(tmp_path / f"{name}-{width}-{scheme}.png"))
    check = axe.Axe(browser)
    check.inject()
    context = {"include": [["html"]], "exclude": [[".heat td"]]}  # nor does it know color-mix()
    found = [each for each in check.run(context)["violations"] if each["impact"] in ("serious", "critical")]
    serious = [each for each in found if each["id"] != "dlitem"]  # it is older than <div> within <dl>
    assert [(each["id"], [node["html"][:120] for node in each["nodes"][:3]]) for each in serious] == []


def test_the_page_of_one_study(browser, page):
    address, made = page
    study = next(made.explain("resnet").glob("*.json")).stem
    assert command_line.main(["report", f"--run={made.root}", f"--study={study}"]) == 0
    opened(browser, made.study_page(study).as_uri())
    assert by(browser, "study").get_property("value") == study
