"""The dashboard in a real browser: what is seen, clicked, typed, reloaded, and what never happens."""

import socket

import pytest

from tests.app.traces import Shape, batches, recording_trace
from tests.browser.conftest import Server, comes_to, wait_until

pytestmark = pytest.mark.browser
TOKEN = ".strip .token"


def choice(page, name):
    """A choice in the address of the page."""
    return page.evaluate("name => new URL(location.href).searchParams.get(name)", name)


def selected(page):
    return page.locator(f'{TOKEN}[aria-selected="true"]')


def open_tokens(page, server, choices=""):
    page.goto(f"{server.address}/tokens{choices}")
    page.wait_for_selector(TOKEN)


def test_overview_shows_the_heatmap_and_asks_no_one_else(page, server):
    page.goto(server.address)
    page.wait_for_selector(".rw-title")
    page.wait_for_selector(".js-plotly-plot:not(.st-key-rw_fetch_plotly *) .heatmaplayer image")
    comes_to(3, page.locator(".js-plotly-plot:not(.st-key-rw_fetch_plotly *)").count)
    assert "example/tiny-moe" in page.inner_text(".rw-title")
    strangers = [url for url in page.requests if not url.startswith((server.address, "data:", "blob:"))]
    assert strangers == []
    assert page.errors == []


def test_click_shows_a_tokens_experts_and_survives_reload(page, server):
    open_tokens(page, server)
    page.locator(TOKEN).nth(7).click()
    page.wait_for_selector(".rw-through .rw-chip")
    comes_to(4, page.locator(".rw-through tbody tr").count)
    wait_until(lambda: choice(page, "token") == "7")
    page.reload()
    page.wait_for_selector(".rw-through .rw-chip")
    comes_to("7", lambda: choice(page, "token"))
    comes_to("7", lambda: selected(page).get_attribute("data-position"))


def test_keys_move_from_token_to_token(page, server):
    open_tokens(page, server, "?token=3")
    page.locator(TOKEN).nth(3).focus()
    for key, position in (("ArrowRight", "4"), ("ArrowRight", "5"), ("ArrowLeft", "4"), ("Home", "0"), ("End", "59")):
        page.keyboard.press(key)
        comes_to(position, lambda: selected(page).get_attribute("data-position"))
    wait_until(lambda: choice(page, "token") == "59")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    wait_until(lambda: int(selected(page).get_attribute("data-position")) > 5)
    assert page.locator(f'{TOKEN}[tabindex="0"]').count() == 1


@pytest.mark.parametrize("pause", [60, 110, 160, 210])
def test_answers_that_come_late_do_not_take_the_reader_back(page, server, pause):
    """However the keys and the answers meet, eight keys are eight tokens."""
    open_tokens(page, server, "?token=0")
    page.locator(TOKEN).first.focus()
    for _ in range(8):
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(pause)
    assert selected(page).get_attribute("data-position") == "8"
    wait_until(lambda: choice(page, "token") == "8")
    page.wait_for_timeout(500)
    assert selected(page).get_attribute("data-position") == "8"


def test_keys_go_on_to_the_next_page_of_a_long_sequence(page, server):
    open_tokens(page, server, "?trace=long.duckdb&token=599")
    page.locator(TOKEN).nth(599).focus()
    page.keyboard.press("ArrowRight")
    wait_until(lambda: selected(page).get_attribute("data-position") == "600")
    page.keyboard.press("ArrowRight")  # the keys stay with the text
    wait_until(lambda: choice(page, "token") == "601")


def test_back_undoes_a_choice(page, server):
    open_tokens(page, server)
    page.locator(TOKEN).nth(2).click()
    wait_until(lambda: choice(page, "token") == "2")
    page.locator(TOKEN).nth(9).click()
    wait_until(lambda: choice(page, "token") == "9")
    page.go_back()
    wait_until(lambda: selected(page).get_attribute("data-position") == "2")


def test_going_to_another_page_keeps_the_trace(page, server):
    page.goto(f"{server.address}/?trace=hostile.duckdb")
    page.wait_for_selector(".rw-title")
    page.get_by_role("link", name="Tokens").click()
    page.wait_for_selector(TOKEN)
    wait_until(lambda: choice(page, "trace") == "hostile.duckdb")
    wait_until(lambda: "hostile.duckdb" in page.inner_text(".rw-eyebrow"))


def test_hostile_tokens_make_no_element_and_no_request(page, server):
    open_tokens(page, server, "?trace=hostile.duckdb&sequence=0&token=0")
    page.wait_for_selector(".rw-token-text")
    texts = page.locator(TOKEN).all_inner_texts()
    assert any("onerror=alert(1)" in text for text in texts)
    assert page.locator(".strip img, .strip script, .strip b, .strip a").count() == 0
    assert page.locator(".rw-token-text img, .rw-token-text a").count() == 0
    for position in (1, 2, 5):
        page.locator(TOKEN).nth(position).click()
        wait_until(lambda wanted=str(position): choice(page, "token") == wanted)
    page.wait_for_timeout(300)
    assert page.dialogs == []
    assert page.errors == []
    assert not [url for url in page.requests if "evil" in url or url.endswith("/x")]
    assert page.title() != "owned"


def grounds(page):
    """The colour behind the page and behind the first chart."""
    look = "selector => getComputedStyle(document.querySelector(selector)).backgroundColor"
    return [
        page.evaluate(look, selector)
        for selector in (".stApp", ".js-plotly-plot:not(.st-key-rw_fetch_plotly *) .main-svg")
    ]


def test_both_themes_reach_text_and_charts(page, server):
    """Dark from the start, and light as soon as the reader's system changes."""
    page.emulate_media(color_scheme="dark")
    page.goto(server.address)
    page.wait_for_selector(".js-plotly-plot:not(.st-key-rw_fetch_plotly *) .heatmaplayer image")
    comes_to(["rgb(16, 20, 27)"] * 2, lambda: grounds(page))
    page.emulate_media(color_scheme="light")
    wait_until(lambda: grounds(page) == ["rgb(255, 255, 255)"] * 2)


def test_nothing_is_cut_off_at_laptop_width(page, server):
    for address in ("/", "/tokens?token=5"):
        page.goto(server.address + address)
        page.wait_for_selector(".js-plotly-plot:not(.st-key-rw_fetch_plotly *) .main-svg")
        wide = page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth - innerWidth")
        assert wide <= 0


def handshake(server, host):
    """The first line of the answer to a websocket that says it came for `host`."""
    lines = [
        "GET /_stcore/stream HTTP/1.1", f"Host: {host}", "Connection: Upgrade", "Upgrade: websocket",
        "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "", "",
    ]  # fmt: skip
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as link:
        link.sendall("\r\n".join(lines).encode())
        return link.recv(200).decode().splitlines()[0]


def test_another_host_name_gets_no_session(server):
    """A site that had its name point to this machine (DNS rebinding) reads nothing: all data go over the websocket."""
    assert " 101 " in handshake(server, f"127.0.0.1:{server.port}")
    assert " 403 " in handshake(server, f"evil.example:{server.port}")


def test_a_recording_shows_up_by_itself(page, tmp_path):
    shape = Shape(sequences=128, length=20)
    with recording_trace(tmp_path / "growing.duckdb", shape) as writer:
        own = Server([tmp_path / "growing.duckdb"])
        try:
            page.goto(own.address)
            page.wait_for_selector(".js-plotly-plot:not(.st-key-rw_fetch_plotly *) .heatmaplayer image")
            wait_until(lambda: "1,280 tokens" in page.inner_text(".rw-lead"))
            writer.write(list(batches(shape))[1])
            wait_until(lambda: "2,560 tokens" in page.inner_text(".rw-lead"), seconds=30)
        finally:
            own.interrupt()


def test_ctrl_c_ends_it_quietly(server, tmp_path):
    own = Server([])
    assert own.said == f"dashboard at {own.address}  (Ctrl-C ends it)\n"
    code, said = own.interrupt()
    assert code in (0, 130)
    assert said == ""


def test_from_a_label_to_an_expert_to_a_token(page, server):
    """The journey through the analysis pages: every page draws, and the links between them keep what was chosen."""
    page.goto(f"{server.address}/specialization?layer=2")
    page.wait_for_selector(".js-plotly-plot:not(.st-key-rw_fetch_plotly *) .heatmaplayer image")
    page.locator(".rw-table .rw-expert a").first.click()
    page.wait_for_selector(".rw-card-head")
    comes_to("2", lambda: choice(page, "layer"))
    expert = choice(page, "expert")
    wait_until(lambda: f"Layer 2 · expert {expert}" in page.inner_text(".rw-card-head"))
    page.locator(".rw-table td .rw-context").first.wait_for()
    page.locator('.rw-table a[href*="sequence="]').first.click()
    page.wait_for_selector(TOKEN)
    comes_to(("2", expert), lambda: (choice(page, "layer"), choice(page, "expert")))
    wait_until(lambda: selected(page).count() == 1)
    assert page.errors == []


@pytest.mark.parametrize("name", ["uncertainty", "super_experts"])
def test_a_page_draws_and_asks_no_one_else(page, server, name):
    page.goto(f"{server.address}/{name}")
    page.wait_for_selector(".rw-title")
    page.wait_for_selector(".rw-note, .js-plotly-plot:not(.st-key-rw_fetch_plotly *) .main-svg")
    strangers = [url for url in page.requests if not url.startswith((server.address, "data:", "blob:"))]
    assert strangers == []
    assert page.errors == []
