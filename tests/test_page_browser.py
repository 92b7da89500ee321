"""The page in a real browser, opened as a file."""

import os
import shutil

import pytest

sync_api = pytest.importorskip("playwright.sync_api")

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
]
WIDTHS = (320, 390, 768, 1440)

# WCAG 2.2: contrast of every piece of text, against the nearest background behind it that is
# not transparent.
CONTRASTS = """() => {
  const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) =>
    0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = parse(getComputedStyle(node).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    throw new Error("no background");
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim(), node = walker.currentNode.parentElement;
    if (!text || !node.getClientRects().length || node.closest("script, .unseen, .skip")) continue;
    const style = getComputedStyle(node);
    const colour = parse(node.closest("svg") ? style.fill : style.color);
    const [a, b] = [light(colour), light(behind(node))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), text, style.opacity]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        if os.environ.get("BENCH_REQUIRE_BROWSER"):
            pytest.fail(f"BENCH_REQUIRE_BROWSER is set, and none of {', '.join(NAMES)} is found")
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is found")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture
def visit(browser, site):
    """A function that opens the page; ``page.heard`` holds requests, errors and dialogs."""
    contexts = []

    def go(width=1440, **settings):
        context = browser.new_context(viewport={"width": width, "height": 900}, **settings)
        contexts.append(context)
        page = context.new_page()
        page.heard = {"requests": [], "errors": [], "dialogs": []}
        page.on("request", lambda request: page.heard["requests"].append(request.url))
        page.on("pageerror", lambda error: page.heard["errors"].append(str(error)))
        page.on("console", lambda message: page.heard["errors"].append(message.text))
        page.on("dialog", lambda dialog: (page.heard["dialogs"].append(dialog), dialog.dismiss()))
        page.goto((site / "index.html").as_uri())
        return page

    yield go
    for context in contexts:
        context.close()


def methods(page):
    """The methods of the first table, from the top."""
    return page.locator("table").first.locator("tbody th code").all_inner_texts()


def visible_contests(page):
    return [
        each.inner_text() for each in page.locator(".contest caption").all() if each.is_visible()
    ]


def test_it_opens_from_a_file_and_asks_the_network_for_nothing(visit, site):
    page = visit()
    page.locator("details").evaluate_all("all => all.forEach((each) => { each.open = true; })")
    page.mouse.wheel(0, 10_000)
    page.wait_for_load_state("networkidle")
    heard = page.heard
    assert [url for url in heard["requests"] if not url.startswith("data:")] == [
        (site / "index.html").as_uri()
    ]
    assert heard["errors"] == [] and heard["dialogs"] == []


def test_every_image_is_drawn_and_described(visit):
    images = (
        visit()
        .locator("img")
        .evaluate_all("all => all.map((each) => [each.alt, each.complete && each.naturalWidth])")
    )
    assert len(images) == 9
    assert all(alt and width for alt, width in images)


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_hangs_over_the_side(visit, width):
    page = visit(width)
    sizes = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    needed, given = page.evaluate(sizes)
    assert needed <= given
    for box in page.locator(".scroll").all():
        if box.is_visible():
            assert box.bounding_box()["width"] <= given
    first = page.locator("tbody th[scope=row]").first
    before = first.bounding_box()["x"]
    page.locator(".scroll").first.evaluate("box => { box.scrollLeft = 400; }")
    assert first.bounding_box()["x"] == before  # the method stays beside its numbers


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_text_can_be_read(visit, scheme, width):
    found = visit(width, color_scheme=scheme).evaluate(CONTRASTS)
    assert len(found) > 80
    assert [each for each in found if each[0] < 4.5 or each[2] != "1"] == []


def test_dark_is_dark(visit):
    colour = "getComputedStyle(document.body).backgroundColor"
    light, dark = (visit(color_scheme=scheme).evaluate(colour) for scheme in ("light", "dark"))
    levels = [sum(map(int, text[4:-1].split(","))) for text in (light, dark)]
    assert levels[0] > 700 and levels[1] < 100


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_marks_stand_out(visit, scheme):
    """3:1 for what is drawn (WCAG 2.2, 1.4.11): the same measure, on text in a mark's colour."""
    page = visit(color_scheme=scheme)
    page.evaluate("""() => {
      document.body.innerHTML = "";
      for (const name of ["retrieval", "generation", "hybrid", "neutral"]) {
        const line = document.createElement("p");
        line.textContent = name;
        line.style.color = `var(--${name})`;
        document.body.append(line);
      }
    }""")
    found = page.evaluate(CONTRASTS)
    assert len(found) == 4 and all(ratio >= 3 for ratio, *_ in found), found


def test_a_click_sorts_a_column_and_a_second_one_turns_it(visit):
    page = visit()
    assert methods(page) == ["find", "paint", "none", "repeat"]  # by gain
    heads = page.locator("table").first.locator("thead th")
    cost = heads.filter(has_text="TFLOPs")
    cost.get_by_role("button").click()
    assert cost.get_attribute("aria-sort") == "descending"
    assert methods(page) == ["paint", "find", "none", "repeat"]
    cost.get_by_role("button").click()
    assert cost.get_attribute("aria-sort") == "ascending"
    assert methods(page) == ["none", "find", "paint", "repeat"]  # without a value: last again
    sorts = [head.get_attribute("aria-sort") for head in heads.all()]
    assert sorts.count("none") == len(sorts) - 1
    assert "TFLOPs, ascending" in page.locator(".sorted").inner_text()


def test_the_keyboard_sorts_too(visit):
    page = visit()
    head = page.locator("table").first.locator("thead th").first
    head.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    titles = page.locator("table").first.locator("tbody th .title").all_inner_texts()
    assert titles == sorted(titles, key=str.lower)
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(outline) == "solid"


def test_the_switch_shows_one_contest_at_a_time(visit):
    page = visit()
    (first,) = visible_contests(page)
    assert "linear-probe" in first
    page.get_by_text("resnet-scratch", exact=True).first.click()
    (second,) = visible_contests(page)
    assert "resnet-scratch" in second
    shown = [each for each in page.locator("#contrast figure").all() if each.is_visible()]
    assert len(shown) == 2  # the contrast and its compute


def test_without_script_everything_is_shown(visit):
    page = visit(java_script_enabled=False)
    assert len(visible_contests(page)) == 2
    assert not page.locator(".switch").is_visible()
    assert page.locator("thead button").count() == 0
    assert page.get_by_text("Retrieval leads generation").first.is_visible()


def test_a_tap_on_an_image_says_where_it_came_from(visit):
    page = visit(390, has_touch=True)
    thumb = page.locator("i.near").first
    thumb.scroll_into_view_if_needed()
    thumb.tap()
    told = page.locator(".told").first.inner_text()
    assert "clip-art/0" in told and "very near to test image test/0" in told
    assert "<b>circle" in told  # as text


def test_motion_is_reduced_on_request(visit):
    behaviour = "getComputedStyle(document.documentElement).scrollBehavior"
    assert visit().evaluate(behaviour) == "smooth"
    assert visit(reduced_motion="reduce").evaluate(behaviour) == "auto"
