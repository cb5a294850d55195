"""What one visitor may do to a dashboard that others use: endless queries end, files stay closed, nobody waits."""

import pytest

from tests.app.traces import Shape, recording_trace, write_trace
from tests.browser.conftest import Server, wait_until

pytestmark = pytest.mark.browser
ENDLESS = "SELECT sum(range % 7) AS never FROM range(1000000000000)"


def ask(page, server, sql):
    page.goto(f"{server.address}/sql")
    box = page.get_by_role("textbox", name="Query")
    box.fill(sql)
    box.press("Control+Enter")


@pytest.mark.slow
def test_an_endless_query_is_stopped_and_nobody_waits_for_it(page, browser, server):
    ask(page, server, ENDLESS)
    page.wait_for_selector("text=Asking")
    other = browser.new_context().new_page()
    ask(other, server, "SELECT 6 * 7 AS answer")
    other.wait_for_selector("text=1 row; 1 column", timeout=10_000)
    other.goto(f"{server.address}/experts?layer=2")
    other.wait_for_selector(".rw-card-head", timeout=10_000)
    assert page.locator(".rw-problem").count() == 0  # it is still being asked
    other.context.close()
    page.wait_for_selector(".rw-problem", timeout=40_000)
    assert page.inner_text(".rw-problem") == "the query ran longer than 15 s and was stopped"
    assert page.locator("[data-testid=stException]").count() == 0


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("COPY (SELECT 1) TO '/tmp/stolen.csv'", "only SELECT"),
        ("SELECT * FROM read_csv('/etc/passwd')", "'read_csv' is not allowed"),
        ("SELECT * FROM '/etc/passwd'", "there is no view"),
        ("ATTACH '/etc/passwd' AS other", "only SELECT"),
        ("SELECT getenv('HOME')", "'getenv' is not allowed"),
    ],
)
def test_what_would_read_or_write_elsewhere_is_refused_in_a_line(page, server, sql, why):
    ask(page, server, sql)
    page.wait_for_selector(".rw-problem")
    said = page.inner_text(".rw-problem")
    assert why in said
    assert "\n" not in said
    assert "root:" not in page.inner_text("body")
    assert page.errors == []


def test_a_trace_that_goes_while_it_is_shown(page, tmp_path):
    """The page notices by itself where a recording is shown; elsewhere with the next choice. Never an exception."""
    gone, growing = write_trace(tmp_path / "gone.duckdb", Shape()), tmp_path / "growing.duckdb"
    with recording_trace(growing, Shape(sequences=128, length=20)):
        own = Server([gone, growing])
        try:
            page.goto(f"{own.address}/?trace=growing.duckdb")
            page.wait_for_selector(".js-plotly-plot:not(.st-key-rw_fetch_plotly *) .heatmaplayer image")
            growing.rename(tmp_path / "elsewhere")
            page.wait_for_selector("text=The trace is not there", timeout=15_000)
            (tmp_path / "elsewhere").rename(growing)
            page.goto(f"{own.address}/uncertainty?trace=gone.duckdb")
            page.wait_for_selector("text=How many experts would top-p use?")
            page.wait_for_selector('[data-testid="stStatusWidget"]', state="detached", timeout=30_000)
            gone.unlink()
            page.get_by_role("combobox").nth(1).scroll_into_view_if_needed()  # scrolling would close its list
            page.get_by_role("combobox").nth(1).click()
            page.get_by_role("option", name="layer 1").click()
            wait_until(lambda: page.locator(".rw-problem, .rw-state, [data-testid=stException]").count(), 15)
            assert page.locator("[data-testid=stException]").count() == 0
        finally:
            own.interrupt()
