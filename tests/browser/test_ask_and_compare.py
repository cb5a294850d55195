"""SQL and the pages of analysis in a real browser: a linked query waits, links keep the choice, nothing is cut off."""

from urllib.parse import quote

import pytest

from tests.browser.conftest import comes_to, wait_until

pytestmark = pytest.mark.browser


def choice(page, name):
    return page.evaluate("name => new URL(location.href).searchParams.get(name)", name)


def test_a_linked_query_waits_for_run_and_then_answers(page, server):
    sql = 'SELECT token AS "<img src=x onerror=alert(1)>", count(*) AS n FROM tokens GROUP BY 1 ORDER BY 2 DESC'
    page.goto(f"{server.address}/sql?trace=hostile.duckdb&sql={quote(sql)}")
    page.wait_for_selector("text=nothing runs until you press Run")
    comes_to(sql, page.get_by_role("textbox", name="Query").input_value)
    assert page.locator("[data-testid=stDataFrame]").count() == 0
    page.get_by_role("button", name="Run").click()
    page.wait_for_selector("text=Answer")
    page.wait_for_selector("[data-testid=stDataFrame]")
    page.wait_for_selector(".js-plotly-plot:not(.st-key-rw_fetch_plotly *) :is(.barlayer, .main-svg)")
    page.wait_for_timeout(300)
    assert page.dialogs == []
    assert page.errors == []
    assert not [url for url in page.requests if url.endswith("/x") or "evil" in url]


def test_control_enter_runs_and_the_link_is_the_query(page, server):
    page.goto(f"{server.address}/sql")
    box = page.get_by_role("textbox", name="Query")
    box.fill("SELECT 6 * 7 AS answer")
    box.press("Control+Enter")
    page.wait_for_selector("text=1 row; 1 column")
    wait_until(lambda: choice(page, "sql") == "SELECT 6 * 7 AS answer")


def test_a_layer_chosen_on_one_page_is_chosen_on_the_next(page, server):
    page.goto(f"{server.address}/structure?layer=3")
    page.wait_for_selector("text=Which experts of layer 3 are chosen together?")
    page.get_by_role("link", name="Consistency").click()
    page.wait_for_selector("text=in layer 3 LRU hits")
    comes_to("3", lambda: choice(page, "layer"))


def test_a_budget_moves_the_plan(page, server):
    page.goto(f"{server.address}/consistency?expert_mib=64")
    page.wait_for_selector("text=What does a memory budget buy?")
    page.get_by_label("Memory for experts, GiB").fill("1")
    page.keyboard.press("Tab")
    page.wait_for_selector("text=1.00 GiB hold 4 of 16 experts")
    comes_to("1", lambda: choice(page, "budget_gib"))


@pytest.mark.parametrize("name", ["sql", "consistency", "structure", "pruning", "compare", "record"])
def test_nothing_is_cut_off_at_laptop_width_and_no_one_else_is_asked(page, server, name):
    page.goto(f"{server.address}/{name}")
    page.wait_for_selector(".rw-title")
    page.wait_for_selector('[data-testid="stStatusWidget"]', state="detached", timeout=30_000)
    wide = page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth - innerWidth")
    assert wide <= 0
    assert page.errors == []
    assert [url for url in page.requests if not url.startswith((server.address, "data:", "blob:"))] == []
