"""A link leads to its page, also where the request got lost on the way."""

import pytest

from tests.browser.conftest import comes_to, wait_until

pytestmark = pytest.mark.browser
LOST, SETTLED_MS = 2, 1500
AGAIN = 3  # as often, at most, a request is repeated: also on a busy machine, where the answer takes its time


@pytest.fixture
def asked(page):
    """Who spoke, in order ("browser", "server"), and how many of the browser's next messages get lost."""
    told, lost = [], [0]

    def between(socket):
        server = socket.connect_to_server()

        def pass_on(message):
            told.append("browser")
            if lost[0]:
                lost[0] -= 1
            else:
                server.send(message)

        def pass_back(message):
            told.append("server")
            socket.send(message)

        socket.on_message(pass_on)
        server.on_message(pass_back)

    page.route_web_socket("**/_stcore/stream", between)
    return told, lost


def come_to_rest(page, server):
    page.goto(f"{server.address}/sql")
    wait_until(lambda: page.evaluate("document.routerWorkbenchPages"))
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")


@pytest.mark.parametrize("n_lost", [0, LOST])
def test_a_link_leads_to_its_page(page, server, asked, n_lost):
    told, lost = asked
    come_to_rest(page, server)
    told.clear()
    lost[0] = n_lost
    page.get_by_role("link", name="Tokens").click()
    page.wait_for_selector(".strip .token")
    assert page.evaluate("location.pathname") == "/tokens"
    page.wait_for_timeout(SETTLED_MS)
    asked_first = told.index("server")  # a busy server is asked again, but never once it has answered
    assert n_lost + 1 <= asked_first <= AGAIN + 1
    assert "browser" not in told[asked_first:]
    assert page.errors == []


def test_who_turns_elsewhere_is_not_taken_back(page, server, asked):
    _, lost = asked
    come_to_rest(page, server)
    lost[0] = 1
    page.get_by_role("link", name="Tokens").click()
    page.get_by_role("link", name="Record").click()
    comes_to("/record", lambda: page.evaluate("location.pathname"))
    page.wait_for_timeout(SETTLED_MS)
    assert page.evaluate("location.pathname") == "/record"
