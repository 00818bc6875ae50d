"""The page in headless Chromium: it renders, alone, by keyboard, light and dark, on a phone."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from host.report.cli import build
from tests.host.report.conftest import write

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER) and not os.environ.get("TINYSPLIT_REQUIRE_ALL"),
    reason="needs Chromium and its driver (apt install chromium chromium-driver)",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    path = folder / "report.html"
    path.write_text(build([write(folder, "a")])[0], "utf-8")
    return path


@pytest.fixture
def page(browser: Any, written: Path) -> Any:
    seen(browser, width=1200, theme="light")
    browser.get(written.as_uri())
    return browser


def seen(browser: Any, *, width: int, theme: str) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def test_nothing_is_complained_about_and_nothing_fetched(page: Any) -> None:
    assert page.get_log("browser") == []
    assert page.execute_script("return performance.getEntriesByType('resource').length") == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_figure_has_ink_in_it(page: Any, theme: str) -> None:
    from PIL import Image

    seen(page, width=1200, theme=theme)
    found = page.find_elements("css selector", "figure svg")
    assert len(found) == 7
    for element in found:
        page.execute_script("arguments[0].scrollIntoView({behavior: 'instant'})", element)
        picture = Image.open(io.BytesIO(element.screenshot_as_png)).convert("RGB")
        colours = picture.getcolors(1 << 24)
        assert colours is not None
        most = max(colours)[1]
        assert (sum(most) > 600) == (theme == "light")
        other = sum(count for count, colour in colours if colour != most)
        assert other > 0.005 * picture.width * picture.height


def test_everything_has_an_accessible_name(page: Any) -> None:
    for element in page.find_elements(
        "css selector", "figure svg, button, .mark, .scroll[tabindex]"
    ):
        assert element.accessible_name.strip()


@pytest.mark.parametrize("width", [1200, 360])
def test_the_page_itself_never_scrolls_sideways(page: Any, width: int) -> None:
    seen(page, width=width, theme="light")
    wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.execute_script(wide) == 0


def test_the_summary_is_whole_at_1280_and_its_rows_are_two_lines_high(page: Any) -> None:
    seen(page, width=1280, theme="light")
    table = "document.querySelector('#summary')"
    script = f"const s = {table}.parentElement; return [s.scrollWidth, s.clientWidth]"
    wide, shown = page.execute_script(script)
    assert wide == shown
    heights = f"return [...{table}.tBodies[0].rows].map(row => row.offsetHeight)"
    assert max(page.execute_script(heights)) < 60


def test_on_a_phone_cells_stay_named_while_figures_scroll_and_notes_are_whole(page: Any) -> None:
    seen(page, width=360, theme="light")
    box = "const r = document.querySelector('{}').getBoundingClientRect(); return [r.left, r.right]"
    page.execute_script("document.querySelector('#summary').parentElement.scrollLeft = 300")
    for selector in ("#summary tbody th", "#summary-note", "#paper-note", "figcaption"):
        left, right = page.execute_script(box.format(selector))
        assert 0 <= left < right <= 360, selector


def test_a_mark_tells_its_figure(page: Any) -> None:
    mark = page.find_element("css selector", "#figure-phases .mark[data-transport='espnow']")
    page.execute_script("arguments[0].focus()", mark)
    told = page.find_element("css selector", "#figure-phases .told").text
    assert "head waits" in told
    assert "measured" in told


def test_a_transports_button_takes_it_away_and_back(page: Any) -> None:
    chip = page.find_element("css selector", ".chip[data-transport='udp']")
    row = page.find_element("css selector", "#summary tr[data-transport='udp']")
    assert row.is_displayed()
    chip.click()
    assert chip.get_attribute("aria-pressed") == "false"
    assert not row.is_displayed()
    chip.click()
    assert row.is_displayed()


def test_a_heading_sorts_both_ways(page: Any) -> None:
    def trips() -> list[float]:
        every = "[...document.querySelectorAll('#summary tbody tr')]"
        script = f"return {every}.map(row => +row.cells[2].dataset.value)"
        values: list[float] = page.execute_script(script)
        return values

    heading = page.find_element("css selector", "#summary thead th:nth-child(3) button")
    heading.click()
    assert trips() == sorted(trips())
    heading.click()
    assert trips() == sorted(trips(), reverse=True)


def test_the_theme_can_be_turned_round(page: Any) -> None:
    script = "return getComputedStyle(document.body).backgroundColor"
    before = page.execute_script(script)
    page.find_element("css selector", "#theme").click()
    assert page.execute_script(script) != before
