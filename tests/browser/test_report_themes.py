"""The report in a real browser: it follows the reader's system into the dark and back, and is light on paper."""

import pytest

from app.palette import SEQUENTIAL
from app.report import write_report
from app.theme import COLORS
from tests.app.traces import HOSTILE, Shape, write_trace
from tests.browser.conftest import comes_to, wait_until

WHERE = "[id=overview-figure-1]"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    path = write_trace(folder / "<b>hostile.duckdb", Shape(sequences=8), tokens=list(HOSTILE))
    return write_report(path, folder / "report.html")


@pytest.fixture
def tab(browser, report):
    """Open it with a system's colour scheme."""
    contexts = []

    def opened(scheme):
        contexts.append(browser.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 900}))
        page = contexts[-1].new_page()
        page.said, page.asked = [], []
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("console", lambda message: page.said.append(message.text) if message.type == "error" else None)
        page.on("dialog", lambda dialog: (page.said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(report.as_uri())
        page.wait_for_selector(f"{WHERE} .main-svg")
        return page

    yield opened
    for context in contexts:
        context.close()


def shown(page):
    """What is seen: the paper, the ink, and a chart's background, font and colour scale."""
    return page.evaluate(
        """where => {
            const chart = document.querySelector(where), style = getComputedStyle(document.body);
            const scale = chart._fullData[0].colorscale;
            return [style.backgroundColor, style.color, chart._fullLayout.paper_bgcolor, chart._fullLayout.font.color,
                    scale[0][1], scale.at(-1)[1]];
        }""",
        WHERE,
    )


def colors_of(theme):
    paper, ink = COLORS[theme]["background"], COLORS[theme]["ink"]
    rgb = [f"rgb({', '.join(str(int(color[at : at + 2], 16)) for at in (1, 3, 5))})" for color in (paper, ink)]
    return [*rgb, paper, ink, SEQUENTIAL[theme][0], SEQUENTIAL[theme][-1]]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_has_the_colours_of_the_readers_system(tab, report, theme):
    page = tab(theme)
    comes_to(colors_of(theme), lambda: shown(page))
    charts = page.locator(".chart").count()
    assert charts > 5
    comes_to(charts, page.locator(".chart .main-svg:first-child").count)
    assert page.said == []
    assert page.asked == [report.as_uri()]


def test_it_follows_while_it_is_open_and_paper_is_light(tab):
    page = tab("dark")
    for media, theme in (
        ({"color_scheme": "light"}, "light"),
        ({"color_scheme": "dark"}, "dark"),
        ({"media": "print"}, "light"),
        ({"media": "screen"}, "dark"),
    ):
        page.emulate_media(**media)
        wait_until(lambda theme=theme: shown(page) == colors_of(theme))
    assert page.said == []


def test_what_is_printed_was_drawn_light(tab):
    page = tab("dark")
    page.evaluate(
        """where => {
            window.printed = null;
            const note = () => { window.printed = document.querySelector(where)._fullLayout.paper_bgcolor; };
            addEventListener("beforeprint", note);
        }""",
        WHERE,
    )
    assert len(page.pdf()) > 10_000
    assert page.evaluate("window.printed") == COLORS["light"]["background"]
    wait_until(lambda: shown(page) == colors_of("dark"))
