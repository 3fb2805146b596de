"""A reader of the report: opens it in Chromium, scrolls, looks for what a page may not do."""

import re
import shutil

import pytest

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
NEEDED = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no chromium or chromedriver: apt-get install chromium-driver"
)
SIZES = {"wide": 1280, "narrow": 390}


def dress(browser, width, scheme):
    """Set the width in pixels, and the scheme, light or dark."""
    sizes = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", sizes)
    features = [
        {"name": "prefers-color-scheme", "value": scheme},
        {"name": "prefers-reduced-motion", "value": "reduce"},
    ]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def opened(browser, address):
    """Open a page and wait until its browser shows a slice."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(address)
    WebDriverWait(browser, 60).until(lambda driver: drawn(driver) is not None)


def by(browser, name):
    return browser.find_element("id", f"b-{name}")


def slice_now(browser):
    return int(by(browser, "slice").get_property("value"))


def drawn(browser, canvas="canvas"):
    """What the canvas shows, None while it is blank."""
    return browser.execute_script(
        f"const c = document.getElementById('b-{canvas}'), blank = document.createElement('canvas');"
        "blank.width = c.width; blank.height = c.height;"
        "return c.toDataURL() === blank.toDataURL() ? null : c.toDataURL();"
    )


def shown(browser, window="brain"):
    """Wait until the canvas shows the slice of the slider in a window, and return what it shows."""
    from selenium.webdriver.support.ui import WebDriverWait

    last = int(by(browser, "slice").get_property("max"))
    wanted = f"{window}  {slice_now(browser) + 1}/{last + 1}"
    WebDriverWait(browser, 30).until(
        lambda driver: by(driver, "corner").get_property("textContent") == wanted
    )
    return drawn(browser)


def scroll(browser):
    """Go through the study by keys, wheel and slider."""
    from selenium.webdriver.common.action_chains import ActionChains, ScrollOrigin
    from selenium.webdriver.common.keys import Keys

    screen, last = by(browser, "screen"), int(by(browser, "slice").get_property("max"))
    screen.send_keys(Keys.HOME)
    assert slice_now(browser) == 0
    screen.send_keys(Keys.ARROW_UP)
    assert slice_now(browser) == 1 and f"2 of {last + 1}" in by(browser, "canvas").get_attribute(
        "aria-label"
    )
    pictures = [shown(browser)]
    screen.send_keys(Keys.END)
    assert slice_now(browser) == last
    pictures.append(shown(browser))
    ActionChains(browser).scroll_from_origin(ScrollOrigin.from_element(screen), 0, 100).perform()
    assert slice_now(browser) == last - 1
    pictures.append(shown(browser))
    by(browser, "slice").send_keys(Keys.ARROW_LEFT)
    assert slice_now(browser) == last - 2
    pictures.append(shown(browser))
    assert None not in pictures and len(set(pictures)) > 2  # above the vertex two may be black


def switch_windows(browser):
    """Take the bone window by its button, and the brain's by its key."""
    brain = shown(browser)
    buttons = by(browser, "windows").find_elements("tag name", "button")
    assert [button.text for button in buttons] == ["brain", "subdural", "soft", "bone"]
    # not below the sticky head
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", buttons[3])
    buttons[3].click()
    assert shown(browser, "bone") not in (None, brain)
    assert [button.get_attribute("aria-pressed") for button in buttons] == [
        "false",
        "false",
        "false",
        "true",
    ]
    by(browser, "screen").send_keys("1")
    assert shown(browser) == brain


def overlay(browser):
    """Switch the first CNN's maps on: somewhere in the study they show."""
    assert drawn(browser, "heat") is None
    by(browser, "map").find_elements("tag name", "option")[1].click()
    assert re.search(r"the CNN of fold|the mean of all \d folds", by(browser, "mapnote").text)
    for number in range(int(by(browser, "slice").get_property("max")) + 1):
        browser.execute_script(
            f"const s = document.getElementById('b-slice'); s.value = {number};s.dispatchEvent(new Event('input'));"
        )
        shown(browser)
        if drawn(browser, "heat"):
            return
    raise AssertionError("no slice shows a map")


def follow_a_link(browser):
    """Follow the first link to a slice that cost much. Returns (study, slice)."""
    link = browser.find_elements("css selector", ".losses a[href*='slice=']")[0]
    study, wanted = link.get_attribute("href").partition("#study=")[2].split("&slice=")
    link.click()
    assert by(browser, "study").get_property("value") == study
    assert by(browser, "link").get_attribute("href").endswith(f"slice={wanted}")
    assert browser.switch_to.active_element.get_attribute("id") == "b-screen"
    return study, wanted


def fits(browser, folder, name, places=("summary", "study-browser")):
    """The page is no wider than the screen, and axe finds nothing serious. Screenshots of some
    sections lie in folder.
    """
    axe = pytest.importorskip(
        "axe_selenium_python", reason="axe is not installed: pip install -e '.[dev]'"
    )
    assert browser.execute_script(
        "return document.documentElement.scrollWidth <= window.innerWidth"
    )
    for place in places:
        browser.execute_script(f"document.getElementById('{place}').scrollIntoView()")
        assert browser.save_screenshot(str(folder / f"{name}-{place}.png"))
    check = axe.Axe(browser)
    check.inject()
    context = {"include": [["html"]], "exclude": [[".heat td"]]}  # it does not know color-mix()
    found = [
        each
        for each in check.run(context)["violations"]
        if each["impact"] in ("serious", "critical")
    ]
    # it is older than <div> within <dl>
    serious = [each for each in found if each["id"] != "dlitem"]
    assert [
        (each["id"], [node["html"][:120] for node in each["nodes"][:3]]) for each in serious
    ] == []


def walk(browser, address, folder):
    """All of it, wide and narrow, by day and by night."""
    for size, width in SIZES.items():
        for scheme in ("light", "dark"):
            dress(browser, width, scheme)
            opened(browser, address)
            follow_a_link(browser)
            scroll(browser)
            switch_windows(browser)
            overlay(browser)
            fits(browser, folder, f"{size}-{scheme}")
