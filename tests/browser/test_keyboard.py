"""Without a mouse and without eyes: everything that can be used has a name, is reached by Tab, and shows the focus."""

from itertools import pairwise

import pytest

from app.pages import discover

CONTROLS = {"button", "link", "combobox", "textbox", "checkbox", "radio", "slider", "spinbutton", "searchbox", "tab",
            "menuitem", "option", "switch"}  # fmt: skip
STOPS = 200  # more presses of Tab than any page has stops
PAGES = [page.name for page, _ in discover()]
# What has the focus, also inside a component of ours: its number and its words; and of the one that had it before, its
# number and whether anything about it or around it looks different now.
FOCUSED = """() => {
  let e = document.activeElement;
  while (e && e.shadowRoot && e.shadowRoot.activeElement) e = e.shadowRoot.activeElement;
  window.stops = window.stops || new Map();
  const look = x => { const s = getComputedStyle(x);
    return [s.borderColor, s.backgroundColor, s.boxShadow, s.outline, s.color, s.opacity].join('|'); };
  const last = window.last && [window.last.number, window.last.around.some((x, i) => look(x) !== window.last.looks[i])];
  if (!e || e === document.body) return [null, '', last];
  if (!window.stops.has(e)) window.stops.set(e, window.stops.size);
  const around = [e, e.nextElementSibling, e.previousElementSibling];
  for (let x = e.parentElement, i = 0; x && i < 12; x = x.parentElement, i++) around.push(x);
  const there = around.filter(Boolean);
  window.last = {number: window.stops.get(e), around: there, looks: there.map(look)};
  const words = e.tagName + ' ' + (e.getAttribute('aria-label') || e.textContent || '').slice(0, 40);
  return [window.last.number, words, last];
}"""


def opened(page, server, name):
    page.goto(f"{server.address}/{'' if name == 'overview' else name}")
    page.wait_for_selector(".rw-title")
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")
    page.wait_for_timeout(1500)


def nodes(page):
    """The page as a screen reader is given it."""
    reader = page.context.new_cdp_session(page)
    return [node for node in reader.send("Accessibility.getFullAXTree")["nodes"] if not node.get("ignored")]


def text_of(node, field="name"):
    return str(node.get(field, {}).get("value", "")).strip()


@pytest.mark.parametrize("name", PAGES)
def test_everything_that_can_be_used_has_a_name(page, server, name):
    opened(page, server, name)
    nameless = [node for node in nodes(page) if text_of(node, "role") in CONTROLS and not text_of(node)]
    assert not [(text_of(node, "role"), node.get("properties")) for node in nameless]


@pytest.mark.parametrize("name", PAGES)
def test_headings_tell_the_story_in_order(page, server, name):
    opened(page, server, name)
    levels = [
        int(next(p["value"]["value"] for p in node["properties"] if p["name"] == "level"))
        for node in nodes(page)
        if text_of(node, "role") == "heading"
    ]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels)), levels


@pytest.mark.parametrize("name", PAGES)
def test_tab_reaches_everything_and_shows_where_it_is(page, server, name):
    opened(page, server, name)
    page.add_style_tag(content="* { transition: none !important; }")  # colours change at once and can be compared
    reached, shown = {}, {}
    for _ in range(STOPS):
        page.keyboard.press("Tab")
        page.wait_for_timeout(120)  # the page answers to the focus a moment later
        number, words, last = page.evaluate(FOCUSED)
        shown.update([last] if last else [])
        if number is None or number in reached:  # the end, or the beginning again
            break
        reached[number] = words
    # The scrolled area itself has its frame from Streamlit, drawn where no style of an element tells of it.
    assert not [words for number, words in reached.items() if not shown.get(number) and not words.startswith("MAIN")]
    assert len(reached) >= 12 + 2  # the pages in the sidebar, and something to do on this one
