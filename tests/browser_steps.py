"""Steps on a page of the report in Chromium: scroll, change windows, check the layout."""

import re
import shutil

import pytest

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
NEEDED = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no chromium or chromedriver: apt-get install chromium-driver"
)
SIZES = {"wide": 1280, "narrow": 390}


def set_screen(browser, width, scheme):
    """Set the width in pixels, and the scheme, light or dark."""
    sizes = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", sizes)
    features = [
        {"name": "prefers-color-scheme", "value": scheme},
        {"name": "prefers-reduced-motion", "value": "reduce"},
    ]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def open_page(browser, address):
    """Open a page and wait until its study browser shows a slice."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(address)
    WebDriverWait(browser, 60).until(lambda driver: canvas_image(driver) is not None)


def element(browser, name):
    """Return an element of the study browser."""
    return browser.find_element("id", f"b-{name}")


def current_slice(browser):
    """Return the position of the slider."""
    return int(element(browser, "slice").get_property("value"))


def canvas_image(browser, canvas="canvas"):
    """Return the image of a canvas as a data URL, None while it is blank."""
    return browser.execute_script(
        f"const c = document.getElementById('b-{canvas}');"
        "const blank = document.createElement('canvas');"
        "blank.width = c.width; blank.height = c.height;"
        "return c.toDataURL() === blank.toDataURL() ? null : c.toDataURL();"
    )


def wait_for_slice(browser, window="brain"):
    """Wait until the canvas shows the slice of the slider in a window, and return its image."""
    from selenium.webdriver.support.ui import WebDriverWait

    last = int(element(browser, "slice").get_property("max"))
    caption = f"{window}  {current_slice(browser) + 1}/{last + 1}"
    WebDriverWait(browser, 30).until(
        lambda driver: element(driver, "corner").get_property("textContent") == caption
    )
    return canvas_image(browser)


def scroll_study(browser):
    """Scroll through the study by keys, wheel and slider."""
    from selenium.webdriver.common.action_chains import ActionChains, ScrollOrigin
    from selenium.webdriver.common.keys import Keys

    screen, last = element(browser, "screen"), int(element(browser, "slice").get_property("max"))
    screen.send_keys(Keys.HOME)
    assert current_slice(browser) == 0
    screen.send_keys(Keys.ARROW_UP)
    assert current_slice(browser) == 1 and f"2 of {last + 1}" in element(
        browser, "canvas"
    ).get_attribute("aria-label")
    pictures = [wait_for_slice(browser)]
    screen.send_keys(Keys.END)
    assert current_slice(browser) == last
    pictures.append(wait_for_slice(browser))
    ActionChains(browser).scroll_from_origin(ScrollOrigin.from_element(screen), 0, 100).perform()
    assert current_slice(browser) == last - 1
    pictures.append(wait_for_slice(browser))
    element(browser, "slice").send_keys(Keys.ARROW_LEFT)
    assert current_slice(browser) == last - 2
    pictures.append(wait_for_slice(browser))
    assert None not in pictures and len(set(pictures)) > 2  # two slices above the head may be black


def switch_windows(browser):
    """Choose the bone window by its button, the brain window by its key."""
    brain = wait_for_slice(browser)
    buttons = element(browser, "windows").find_elements("tag name", "button")
    assert [button.text for button in buttons] == ["brain", "subdural", "soft", "bone"]
    # else the sticky head may cover it
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", buttons[3])
    buttons[3].click()
    assert wait_for_slice(browser, "bone") not in (None, brain)
    assert [button.get_attribute("aria-pressed") for button in buttons] == [
        "false",
        "false",
        "false",
        "true",
    ]
    element(browser, "screen").send_keys("1")
    assert wait_for_slice(browser) == brain


def show_gradcam(browser):
    """Switch on the Grad-CAM maps of the first CNN: some slice shows one."""
    assert canvas_image(browser, "heat") is None
    element(browser, "map").find_elements("tag name", "option")[1].click()
    assert re.search(r"the CNN of fold|the mean of all \d folds", element(browser, "mapnote").text)
    for number in range(int(element(browser, "slice").get_property("max")) + 1):
        browser.execute_script(
            f"const s = document.getElementById('b-slice'); s.value = {number};"
            "s.dispatchEvent(new Event('input'));"
        )
        wait_for_slice(browser)
        if canvas_image(browser, "heat"):
            return
    raise AssertionError("no slice shows a map")


def follow_slice_link(browser):
    """Follow the first link to a slice with a great loss. Returns (study, slice)."""
    from selenium.webdriver.support.ui import WebDriverWait

    link = browser.find_elements("css selector", ".losses a[href*='slice=']")[0]
    study, slice_id = link.get_attribute("href").partition("#study=")[2].split("&slice=")
    link.click()
    # the page opens the slice after the event `hashchange`, which comes after the click
    WebDriverWait(browser, 10).until(
        lambda _: element(browser, "study").get_property("value") == study
    )
    assert element(browser, "link").get_attribute("href").endswith(f"slice={slice_id}")
    assert browser.switch_to.active_element.get_attribute("id") == "b-screen"
    return study, slice_id


def check_layout(browser, folder, name, places=("summary", "study-browser")):
    """Assert that the page is no wider than the screen and that axe finds nothing serious.

    Screenshots of the sections `places` are written to folder.
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
    context = {"include": [["html"]], "exclude": [[".heat td"]]}  # axe cannot compute color-mix()
    violations = [
        each
        for each in check.run(context)["violations"]
        if each["impact"] in ("serious", "critical")
    ]
    # axe does not accept <div> within <dl>
    serious = [each for each in violations if each["id"] != "dlitem"]
    assert [
        (each["id"], [node["html"][:120] for node in each["nodes"][:3]]) for each in serious
    ] == []


def check_report(browser, address, folder):
    """Take all steps on a report: wide and narrow, light and dark."""
    for size, width in SIZES.items():
        for scheme in ("light", "dark"):
            set_screen(browser, width, scheme)
            open_page(browser, address)
            follow_slice_link(browser)
            scroll_study(browser)
            switch_windows(browser)
            show_gradcam(browser)
            check_layout(browser, folder, f"{size}-{scheme}")
