"""Nothing that is written in a chart is cut off: no number, no name beside an axis, no title."""

import pytest

from app.pages import discover

pytestmark = pytest.mark.browser
PAGES = [page.name for page, _ in discover() if page.charts and page.name != "super_experts"]  # which has none here
# The words of each chart that do not lie within it, by more than a pixel: [words, pixels to the left, above, ...].
CUT = """() => [...document.querySelectorAll('.js-plotly-plot')].filter(e => e.offsetParent).flatMap(chart => {
  const box = chart.getBoundingClientRect();
  return [...chart.querySelectorAll('.main-svg text')].filter(e => e.textContent.trim()).map(e => {
    const place = e.getBoundingClientRect();
    return [e.textContent, box.left - place.left, box.top - place.top, place.right - box.right,
            place.bottom - box.bottom];
  }).filter(([, ...over]) => Math.max(...over) > 1);
})"""


@pytest.mark.parametrize("trace", ["plain.duckdb", pytest.param("hostile.duckdb", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", PAGES)
def test_every_word_of_a_chart_lies_within_it(page, server, name, trace):
    page.goto(f"{server.address}/{'' if name == 'overview' else name}?trace={trace}&token=5")
    page.wait_for_selector(".js-plotly-plot:not(.st-key-rw_fetch_plotly *) .main-svg")
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")
    page.wait_for_timeout(1200)
    assert page.locator(".js-plotly-plot:not(.st-key-rw_fetch_plotly *) text").count() > 3
    assert page.evaluate(CUT) == []
