"""The page in a real browser: by mouse, by keyboard, on a phone, in print, in the dark, and to a screen reader."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from inputaware.report import write_report
from inputaware.runs.files import read_json, write_json

Open = Callable[..., Any]

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=document.title='owned'>"
DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    program = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip("no chromium in PATH: on Debian, apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        # Within a container there are no name spaces for a sandbox; the page is our own.
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def page_file(whole_runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the report of three runs, one of them with names like markup."""
    folder = tmp_path_factory.mktemp("browser")
    hostile = folder / HOSTILE
    shutil.copytree(whole_runs["badnets"], hostile)
    config = read_json(hostile / "config.json")
    config["data"]["class_names"] = [HOSTILE, *config["data"]["class_names"][1:]]
    write_json(hostile / "config.json", config)
    write_report([whole_runs["input-aware"], hostile, whole_runs["none"]], folder / "page.html")
    return folder / "page.html"


@pytest.fixture
def open_page(browser: Any, page_file: Path) -> Iterator[Open]:
    """Return a function that opens the page; at the end nothing may have been fetched or complained about."""
    contexts, complaints = [], []

    def open_it(**options: Any) -> Any:
        context = browser.new_context(**{"viewport": DESKTOP, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: request.url.startswith(("file:", "data:")) or complaints.append(request.url),
        )
        page.goto(page_file.as_uri())
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert complaints == []


def test_the_page_loads_and_shows_its_images(open_page: Open) -> None:
    page = open_page()
    assert page.title() == "3 runs: backdoor report"
    broken = "() => [...document.images].filter(i => i.src && !(i.complete && i.naturalWidth)).length"
    assert page.evaluate(broken) == 0
    sizes = "() => [...document.querySelectorAll('.pictures img')].map(i => i.width / i.naturalWidth)"
    assert set(page.evaluate(sizes)) <= {1, 2}
    style = "() => getComputedStyle(document.querySelector('.pixel img')).imageRendering"
    assert page.evaluate(style) == "pixelated"


def test_names_like_markup_stay_text(open_page: Open) -> None:
    page = open_page()
    assert page.title() == "3 runs: backdoor report"
    assert page.locator("h3", has_text=HOSTILE).count() > 3
    assert page.locator("img[src=x]").count() == 0
    # What the viewer writes is text as well.
    page.locator(f'.matrix button[aria-label], .matrix button:has(img[alt*="{HOSTILE}"])').first.click()
    assert page.locator("#viewer-said th", has_text=HOSTILE).count() > 0
    assert page.locator("img[src=x]").count() == 0


def test_filters_by_mouse(open_page: Open) -> None:
    page = open_page()
    shown = page.locator("#gallery article.card:visible")
    everything = shown.count()
    beside = page.locator("#gallery h3", has_text="beside BadNets")
    assert beside.is_visible()
    page.locator('select[data-filter="attack"]').select_option("none")
    assert page.locator(".filters output").inner_text() == "1 of 3 runs shown"
    assert shown.count() == 1
    assert not beside.is_visible()
    page.locator('select[data-filter="attack"]').select_option("")
    assert shown.count() == everything


def test_filters_by_keyboard(open_page: Open) -> None:
    page = open_page()
    page.locator('select[data-filter="attack"]').focus()
    page.keyboard.type("badnets")
    assert page.locator(".filters output").inner_text() == "1 of 3 runs shown"
    assert page.locator("#cost article:visible").count() == 1


def test_an_image_is_enlarged_by_mouse(open_page: Open) -> None:
    page = open_page()
    button = page.locator('#gallery button:has(img[alt^="image with its trigger: "])').first
    words = button.locator("img").get_attribute("alt")
    button.click()
    viewer = page.locator("#viewer")
    assert viewer.is_visible()
    assert page.locator("#viewer-title").inner_text() == words
    captions = page.locator("#viewer-said caption").all_inner_texts()
    assert captions == ["The classifier, without trigger", "The classifier, with its own trigger"]
    width = page.evaluate(
        "() => { const i = document.getElementById('viewer-image'); return i.width / i.naturalWidth }"
    )
    assert width == int(width)
    assert width >= 8
    viewer.get_by_text("Close").click()
    assert not viewer.is_visible()


def test_an_image_is_enlarged_by_keyboard(open_page: Open) -> None:
    page = open_page()
    grid = page.locator("#cross [data-grid]").first
    assert grid.locator('button[tabindex="0"]').count() == 1
    grid.locator("tbody button").first.focus()
    for key in ("ArrowRight", "ArrowDown", "End", "Home"):
        page.keyboard.press(key)
    focused = page.evaluate("() => document.activeElement.dataset.said")
    assert focused == "cross1-0"
    page.keyboard.press("Enter")
    viewer = page.locator("#viewer")
    assert viewer.is_visible()
    before = page.locator("#viewer-title").inner_text()
    page.keyboard.press("ArrowRight")
    assert page.locator("#viewer-title").inner_text() != before
    page.keyboard.press("Escape")
    assert not viewer.is_visible()
    page.wait_for_function("() => document.activeElement.dataset.said === 'cross1-1'")  # a dialog closes, then says so


def test_a_plot_is_enlarged(open_page: Open) -> None:
    page = open_page()
    page.locator("#training button.plot").first.click()
    box = page.locator("#viewer-image").bounding_box()
    assert box["width"] > 700
    assert page.locator("#viewer-said").inner_text() == ""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_for_who_cannot_see_it(scheme: str, open_page: Open) -> None:
    axe_core = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is missing")
    page = open_page(color_scheme=scheme, bypass_csp=True)
    page.evaluate("() => { for (const one of document.querySelectorAll('details')) one.open = true }")
    if scheme == "dark":  # the viewer lies over the page, and both are looked at
        page.locator("#gallery button.pixel").first.click()
    found = axe_core.Axe().run(page).response["violations"]
    serious = [
        f"{one['id']}: {one['help']}: {one['nodes'][0]['html'][:200]}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
    assert serious == []


def test_nothing_is_cut_off_on_a_phone(open_page: Open) -> None:
    page = open_page(viewport=PHONE)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= PHONE["width"]
    page.locator("#cross button.pixel").nth(20).click()
    box = page.locator("#viewer").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= PHONE["width"]


def test_paper_has_everything_open(open_page: Open) -> None:
    page = open_page()
    page.emulate_media(media="print")
    page.evaluate("() => window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    assert not page.locator(".filters").is_visible()
    page.evaluate("() => window.dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0
    assert len(page.pdf()) > 10_000


def test_the_dark_is_dark(open_page: Open) -> None:
    background = "() => getComputedStyle(document.body).backgroundColor"
    assert open_page(color_scheme="light").evaluate(background) == "rgb(255, 255, 255)"
    page = open_page(color_scheme="dark")
    assert page.evaluate(background) == "rgb(20, 23, 27)"
    if folder := os.environ.get("INPUTAWARE_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / "dark.png", full_page=True)
