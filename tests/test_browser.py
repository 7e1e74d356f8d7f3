"""The two pages in a real browser without a window: type, submit, look; wrong input; narrow screens."""

import shutil

import numpy as np
import pytest
from playwright.sync_api import expect, sync_playwright
from test_serve import Finder, running

from nuner_jax.concepts.page import page, write_page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
WIDTHS = (1100, 400)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason=f"needs a browser: {', '.join(BROWSERS)}")]


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture(params=WIDTHS)
def tab(browser, request):
    """A tab of a width; whatever the page complains about fails the test, and nothing may stick out of the window."""
    tab = browser.new_page(viewport={"width": request.param, "height": 800})
    complaints: list[str] = []
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    yield tab
    assert complaints == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= request.param
    tab.close()


@pytest.fixture(scope="module")
def address():
    with running(Finder(), max_characters=200) as (host, port):
        yield f"http://{host}:{port}"


def test_text_and_labels_give_highlighted_entities(tab, address):
    tab.goto(address)
    tab.fill("#text", "🍜 A soup, a spoon\n<b>and</b> a soup")
    tab.fill("#labels", "soup, spoon,, soup")
    tab.click("button")
    tab.wait_for_selector("mark")
    assert tab.locator("mark").all_inner_texts() == ["soupsoup", "spoonspoon", "soupsoup"]  # text and label
    assert tab.inner_text("#text-out") == "🍜 A soupsoup, a spoonspoon\n<b>and</b> a soupsoup"
    assert tab.inner_text("#result") == "3 entities"
    assert tab.locator("tbody tr").count() == 3
    tab.fill("#labels", "fork")
    tab.press("#labels", "Enter")
    expect(tab.locator("#result")).to_have_text("No entities found")  # its policy forbids what wait_for_function does
    assert tab.locator("mark").count() == 0


def test_wrong_input_is_told_beside_the_form_and_the_field_gets_the_focus(tab, address):
    tab.goto(address)
    expect(tab.locator("#model")).to_have_text("Model: finder")
    focus = "document.activeElement.id"
    for field, text, said in (
        ("text", "", "Type a text first."),
        ("labels", " , ", "Name at least one label, as in: dish, city."),
        ("threshold", "7", "The least score has to be a number from 0 to 1."),
    ):
        tab.fill(f"#{field}", text)
        tab.click("button")
        assert tab.inner_text("[role=alert]") == said
        assert (tab.evaluate(focus), tab.get_attribute(f"#{field}", "aria-invalid")) == (field, "true")
        tab.fill(f"#{field}", "0,5" if field == "threshold" else "soup")
    tab.click("button")
    tab.wait_for_selector("mark")
    assert tab.is_hidden("[role=alert]")


def test_what_the_service_refuses_is_shown_as_it_says_it(browser, address):
    tab = browser.new_page()
    tab.goto(address)
    tab.fill("#text", "a" * 201)
    tab.fill("#labels", "b")
    tab.click("button")
    tab.wait_for_selector("[role=alert]:not([hidden])")
    assert tab.inner_text("[role=alert]") == "202 characters are too many: a request may have 200"
    tab.close()


@pytest.fixture(scope="module")
def map_page(tmp_path_factory):
    """A map of 60 concepts on a grid, each with its two successors as neighbours."""
    names = [f"{a} {b}" for a in ("car", "city", "dish") for b in range(20)]
    points = np.stack([np.arange(60) % 10, np.arange(60) // 10], 1) / 10
    path = tmp_path_factory.mktemp("map") / "concept_map.html"
    write_page(path, page(points, names, range(60, 0, -1), [[(i + 1) % 60, (i + 2) % 60] for i in range(60)], "Concepts of <x>"))
    return path.as_uri()


def test_the_map_is_searched_and_leads_from_neighbour_to_neighbour(tab, map_page):
    tab.goto(map_page)
    assert tab.inner_text("h1") == "Concepts of <x>"
    assert tab.inner_text("aside h2") == "60 concepts"
    tab.fill("#search", "CITY 1")
    assert tab.inner_text("[role=status]") == "11 concepts"
    assert tab.locator("li").first.inner_text() == "city 1"
    tab.press("#search", "Enter")
    assert tab.inner_text("aside h2") == "city 1"
    assert tab.locator("li").all_inner_texts() == ["city 2", "city 3"]
    tab.locator("li button").last.click()
    assert tab.inner_text("aside h2") == "city 3"
    tab.fill("#search", "nothing like it")
    assert tab.inner_text("[role=status]") == "No concept has this in its name"


def test_the_map_is_zoomed_moved_and_hovered(tab, map_page):
    tab.goto(map_page)
    tab.fill("#search", "dish 7")
    tab.press("#search", "Enter")  # now in the middle
    box = tab.locator("canvas").bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 2 + 2, box["y"] + box["height"] / 2)
    tab.wait_for_selector("#tip:not([hidden])")
    assert tab.inner_text("#tip") == "dish 7 · 13"
    before = tab.evaluate("[view.zoom, view.x]")
    tab.mouse.wheel(0, -300)
    tab.wait_for_function(f"view.zoom > {before[0]}")
    tab.focus("canvas")
    tab.keyboard.press("ArrowRight")
    assert tab.evaluate("view.x") > before[1]
    tab.click("#all")
    assert tab.evaluate("view.zoom") == 1
